"""`budgeted report`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..core.errors import BudgetedError, StudyError
from ..core.text import nearest

if TYPE_CHECKING:
    from ..core.manifest import Manifest

_FORMATS = ("md", "csv", "tex", "png", "svg", "html")
_WIDTH = 120  # where the output is no terminal


@click.command()
@click.argument("path", default="runs", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Where the files go.  [default: the study's folder]")
@click.option("--formats", help="Some of md,csv,tex,png,svg,html; 'none' prints the table only.  [default: all]")
def report(path: Path, out: Path | None, formats: str | None) -> None:
    """Turn runs into tables, figures and a page.

    PATH is a folder of runs, for all of its studies, or one study's folder. A folder that holds runs and no study is
    reported as one table of schedules by budgets. Tables of studies that are not finished are marked as partial.

    \b
    budgeted report runs
    budgeted report runs/studies/table2-digits --formats md,tex
    """
    from ..core.manifest import FOLDER, Manifest

    chosen = chosen_formats(formats)
    if (path / "study.json").exists():
        found = [Manifest.read(path)]
    elif not path.is_dir():
        raise StudyError(f"there is no folder '{path}'; name the one that runs are in, or a study's own")
    elif not (found := Manifest.all_below(path)):
        from ..analysis.results import loose

        found = [loose(path)]
    if out is not None and len(found) > 1:
        raise StudyError(
            f"'{path}' has {len(found)} studies, whose files would overwrite each other in --out; name one of {path / FOLDER}"
        )
    report_on(found, out, chosen)


def chosen_formats(formats: str | None, known: Sequence[str] = _FORMATS) -> Sequence[str]:
    """The formats that a list names; all of them without one.

    Raises:
        BudgetedError: for one that is not known.
    """
    if formats is None:
        return known
    chosen = (
        [] if formats == "none" else [part.strip().removeprefix(".") for part in formats.split(",") if part.strip()]
    )
    for each in chosen:
        if each not in known:
            raise BudgetedError(
                f"--formats '{each}' is unknown{nearest(each, known) or ';'} they are {', '.join(known)}"
            )
    return chosen


def report_on(found: Sequence[Manifest], out: Path | None, formats: Sequence[str] = _FORMATS) -> None:
    """Print and write the reports of some studies."""
    from rich.console import Console

    from ..report.study import Report

    console = Console(width=width())
    for manifest in found:
        made = Report(manifest)
        made.print(console)
        written = made.write(out or manifest.path, formats)
        if written:
            place = short(written[0].parent)
            click.echo(f"\n{place}: {', '.join(file.name for file in written)}")


def width() -> int | None:
    """Columns of what is printed: None for a terminal, which knows its own."""
    from rich.console import Console

    return None if Console().is_terminal else max(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)


def short(path: Path) -> Path:
    """From the folder that the user stands in, where it is below it."""
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(Path.cwd())
    return path
