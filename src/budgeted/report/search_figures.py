"""A search's figures: figures against the rungs' budgets; how far rungs agree with the truth, and what choices cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..analysis.search import Agreement, Choice
from .style import COLOURS, figure, look

_DROPPED = "#b8b8b8"


def draw_search(content: Mapping[str, Any], path: Path) -> None:
    """A panel for each strategy, a line for each configuration; those that came to the last rung have colours.

    The worse half of the first rung is below the frame.
    """
    climbs = content["climbs"]
    with figure(path, 4.6 * len(climbs) + 1.0, 4.0) as drawn:
        panels = drawn.subplots(1, len(climbs), squeeze=False, sharey=True)[0]
        for axes, climb in zip(panels, climbs, strict=True):
            _draw_climb(axes, climb)
            _budget_axis(axes, content)
            axes.set_title(climb["strategy"], fontsize=9)
        low, high = _frame(content)
        panels[0].set_ylim(low, high)
        panels[0].set_ylabel(f"{content['task']['metric']}, {content['search']['value']}")
        drawn.supxlabel("grey: not on the last rung; the worse half of the first rung is out of the frame", fontsize=7)


def _draw_climb(axes: Any, climb: Mapping[str, Any]) -> None:
    survivors = list(climb["rungs"][-1]["figures"])
    coloured = 0
    for label in climb["rungs"][0]["figures"]:
        points = [(r["updates"], f) for r in climb["rungs"] if (f := r["figures"].get(label)) is not None]
        if not points:
            continue
        if label not in survivors:
            axes.plot(*zip(*points, strict=True), color=_DROPPED, marker=".", linewidth=0.8, zorder=1)
            continue
        won = label == climb["winner"]
        name = f"{label}{' (chosen)' if won else ''}"
        axes.plot(
            *zip(*points, strict=True), label=name, zorder=3, **(look(coloured) | {"linewidth": 2.4 if won else 1.4})
        )
        coloured += 1
    axes.legend(loc="lower right", fontsize=6)


def _frame(content: Mapping[str, Any]) -> tuple[float, float]:
    """What the axis shows: all from the best down to the middle of the lowest rung, for the worst ones would press the rest flat."""
    sign = 1.0 if content["task"]["maximize"] else -1.0
    rungs = [rung for climb in content["climbs"] for rung in climb["rungs"]]
    there = [sign * f for rung in rungs for f in rung["figures"].values() if f is not None]
    lowest = [
        sign * f
        for rung in rungs
        for f in rung["figures"].values()
        if f is not None and rung["budget"] == content["budgets"][0]
    ]
    best, middle = max(there), statistics.median(lowest)
    margin = 0.05 * (best - middle) or 0.01
    low, high = sorted((sign * (middle - margin), sign * (best + margin)))
    return low, high


def _budget_axis(axes: Any, content: Mapping[str, Any]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(content["updates"], content["budgets"])
    axes.minorticks_off()
    axes.set_xlabel("budget of the rung")


def draw_comparison(
    content: Mapping[str, Any], agreements: Sequence[Agreement], choices: Sequence[Choice], path: Path
) -> None:
    """Kendall's tau against the rungs' budgets, and regret against what was spent."""
    full = content["updates"][-1]
    with figure(path, 9.6, 3.6) as drawn:
        taus, regrets = drawn.subplots(1, 2)
        for number, strategy in enumerate(dict.fromkeys(a.strategy for a in agreements)):
            of_it, shift = [a for a in agreements if a.strategy == strategy], math.exp(0.03 * (number - 1))
            xs, middle = [a.updates * shift for a in of_it], [a.tau for a in of_it]
            ranges = [[abs(a.tau - a.interval[end]) for a in of_it] for end in (0, 1)]
            taus.plot(xs, middle, label=strategy, **look(number))
            taus.errorbar(xs, middle, ranges, fmt="none", ecolor=COLOURS[number], elinewidth=0.9)
        _budget_axis(taus, content)
        taus.set_ylabel("Kendall's tau with the truth")
        taus.legend(loc="lower right")
        for number, choice in enumerate(choices):
            if not math.isfinite(choice.mean_regret):
                continue
            low, high = ([abs(choice.mean_regret - end)] for end in choice.interval)
            point = {key: value for key, value in look(number).items() if key != "linestyle"}
            x = choice.spent / full
            regrets.errorbar([x], [choice.mean_regret], [low, high], label=choice.strategy, linestyle="none", **point)
            regrets.plot([x], [choice.regret], marker="x", color=point["color"], markersize=7)
        regrets.set_xlabel("spent, in full runs")
        regrets.set_ylabel(f"regret, in {content['task']['metric']}")
        regrets.set_title("dots: mean over halves of the configurations; crosses: all of them", fontsize=8)
        regrets.legend()
