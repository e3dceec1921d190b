"""A study under way: what each worker trains, how much is left, what failed. Quiet when nobody watches, but for failures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core.record import RunFolder, Spec
from ..core.text import format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

T = TypeVar("T")
_TAIL = 4096  # bytes at the end of a file of rows in which the last one is looked for
_QUIET = 60.0  # seconds between two lines where nobody watches


def watch(standings: Generator[Any, None, T], name: str, out: Path, *, shown: bool) -> tuple[T, int]:
    """Exhaust a study's standings, showing them as they come, and return what it returns, and how many runs failed.

    Args:
        standings: as `conduct` yields them.
        name: of the study.
        out: where its runs are.
        shown: whether to draw; else a line a minute, and one for each failure.
    """
    return _show(standings, name, out) if shown else _tell(standings, name)


def _tell(standings: Generator[Any, None, T], name: str) -> tuple[T, int]:
    told: set[str] = set()
    last = time.monotonic()
    standing = None
    while True:
        try:
            standing = next(standings)
        except StopIteration as end:
            if standing is not None:
                print(f"{name}: {_head(standing)}", file=sys.stderr, flush=True)
            return end.value, len(standing.failed) if standing is not None else 0
        for run, reason in standing.failed.items():
            if run not in told:
                told.add(run)
                print(f"failed: {run}: {reason}", file=sys.stderr, flush=True)
        if time.monotonic() - last > _QUIET:
            last = time.monotonic()
            print(f"{name}: {_head(standing)}", file=sys.stderr, flush=True)


def _show(standings: Generator[Any, None, T], name: str, out: Path) -> tuple[T, int]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    told: set[str] = set()
    standing = None
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            try:
                standing = next(standings)
            except StopIteration as end:
                value: T = end.value
                break
            for run, reason in standing.failed.items():
                if run not in told:
                    told.add(run)
                    console.print(f"failed: {run}: {reason}", style="red", markup=False, highlight=False)
            live.update(_picture(standing, name, out, console))
    if standing is not None:
        console.print(f"{name}: {_head(standing)}", markup=False, highlight=False)
    return value, len(standing.failed) if standing is not None else 0


def _picture(standing: Any, name: str, out: Path, console: Console) -> Table:
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    narrow = console.width < 90
    table = Table.grid(padding=(0, 1), expand=True)
    for ratio in (2, 3, 0):
        table.add_column(
            no_wrap=True, overflow="ellipsis", ratio=ratio or None, justify="right" if not ratio else "left"
        )
    progress = _Progress(standing, out)
    left = progress.seconds_left()
    wait = f"{format_seconds(left)} left" if left is not None else ""
    table.add_row(
        Text(name, style="bold"), ProgressBar(1.0, progress.share), Text(f"{_head(standing, narrow)}  {wait}")
    )
    for specs, row in progress.running:
        spec = specs[0]
        what = f"{spec.schedule}  {spec.budget}  seed {spec.seed}" + (
            f"  (+{len(specs) - 1})" if len(specs) > 1 else ""
        )
        table.add_row(Text(what), ProgressBar(1.0, row.get("spent", 0.0)), Text(_figures(row)))
    return table


def _head(standing: Any, narrow: bool = False) -> str:
    parts = [f"{standing.finished}/{standing.total}"] if narrow else [f"{standing.finished} of {standing.total} runs"]
    if standing.cached and not narrow:
        parts.append(f"{standing.cached} of them from before")
    if standing.failed:
        parts.append(f"{len(standing.failed)} failed")
    if standing.elsewhere:
        parts.append(f"{standing.elsewhere} trained by another process")
    return ", ".join(parts)


def _figures(row: dict[str, Any]) -> str:
    loss = row.get("loss")
    return f"loss {loss:.3f}" if isinstance(loss, float) else "setting up"


class _Progress:
    """How far the runs under way are, and what follows for the whole."""

    def __init__(self, standing: Any, out: Path) -> None:
        self.running: list[tuple[list[Spec], dict[str, Any]]] = []
        done = standing.updates - standing.updates_left
        for specs in standing.running:
            longest = max(specs, key=lambda spec: standing.weights[spec.name])
            row = last_row(out, longest)
            self.running.append((specs, row))
            length = standing.weights[longest.name]
            made = float(row.get("steps", 0)) if length > 1 else float(row.get("spent", 0.0))  # 1: a budget in time
            for spec in specs:
                done += min(made, standing.weights[spec.name])
        self._standing, self._done = standing, done
        self.share = done / standing.updates if standing.updates else 1.0

    def seconds_left(self) -> float | None:
        standing = self._standing
        made = self._done - standing.updates_before
        passed = time.monotonic() - standing.began
        if made <= 0 or passed < 1.0:
            return None
        return float((standing.updates - self._done) / made * passed)


def last_row(out: Path, spec: Spec) -> dict[str, Any]:
    """The last row of a run under way; empty where it has none yet."""
    folder = RunFolder.unfinished(out, spec, changed=False)
    if folder is None:
        return {}
    try:
        with open(folder.path / "rows.jsonl", "rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().split(b"\n")
        row = json.loads(lines[-2])
    except (OSError, ValueError, IndexError):
        return {}
    return row if isinstance(row, dict) else {}
