"""`budgeted tasks`."""

from __future__ import annotations

import click


@click.command()
def tasks() -> None:
    """List the tasks: their full budgets, schedules and metrics.

    A task of your own is named by file or module: path/to/file.py:Name or module:Name.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    from ..tasks import registry

    table = Table(Column("task", no_wrap=True), "full budget", "off the shelf", "metric", "what", box=SIMPLE_HEAD)
    for name in registry.OURS:
        task = registry.load(name)
        table.add_row(name, task.full_budget, task.off_the_shelf, task.metric, task.summary)
    Console().print(table)
