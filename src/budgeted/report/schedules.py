"""Schedules as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.schedule import Schedule
from .style import figure, look

_GRID = [k / 1000 for k in range(1001)]


def draw_schedules(
    schedules: Sequence[tuple[str, Schedule]], path: Path, budgets: Sequence[tuple[str, float]] = ()
) -> None:
    """Plot factors over progress, one line a schedule; beside it one of them at each of some budgets (the paper's figure 2).

    Args:
        schedules: with their names.
        path: its ending names the format.
        budgets: with their lengths, over which `linear`, or else the first schedule, is drawn; none, no second plot.
    """
    height = max(3.6, 0.2 * len(schedules) + 0.7)  # as high as its legend
    with figure(path, 10.0 if budgets else 6.4, height) as drawn:
        over_p, *over_budgets = drawn.subplots(1, 2 if budgets else 1, squeeze=False)[0]
        for number, (name, schedule) in enumerate(schedules):
            over_p.plot(_GRID, [schedule(p) for p in _GRID], label=name, **look(number, markers=False))
        over_p.set(xlabel="progress through the budget", ylabel="learning rate / base rate", xlim=(0, 1))
        for axes in over_budgets:
            chosen, schedule = next((pair for pair in schedules if pair[0] == "linear"), schedules[0])
            for number, (name, length) in enumerate(budgets):
                axes.plot(
                    [p * length for p in _GRID], [schedule(p) for p in _GRID], label=name, **look(number, markers=False)
                )
            axes.set(
                xlabel="share of the full budget",
                title=f"{chosen} at each budget",
                xlim=(0, max(x for _, x in budgets)),
            )
        for axes in (over_p, *over_budgets):
            axes.set_ylim(bottom=0)
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
