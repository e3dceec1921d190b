"""Schedules as a table of factors, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.schedule import Schedule
from .style import COLOURS, DASHES, figure


def draw_schedules(schedules: Sequence[tuple[str, Schedule]], path: Path) -> None:
    """Plot factors over progress, one line a schedule, in the format that the path's ending names."""
    grid = [k / 1000 for k in range(1001)]
    with figure(path, height=max(3.6, 0.2 * len(schedules) + 0.7)) as drawn:  # as high as its legend
        axes = drawn.subplots()
        for number, (name, schedule) in enumerate(schedules):
            colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
            axes.plot(grid, [schedule(p) for p in grid], label=name, color=colour, linestyle=dashes)
        axes.set(xlabel="progress through the budget", ylabel="learning rate / base rate", xlim=(0, 1))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
