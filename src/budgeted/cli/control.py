"""`budgeted extend` and `budgeted stop`: another budget for a run that is training now."""

from __future__ import annotations

from pathlib import Path

import click

from ..core.budget import Budget
from ..core.control import ask
from ..core.errors import BudgetedError
from ..core.record import RunFolder
from ..core.spec import schedule as read_schedule


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--by", help="What its budget is to have more: 1h, 5ep.")
@click.option("--to", help="Or the new budget, longer or shorter: '2h or 20ep'.")
@click.option("--wait", default=10.0, show_default=True, metavar="SECONDS", help="How long to wait for its answer.")
def extend(run: Path, by: str | None, to: str | None, wait: float) -> None:
    """Give the training RUN a longer budget: its decay bends from where it is to the new end.

    \b
    budgeted extend runs/cifar10-0123456789 --by 1h
    budgeted extend runs/cifar10-0123456789 --to "until 18:00"
    """
    if (by is None) == (to is None):
        raise BudgetedError("give either --by, what the budget is to have more, or --to, the new budget")
    Budget.parse(by if by is not None else str(to))  # what cannot be read is refused here
    click.echo(ask(RunFolder.open(run).path, "extend", {"by": by, "to": to}, wait=wait))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--in", "more", required=True, help="How long it is still to train: 5min, 500 steps.")
@click.option(
    "--cooldown", help="The shape that brings its rate down.  [default: linear if its schedule would not end low]"
)
@click.option("--wait", default=10.0, show_default=True, metavar="SECONDS", help="How long to wait for its answer.")
def stop(run: Path, more: str, cooldown: str | None, wait: float) -> None:
    """Have the training RUN end soon, with its rate brought down over the time that is left to it.

    \b
    budgeted stop runs/cifar10-0123456789 --in 5min
    budgeted stop runs/cifar10-0123456789 --in "500 steps" --cooldown cosine
    """
    Budget.parse(more)
    if cooldown is not None:
        read_schedule(cooldown)
    click.echo(ask(RunFolder.open(run).path, "stop", {"in": more, "cooldown": cooldown}, wait=wait))
