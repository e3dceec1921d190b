"""The live bar of a training run; quiet when nobody watches, but for what must be said."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator
from typing import Any

from ..core.errors import BudgetWarning
from ..core.record import Spec
from ..core.text import format_duration


def live(
    rows: Generator[dict[str, Any], None, dict[str, Any]], spec: Spec, metric: str, *, shown: bool
) -> dict[str, Any]:
    """Exhaust the rows, showing them as they come, and return the result."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", BudgetWarning)
        if not shown:
            _say_notes(lambda note: print(note, file=sys.stderr, flush=True))
            return _exhaust(rows)
        return _show(rows, spec, metric)


def _exhaust(rows: Generator[dict[str, Any], None, dict[str, Any]]) -> dict[str, Any]:
    while True:
        try:
            next(rows)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def _show(rows: Generator[dict[str, Any], None, dict[str, Any]], spec: Spec, metric: str) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    _say_notes(lambda note: console.print(note, markup=False, highlight=False))
    narrow, name = console.width < 100, spec.task.rpartition("/")[2]
    title = name[: console.width // 4] if narrow else f"{name} {spec.budget}"
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        watched = bar.add_task(title, total=1.0, figures="setting up")
        best = ""
        while True:
            try:
                row = next(rows)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if metric in row and console.width >= 60:
                best = f"  {metric} {row[metric]:.4f}"
            figures = _figures(row, narrow=narrow) + best
            bar.update(watched, completed=row["spent"], figures=figures)


def _say_notes(say: Callable[[str], None]) -> None:
    """Have what a run warns of said in a sentence, without the line of code that said it."""
    as_before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, BudgetWarning):
            say(f"note: {message}")
        else:
            as_before(message, category, *where, **more)

    warnings.showwarning = show


def _figures(row: dict[str, Any], *, narrow: bool) -> str:
    left = f"{format_duration(round(row['left']))} left" if row["left"] is not None else ""
    loss = f"  loss {row['loss']:.3f}" if row["loss"] is not None else ""
    if narrow:
        return left + loss
    return f"{left}  p {row['progress']:.3f}  rate x{row['factor']:.3f}{loss}"
