"""`budgeted budget`."""

from __future__ import annotations

import click

from ..core.budget import Budget, Cap, Terms
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
    known = [f"understood as: {parsed}"]
    if task_name is not None:
        from pathlib import Path

        import torch

        from ..tasks.registry import load

        task = load(task_name)
        full = Budget.parse(task.full_budget)
        if steps_per_epoch is None:
            found = task.data(Path(data) if data else None, torch.device("cpu"))
            steps_per_epoch = len(found.train)
        known.append(f"full budget of {task_name}: {full}; an epoch is {steps_per_epoch} updates")
    click.echo("\n".join(known))
    for limit in parsed.limits:
        needs_task = str(limit).endswith(("%", "ep")) and steps_per_epoch is None
        if needs_task:
            click.echo(f"  {limit}: known once the task is; give --task or --steps-per-epoch")
            continue
        for cap in limit.caps(Terms(steps_per_epoch, full)):
            click.echo(f"  {limit}: {_explain(cap)}")
    if len(parsed.limits) > 1:
        click.echo("the first of them that is reached ends the run, and the one that is nearest drives the rate")


def _explain(cap: Cap) -> str:
    if cap.resource == "seconds":
        return f"{format_duration(round(cap.amount, 3))} of running time"
    if cap.resource == "clock":
        import datetime as dt

        moment = dt.datetime.fromtimestamp(cap.amount).astimezone()
        left = (moment - dt.datetime.now(dt.UTC)).total_seconds()
        return f"until {moment:%Y-%m-%d %H:%M:%S %Z}, {format_duration(round(left))} from now"
    name = {"steps": "updates", "flops": "FLOP", "joules": "J"}.get(cap.resource, cap.resource)
    return f"{format_number(cap.amount)} {name}"
