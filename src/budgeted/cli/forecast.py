"""`budgeted forecast`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.budget import Budget
from ..core.errors import StudyError

if TYPE_CHECKING:
    from ..analysis.forecast import Forecast
    from ..core.manifest import Manifest
    from ..report.forecast import Answer


@click.command()
@click.argument("path", default="runs", metavar="[STUDY]", type=click.Path(path_type=Path))
@click.option("--target", type=float, help="A value of the metric: what budget does it take?")
@click.option("--budget", help="A budget: what will the metric be?  2h, 20ep, '5000 steps', 50%")
@click.option("--row", help="Whose curve.  [default: linear, or else the best row at the largest budget]")
@click.option("--task", help="Of a study of several tasks, which.")
@click.option("--level", type=float, default=0.9, show_default=True, help="How often the interval is to hold.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="The figure.  [default: forecast.png in the study's folder]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def forecast(
    path: Path,
    target: float | None,
    budget: str | None,
    row: str | None,
    task: str | None,
    level: float,
    plot: Path | None,
    as_json: bool,
) -> None:
    """How much is enough? Forecast a metric from a study's runs at small budgets.

    STUDY is a study's folder, or a folder of runs. The curve over budgets is fitted to runs that each had their own full decay.
    It is tried on budgets held out, which say how wide an interval must be and how far out it holds; beyond that, nothing is
    forecast. Without --target or --budget, the curve is printed.

    \b
    budgeted forecast runs/studies/table2-fashion-mnist --target 0.92
    budgeted forecast runs/studies/table2-fashion-mnist --budget 50%
    """
    if target is not None and budget is not None:
        raise StudyError("--target asks for a budget and --budget for a value; give one of them")
    wanted = None if budget is None else Budget.parse(budget)

    from ..analysis import forecast as numbers
    from ..analysis import results
    from ..report import forecast as report

    manifest = _study(path)
    runs = results.runs_of(manifest)
    found = numbers.forecast(manifest, runs, task=task, row=row, level=level)
    answer: Answer | None = None
    if target is not None:
        answer = found.needed(target)
    elif wanted is not None:
        answer = found.at(found.pace.steps(wanted))
    file = _figure(manifest, plot)
    report.draw(found, file, answer, report.best_of_all(manifest, runs, found))
    if as_json:
        click.echo(json.dumps({**report.plain(found, answer), "figure": str(file)}))
        return
    _print(found, answer)
    click.echo(f"\n{file}")


def _study(path: Path) -> Manifest:
    """The study that a folder is or has; a folder of runs without one is a study of its schedules."""
    from ..core.manifest import Manifest

    if (path / "study.json").exists():
        return Manifest.read(path)
    if not path.is_dir():
        raise StudyError(f"there is no folder '{path}'; name a study's, or the one that runs are in")
    below = Manifest.all_below(path) or [Manifest.read(file.parent) for file in sorted(path.glob("*/study.json"))]
    if len(below) > 1:
        raise StudyError(f"'{path}' has {len(below)} studies; name one: {', '.join(str(one.path) for one in below)}")
    if below:
        return below[0]
    from ..analysis.results import loose

    return loose(path)


def _figure(manifest: Manifest, plot: Path | None) -> Path:
    """Where the figure goes; the folder of a study that is made up is made."""
    from ..core.record import explained

    file = manifest.path / "forecast.png" if plot is None else plot
    with explained(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _print(found: Forecast, answer: Answer | None) -> None:
    from rich.console import Console

    from ..report import forecast as report
    from .report import width

    console = Console(width=width())
    console.print(f"\n{report.title(found)}", style="bold", markup=False, highlight=False)
    if answer is None:
        console.print(report.table(found))
    for sentence in report.sentences(found, answer):
        console.print(sentence, markup=False, highlight=False)
