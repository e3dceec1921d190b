"""`budgeted budget`."""

from __future__ import annotations

import datetime as dt
import shutil
import sys
import textwrap

import click

from ..core.budget import Amount, Budget, Cap, Deadline, Limit, Money, Terms
from ..core.errors import BudgetError
from ..core.text import format_duration, format_number


@click.command()
@click.argument("text")
@click.option("--task", "task_name", help="Say what the budget comes to for a task.")
@click.option("--data", type=click.Path(), envvar="BUDGETED_DATA", help="Folder with the data sets.")
@click.option("--steps-per-epoch", type=click.IntRange(1), help="Updates in an epoch, instead of a task's.")
def budget(text: str, task_name: str | None, data: str | None, steps_per_epoch: int | None) -> None:
    """Explain how the budget TEXT is understood, and what it comes to for a task.

    \b
    budgeted budget "45min or 10ep"
    budgeted budget 5% --task digits
    """
    parsed = Budget.parse(text)
    full = None
    lines = [f"understood as: {parsed}"]
    if task_name is not None:
        from pathlib import Path

        import torch

        from ..tasks.registry import load

        task = load(task_name)
        full = Budget.parse(task.full_budget)
        if steps_per_epoch is None:
            found = task.data(Path(data) if data else None, torch.device("cpu"))
            steps_per_epoch = len(found.train)
        lines.append(f"full budget of {task_name}: {full}; an epoch is {steps_per_epoch} updates")
    for limit in parsed.limits:
        needs_task = str(limit).endswith(("%", "ep")) and steps_per_epoch is None
        if needs_task:
            lines.append(f"  {limit}: known once the task is; give --task or --steps-per-epoch")
            continue
        for cap in limit.caps(Terms(steps_per_epoch, full)):
            lines.append(f"  {limit}: {_explain(limit, cap)}")
    if len(parsed.limits) > 1:
        lines.append("the first of them that is reached ends the run, and the one that is nearest drives the rate")
    click.echo("\n".join(map(_fitted, lines)))


def _fitted(line: str) -> str:
    """The line within the width of a terminal; as it is where something else reads it."""
    if not sys.stdout.isatty():
        return line
    width = shutil.get_terminal_size().columns
    return textwrap.fill(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _explain(limit: Limit, cap: Cap) -> str:
    match limit:
        case Amount(hours, "gpuh"):
            shared = [f"{_seconds(hours * 3600 / devices)} on {devices}" for devices in (2, 4, 8)]
            return f"{_seconds(cap.amount)} of running time on one device, {', '.join(shared)}"
        case Money():
            return f"buys {_seconds(cap.amount)} of running time"
        case Deadline():
            oddity = limit.oddity(dt.datetime.now(dt.UTC))
            return _explain_cap(cap) + (f"; {oddity}" if oddity else "")
    return _explain_cap(cap)


def _explain_cap(cap: Cap) -> str:
    number = format_number(cap.amount)
    match cap.resource:
        case "seconds":
            return f"{_seconds(cap.amount)} of running time"
        case "clock":
            moment = dt.datetime.fromtimestamp(cap.amount, dt.UTC).astimezone()
            left = (moment - dt.datetime.now(dt.UTC)).total_seconds()
            return f"until {moment:%Y-%m-%d %H:%M:%S %Z}, {_seconds(round(left))} from now"
        case "flops":
            return (
                f"{number} floating-point operations, counted on the real update, once for each shape of batch; "
                f"{_seconds(cap.amount / 1e12)} at a steady 1 TFLOP/s"
            )
        case "joules":
            return (
                f"{number} J by the device's own counter; {_seconds(cap.amount / 300)} at a steady 300 W. {_counter()}"
            )
        case "steps":
            return f"{number} updates"
    return f"{number} {cap.resource}"


def _seconds(amount: float) -> str:
    return format_duration(round(amount, 3))


def _counter() -> str:
    """Whether the device that a run here would take has a counter of energy."""
    from ..train.energy import meter

    try:
        import torch

        meter(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    except ModuleNotFoundError:
        return "Whether this machine has one is known once PyTorch is installed"
    except BudgetError as error:
        return f"Here {error}"
    return "This machine has one"
