"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

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
