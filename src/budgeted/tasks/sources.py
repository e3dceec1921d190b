"""Where data sets are found: `--data` or BUDGETED_DATA, else downloaded by torchvision, else a sentence says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.errors import TaskError


def find(root: Path | None, folder: str, download: Callable[[str], object], what: str) -> Path:
    """The folder of a data set under `root`, downloaded into it where there is a network.

    Raises:
        TaskError: where it is neither there nor to be had.
    """
    home = root or Path.home() / ".cache" / "budgeted"
    path = home / folder
    if path.is_dir():
        return path
    try:
        home.mkdir(parents=True, exist_ok=True)
        download(str(home))
    except Exception as error:  # whatever torchvision and the network come up with
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise TaskError(
            f"{what} is not in '{path}' and could not be downloaded ({reason}); "
            f"put it there, or name the folder that holds '{folder}' with --data or BUDGETED_DATA"
        ) from None
    return path


def damaged(path: Path, why: str) -> TaskError:
    return TaskError(f"'{path}' is damaged: {why}; remove it and get the data set again")
