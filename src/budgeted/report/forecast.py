"""A forecast for people: the answer in sentences, the curve as a table and a figure; for programs, as a dict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..analysis.forecast import Expected, Forecast, Needed
from ..analysis.tables import frontier, tables_of
from ..core.text import format_duration, format_seconds
from .style import COLOURS, figure

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from ..core.manifest import Manifest

Answer = Expected | Needed
_BEYOND = 3  # budgets of the table that were not trained


def title(found: Forecast) -> str:
    """Of what the forecast is."""
    what = "best" if found.value == "best" else "final"
    return f"{found.task}: {what} {found.metric} of row '{found.row}' over budgets"


def sentences(found: Forecast, answer: Answer | None) -> Iterator[str]:
    """The answer, on what it rests, and what is to be kept in mind."""
    if isinstance(answer, Needed):
        yield from _needed(found, answer)
    elif isinstance(answer, Expected):
        yield (
            f"{amount(found, answer.steps)} buy {found.metric} {_number(answer.centre)} "
            f"({found.level:.0%} interval {_number(answer.low)} to {_number(answer.high)})."
        )
        yield _where(found, answer.steps)
    shares = ", ".join(f"{name} {weight:.0%}" for name, _, weight in found.families if weight >= 0.005)
    yield f"Curve: {found.families[0][0]} ({found.families[0][1]}) first; weights by held-out errors: {shares}."
    yield hit_rate(found)
    yield f"Forecasts are made up to {found.reach:.3g} times the largest budget: {amount(found, found.furthest)}."
    if "seconds" in found.pace.spent:
        yield f"Times are at the pace of these runs, {_rate(found.pace.spent['seconds'])} an update."
    yield from found.remarks


def _needed(found: Forecast, answer: Needed) -> Iterator[str]:
    wanted = f"{found.metric} {_number(answer.target)}"
    if answer.steps <= found.smallest:
        yield (
            f"{wanted} is reached at the smallest budget already ({amount(found, found.smallest)}), where "
            f"{_number(found.points[0].centre)} was measured; less may be enough."
        )
        return
    low = "less than the smallest budget" if answer.low is None else amount(found, answer.low)
    high = (
        f"more than {amount(found, found.furthest)}, the most that is forecast"
        if answer.high is None
        else amount(found, answer.high)
    )
    yield f"{wanted} takes {amount(found, answer.steps)}."
    yield f"{found.level:.0%} interval: {low}, to {high}."
    yield _where(found, answer.steps)


def _where(found: Forecast, steps: float) -> str:
    if steps <= found.largest * (1 + 1e-9):
        return "It lies within the measured budgets: interpolated."
    return f"That is {steps / found.largest:.3g} times the largest budget trained: extrapolated."


def hit_rate(found: Forecast) -> str:
    """How often held-out intervals hit, and how many there were."""
    tests = sum(hits.tests for hits in found.hits)
    by = f"{found.rows} rows, each by the others'" if found.rows > 1 else "one row, each budget by the others'"
    return f"Intervals of {found.level:.0%} hit held-out budgets {'; '.join(map(str, found.hits))}: {tests} backtests of {by} calibration."


def amount(found: Forecast, steps: float) -> str:
    """So many updates, in every unit that is known."""
    known = found.pace.amounts(steps)
    others = [f"{known['epochs']:.3g} epochs"] if "epochs" in known else []
    others += [f"{_share(known['share'])} of the full budget"] if "share" in known else []
    others += [format_seconds(known["seconds"])] if "seconds" in known else []
    return f"{steps:,.0f} updates" + (f" ({', '.join(others)})" if others else "")


def _share(share: float) -> str:
    return f"{100 * share:.3g}%" if share < 10 else f"{100 * share:,.0f}%"


def _name(found: Forecast, steps: float) -> str:
    """A budget that was not trained, in the unit that people know it by."""
    known = found.pace.amounts(steps)
    if "share" in known:
        return _share(known["share"])
    return f"{known['epochs']:.3g}ep" if "epochs" in known else f"{steps:,.0f} steps"


def _rate(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


def _rows(found: Forecast) -> Iterator[tuple[float, str, tuple[float, ...]]]:
    """Updates, name and measured values of each line of the table: the study's budgets, and some beyond."""
    for point in found.points:
        yield point.steps, point.budget, point.values
    if found.reach > 1:
        for steps in np.geomspace(found.largest, found.furthest, _BEYOND + 1)[1:]:
            yield float(steps), _name(found, float(steps)), ()


