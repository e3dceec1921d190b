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

# Of the commands that train many runs.
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
