"""`budgeted schedule`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..core.convert import convert
from ..core.errors import ScheduleError
from ..core.schedule import Plateau, Schedule
from ..core.spec import BEYOND, PAPER
from ..core.spec import schedule as read


@click.command()
@click.argument("names", nargs=-1)
@click.option("--at", default="0,0.25,0.5,0.75,1", show_default=True, help="Progress values, 0 to 1.")
@click.option("--json", "as_json", is_flag=True, help="Print the factors by name as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the curves into a file, .png or .svg.")
@click.option(
    "--convert",
    "module",
    metavar="MODULE:NAME",
    help="Convert a function f(t) or a framework's schedule object of your own, and treat it like the names.",
)
@click.option("--horizon", type=float, help="With --convert: the steps or epochs that it was written for.")
@click.option("--base", type=float, help="With --convert: the base rate, where the object gives rates.")
def schedule(
    names: tuple[str, ...],
    at: str,
    as_json: bool,
    plot: Path | None,
    module: str | None,
    horizon: float | None,
    base: float | None,
) -> None:
    """List, evaluate, plot or convert schedules: factors of the base rate over progress.

    Without NAMES, list the known ones. A name may carry arguments: "poly(0.8)", "warmup(5%, cosine)".

    \b
    budgeted schedule linear "step(2/3, 8/9)" --at 0,0.5,1 --json
    budgeted schedule linear poly cosine step-d2 --plot schedules.png
    budgeted schedule --convert mine.py:warm_cosine --horizon 90
    """
    chosen = [(name, _pure(name)) for name in names]
    if module is not None:
        from ..core.loading import load_object

        chosen.append((module, convert(load_object(module), horizon, base=base)))
    if not chosen:
        chosen = [(name, read(name)) for name in (*PAPER, *BEYOND) if name != "plateau"]  # type: ignore[misc]
    points = _points(at)
    factors = {name: [one(p) for p in points] for name, one in chosen}
    if plot is not None:
        from ..report.schedules import draw_schedules

        draw_schedules(chosen, plot)
        click.echo(f"drew {plot}", err=True)
    if as_json:
        click.echo(json.dumps(factors))
    elif plot is None:
        _print(points, factors)


def _pure(name: str) -> Schedule:
    found = read(name)
    if isinstance(found, Plateau):
        raise ScheduleError(f"'{name}' follows the metric, not progress: it has no curve to print")
    return found


def _points(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ScheduleError(f"--at '{text}': write progress values from 0 to 1, for example 0,0.5,1") from None


def _print(points: list[float], factors: dict[str, list[float]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("schedule", no_wrap=True), *[f"p = {p:g}" for p in points], box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in factors.items():
        table.add_row(name, *[f"{value:.4g}" for value in values])
    Console().print(table)