def table(found: Forecast) -> Table:
    """The fitted curve at the study's budgets, and at some beyond."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column
    from rich.table import Table as RichTable
    from rich.text import Text

    heads = ("budget", "updates", "time", "measured", "curve", f"{found.level:.0%} interval")
    drawn = RichTable(*(Column(head, justify="right", no_wrap=True) for head in heads), box=SIMPLE_HEAD)
    for steps, name, values in _rows(found):
        seconds = found.pace.amounts(steps).get("seconds")
        measured = "–"
        if values:
            spread = f" ({_number(min(values))}-{_number(max(values))})" if len(values) > 1 else ""
            measured = f"{_number(float(np.median(values)))}{spread}"
        at = found.at(steps)
        cells = (
            name,
            f"{steps:,.0f}",
            "–" if seconds is None else _time(seconds),
            measured,
            _number(at.centre),
            f"{_number(at.low)}-{_number(at.high)}",
        )
        drawn.add_row(*(Text(cell, style="" if values else "cyan") for cell in cells))
    return drawn


def _time(seconds: float) -> str:
    return format_duration(60 * round(seconds / 60)) if seconds >= 3600 else format_seconds(seconds)


def plain(found: Forecast, answer: Answer | None) -> dict[str, Any]:
    """The same for programs. Budgets are in updates, and in the units that are known."""
    given: dict[str, Any] | None = None
    if isinstance(answer, Needed):
        ends = [None if end is None else found.pace.amounts(end) for end in (answer.low, answer.high)]
        given = {"target": answer.target, "budget": found.pace.amounts(answer.steps), "low": ends[0], "high": ends[1]}
        given["at_smallest"] = answer.steps <= found.smallest
    elif isinstance(answer, Expected):
        given = {
            "budget": found.pace.amounts(answer.steps),
            found.metric: answer.centre,
            "low": answer.low,
            "high": answer.high,
        }
    curve = [(steps, name, values, found.at(steps)) for steps, name, values in _rows(found)]
    return {
        "task": found.task, "row": found.row, "metric": found.metric, "value": found.value, "level": found.level,
        "answer": given,
        "curve": [
            {"budget": name, **found.pace.amounts(steps), "measured": list(values), "expected": at.centre, "low": at.low, "high": at.high}
            for steps, name, values, at in curve
        ],
        "families": [{"name": name, "formula": formula, "weight": weight} for name, formula, weight in found.families],
        "hits": [
            {"ratio": [hits.least, hits.most], "hits": hits.hits, "backtests": hits.tests} for hits in found.hits
        ],
        "rows": found.rows, "reach": found.reach, "seconds_per_update": found.pace.spent.get("seconds"),
        "remarks": list(found.remarks),
    }  # fmt: skip


def best_of_all(manifest: Manifest, runs: pd.DataFrame, found: Forecast) -> list[tuple[float, float]]:
    """The efficient frontier of all rows of the task, by updates; empty where there is one row."""
    tables = [one for one in tables_of(manifest, runs) if one.task == found.task and one.value == found.value]
    if not tables or len(tables[0].rows) < 2:
        return []
    done = runs[(runs["task"] == found.task) & (runs["status"] == "finished")]
    steps = done.groupby("budget")["steps"].median()
    return sorted((float(steps[budget]), value) for budget, value in frontier(tables[0]))


def draw(found: Forecast, path: Path, answer: Answer | None = None, best: Sequence[tuple[float, float]] = ()) -> None:
    """Measured points and their spread, the curve with its interval as far as it is forecast, and the answer.

    Args:
        found: the forecast.
        path: the file; its ending names the format.
        answer: what is marked; None for nothing.
        best: points of the efficient frontier.
    """
    with figure(path, 7.2, 4.2) as drawn:
        axis = drawn.subplots()
        grid = found.grid()
        centre, low, high = found.band(grid)
        axis.fill_between(
            grid, low, high, color=COLOURS[0], alpha=0.18, linewidth=0, label=f"{found.level:.0%} interval"
        )
        inside = grid <= found.largest * (1 + 1e-9)
        axis.plot(grid[inside], centre[inside], color=COLOURS[0], label="fitted curve")
        axis.plot(grid[~inside], centre[~inside], color=COLOURS[0], linestyle="--")
        if best:
            axis.plot(
                *zip(*best, strict=True),
                color="#2a7d2a",
                linestyle=":",
                linewidth=2.2,
                label="efficient frontier of all rows",
            )
        steps = [point.steps for point in found.points]
        ranges = [[abs(end(p.values) - p.centre) for p in found.points] for end in (min, max)]
        axis.errorbar(steps, [p.centre for p in found.points], ranges, fmt="o", color="#222222", markersize=4.5, elinewidth=1,
                      capsize=2, label="measured: median and range")  # fmt: skip
        axis.set_xscale("log")
        axis.margins(y=0.12)
        end = found.furthest * (found.furthest / found.smallest) ** 0.1
        axis.set_xlim(found.smallest / 1.15, end)
        axis.axvspan(found.furthest, end, color="#eeeeee", zorder=0)
        axis.text(math.sqrt(found.furthest * end), 0.5, "not forecast", rotation=90, ha="center", va="center", fontsize=8,
                  color="#777777", transform=axis.get_xaxis_transform())  # fmt: skip
        _mark(axis, found, answer)
        _ticks(axis, found)
        axis.set_ylabel(f"{found.value} {found.metric}")
        axis.set_title(title(found), fontsize=10, loc="left")
        axis.legend(loc="lower right" if found.scale.maximize else "upper right", fontsize=8)


def _mark(axis: Any, found: Forecast, answer: Answer | None) -> None:
    """The answer: a star, and the interval as a bar along the axis that it is of."""
    if answer is None:
        return
    colour = COLOURS[1]
    if isinstance(answer, Expected):
        axis.plot([answer.steps] * 2, [answer.low, answer.high], color=colour, linewidth=2)
        at = (answer.steps, answer.centre)
        text = f"{_number(answer.centre)}\nat {answer.steps:,.0f} updates"
    else:
        level = answer.target
        axis.axhline(level, color=colour, linewidth=0.8, linestyle=":")
        ends = (answer.low or found.smallest, answer.high or found.furthest)
        axis.plot(ends, [level, level], color=colour, linewidth=2)
        at = (answer.steps, level)
        text = f"{_number(level)} takes\n{answer.steps:,.0f} updates"
    axis.plot(*at, marker="*", markersize=11, color=colour, zorder=5)
    axis.annotate(
        text,
        at,
        xytext=(-8, 10 if found.scale.maximize else -24),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=colour,
    )


def _ticks(axis: Any, found: Forecast) -> None:
    """The study's budgets by their names, where they do not stand too near to each other."""
    room = math.log(found.furthest / found.smallest) / 14
    places: list[float] = []
    names: list[str] = []
    for steps, name, values in _rows(found):
        if values and (not places or math.log(steps / places[-1]) > room):
            places.append(steps)
            names.append(f"{name}\n{steps:,.0f}")
    if found.reach > 1 and math.log(found.furthest / places[-1]) > room:
        places.append(found.furthest)
        names.append(f"{_name(found, found.furthest)}\n{found.furthest:,.0f}")
    axis.set_xticks(places, names)
    axis.minorticks_off()
    axis.set_xlabel("budget, and its updates")
