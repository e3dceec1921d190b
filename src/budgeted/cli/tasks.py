"""`budgeted tasks`."""

from __future__ import annotations

import click

_WIDE = 110  # columns from which a table's last one is not squeezed


@click.command()
def tasks() -> None:
    """List the tasks: their full budgets, schedules and metrics.

    Some can be scaled, as in 'imagenet(batch=32, crop=64)'. A task of your own is named by file or module: path/to/file.py:Name
    or module:Name.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    from ..tasks import registry

    console, loaded = Console(), [registry.load(name) for name in registry.OURS]
    if console.width < _WIDE:
        for task in loaded:
            console.print(task.name, style="bold", markup=False, highlight=False)
            facts = f"{task.full_budget}, {task.off_the_shelf}, {task.metric}"
            console.print(f"  {task.summary}\n  {facts}", markup=False, highlight=False)
        return
    table = Table(Column("task", no_wrap=True), "full budget", "off the shelf", "metric", "what", box=SIMPLE_HEAD)
    for task in loaded:
        table.add_row(task.name, task.full_budget, task.off_the_shelf, task.metric, task.summary)
    console.print(table)
