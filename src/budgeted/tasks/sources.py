"""Where data sets are found: `--data` or BUDGETED_DATA, else downloaded by torchvision, else a sentence says where."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..core.errors import TaskError


def home(root: Path | None) -> Path:
    """The folder with the data sets: the one that was given, or ours."""
    return root or Path.home() / ".cache" / "budgeted"


def existing(root: Path | None, folder: str, task: str) -> Path:
    """The folder of a data set that is not downloaded.

    Raises:
        TaskError: where it is not there.
    """
    path = home(root) / folder
    if not path.is_dir():
        raise TaskError(
            f"there is no folder '{path}'; --data or BUDGETED_DATA names the folder that holds '{folder}', and "
            f"{task}(folder=NAME) another one in it"
        )
    return path


def by_class(
    folder: Path, files: Callable[[Path], Iterable[str]], what: str, extensions: Iterable[str]
) -> dict[str, list[str]]:
    """The files in a folder for each class, both in the order of their names.

    Args:
        folder: that holds those of the classes.
        files: the paths of a class, by its folder.
        what: they are called.
        extensions: that they have.

    Raises:
        TaskError: for no class folder, or one without files.
    """
    try:
        classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise TaskError(f"cannot read '{folder}': {error.strerror}") from None
    if not classes:
        raise TaskError(f"'{folder}' has no folders; it is to hold one for each class, with {what} in it")
    found = {name: sorted(files(folder / name)) for name in classes}
    if empty := next((name for name, paths in found.items() if not paths), None):
        known = ", ".join(sorted(extensions))
        raise TaskError(f"class folder '{folder / empty}' has no {what} ({known}); fill it, or remove it")
    return found


def find(root: Path | None, folder: str, files: Sequence[str], download: Callable[[str], object], what: str) -> Path:
    """The folder of a data set under `root`, downloaded into it where there is a network.

    Raises:
        TaskError: where it is neither there nor to be had.
    """
    top = home(root)
    path = top / folder
    ours = [place for place in (path, path.parent, top) if not place.exists()]

    def missing() -> list[str]:
        return [name for name in files if not (path / name).is_file()]

    if not missing():
        return path
    try:
        top.mkdir(parents=True, exist_ok=True)
        download(str(top))
        why = f"{missing()[0]} is missing" if missing() else ""
    except Exception as error:  # whatever the network and the disk come up with
        why = str(error).partition("\n")[0].rstrip(": ") or type(error).__name__
    if why:
        for left_over in ours:
            with contextlib.suppress(OSError):
                left_over.rmdir()  # only where it is empty
        raise TaskError(
            f"{what} is not in '{path}' and could not be downloaded ({why}); "
            f"put it there, or name the folder that holds '{folder}' with --data or BUDGETED_DATA"
        )
    return path


def damaged(path: Path, why: str) -> TaskError:
    """The error for a file that is there but not as it should be."""
    return TaskError(f"'{path}' is damaged: {why}; remove it and get the data set again")
