"""Options that several commands have."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..core.errors import BudgetedError
from ..core.text import parse_duration

F = TypeVar("F", bound=Callable[..., Any])

out = click.option(
    "--out", default="runs", show_default=True, type=click.Path(path_type=Path), help="Where run folders go."
)
data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="BUDGETED_DATA",
    help="Folder with the data sets.  [env: BUDGETED_DATA]",
)
device = click.option("--device", help="cpu, cuda, cuda:1.  [default: the first GPU, or the CPU]")

# Of the commands that train many runs; `many_runs` is all of them together with those above.
jobs = click.option(
    "--jobs", type=click.IntRange(0), help="Runs side by side; 0: in this process.  [default: one a core or GPU]"
)
ray = click.option(
    "--ray", metavar="ADDRESS", help="Train on a Ray cluster: its address, 'auto', or 'local' to start one here."
)
gpus = click.option("--gpus", type=float, help="With --ray: GPUs of one run, such as 0.25.  [default: 0]")
save_every = click.option(
    "--save-every", default="1min", show_default=True, metavar="TIME", help="What a kill can cost a run."
)
keep = click.option(
    "--keep",
    type=click.Choice(["figures", "best", "all"]),
    default="figures",
    show_default=True,
    help="What stays of a finished run: figures; the best weights too; or checkpoints too.",
)
retry = click.option("--retry", is_flag=True, help="Try failed runs again.")


def many_runs(command: F) -> F:
    """Where and how runs are trained, and what stays of them."""
    for option in reversed((out, data, device, jobs, ray, gpus, save_every, keep)):
        command = option(command)
    return command


def seconds(option: str, text: str) -> float:
    """What an option that takes a time says, such as 30s.

    Raises:
        BudgetedError: where it is no time.
    """
    found = parse_duration(text)
    if found is None or found <= 0:
        raise BudgetedError(f"{option} '{text}' is not a time; write for example 30s or 5min")
    return found


def require_packages(names: Iterable[str], otherwise: str = "") -> None:
    """Say before anything is trained what the report at the end would lack.

    Args:
        names: of the packages, as they are imported.
        otherwise: what else the user may do.

    Raises:
        BudgetedError: where one is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise BudgetedError(
                f"the report needs {name}, which is not installed: pip install 'budgeted[study]'{otherwise}"
            )
