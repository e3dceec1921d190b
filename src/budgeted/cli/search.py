"""`budgeted search`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.text import file_name
from . import options
from .report import short, width
from .study import engine_for, read_seeds

if TYPE_CHECKING:
    from ..study.engine import Engine
    from ..study.search import Climb, Ladder
    from ..study.work import Options


@click.command()
@click.argument("name", required=False, metavar="[NAME|FILE.toml]")
@click.option(
    "--strategy",
    help="How rungs are trained: fitted, trunk or truncated.  [default: the search's]",
)
@click.option(
    "--compare", is_flag=True, help="Train everything by every strategy, and say how far rungs can be trusted."
)
@click.option("--task", help="Another task than the search's own.")
@click.option("--budget", help="Another largest budget.")
@click.option("--seeds", help="How many seeds, or which: 3, or '0,1,2'.  [default: the search's]")
@click.option("--name", "called", help="What the search's folder is called.  [default: NAME]")
@options.many_runs
@options.retry
@click.option("--dry-run", is_flag=True, help="Say what would be trained at most, and train nothing.")
def search(
    name: str | None,
    strategy: str | None,
    compare: bool,
    task: str | None,
    budget: str | None,
    seeds: str | None,
    called: str | None,
    out: Path,
    data: Path | None,
    device: str | None,
    jobs: int | None,
    ray: str | None,
    gpus: float | None,
    save_every: str,
    keep: str,
    retry: bool,
    dry_run: bool,
) -> None:
    """Look for the best of many configurations by successive halving, with rungs that are fair.

    NAME is one of those that are listed without it, or a TOML file. All configurations train on a small budget, the best of
    them on a larger one, and so on to the largest; each rung has a schedule fitted to its own budget. What is finished is not
    trained again, and the same command goes on after whatever stopped it. Afterwards who went on, who won, and the command
    that trains it are printed, and tables and figures are written to OUT/searches/NAME.

    \b
    budgeted search digits
    budgeted search mine.toml --strategy trunk --jobs 4
    budgeted search digits --compare
    """
    from ..study.space import built_in, read_search

    if name is None:
        for each, title in built_in().items():
            click.echo(f"  {each}  {title}")
        return
    seconds = options.seconds("--save-every", save_every)
    given = {"strategy": strategy, "task": task, "budget": budget, "seeds": tuple(read_seeds(seeds)) or None}
    wanted = replace(read_search(name), **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    wanted = replace(wanted, name=file_name(called or wanted.name))
    options.require_packages(("numpy", "scipy", "matplotlib"))
    from ..study.work import Options

    root = None if data is None else str(data.resolve())
    how = Options(str(out.resolve()), root, device, seconds, keep)  # type: ignore[arg-type]
    from ..study.search import FOLDER, find_ladder

    with engine_for(jobs, ray, gpus, device) as engine:
        ladder = find_ladder(wanted, engine, how)
        if dry_run:
            _say_what(ladder, compare=compare)
            return
        content = (_compare if compare else _search)(ladder, engine, how, out, retry)
    _report_on(content, out / FOLDER / wanted.name)


def _search(ladder: Ladder, engine: Engine, how: Options, out: Path, retry: bool) -> dict[str, Any]:
    from ..report.study_live import watch
    from ..study.search import Climb, write

    climb = Climb(ladder, ladder.search.strategy, engine, how)
    while not climb.over:
        watch(climb.conduct(retry=retry), climb.title, out, shown=sys.stderr.isatty())
    return write(ladder, [climb], None, out)


def _compare(ladder: Ladder, engine: Engine, how: Options, out: Path, retry: bool) -> dict[str, Any]:
    from ..report.study_live import watch
    from ..study.conduct import train_specs
    from ..study.search import Climb, compared, write
    from ..study.space import STRATEGIES

    facts = {ladder.search.task: ladder.facts}
    runs = train_specs(ladder.everything(), facts, engine, how, retry=retry)
    watch(runs, f"{ladder.search.name}, everything", out, shown=sys.stderr.isatty())
    climbs = [_climbed(Climb(ladder, strategy, engine, how)) for strategy in STRATEGIES]
    return write(ladder, climbs, compared(ladder, how), out)


def _climbed(climb: Climb) -> Climb:
    """One whose runs are all there."""
    while not climb.over:
        for _ in climb.conduct():
            pass
    return climb


def _say_what(ladder: Ladder, *, compare: bool) -> None:
    from ..study.search import foreseen

    specs = ladder.everything() if compare else foreseen(ladder, ladder.search.strategy)
    rungs = ", ".join(f"{budget} ({n} updates)" for budget, n in zip(ladder.budgets, ladder.updates, strict=True))
    full = ladder.updates[-1]
    cost = ladder.cost(specs)
    click.echo(
        f"{ladder.search.name}: {len(ladder.search.configurations)} configurations on rungs of {rungs}: {len(specs)} runs, "
        f"{cost:,} updates, {cost / full:.1f} full runs"
    )


def _report_on(content: Mapping[str, Any], folder: Path) -> None:
    from rich.console import Console

    from ..report.search import SearchReport

    report = SearchReport(content)
    report.print(Console(width=width()))
    written = [folder / "search.json", *report.write(folder)]
    click.echo(f"\n{short(folder)}: {', '.join(file.name for file in written)}")
