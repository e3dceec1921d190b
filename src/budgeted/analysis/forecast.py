"""How much is enough: the curve over budgets, each with its own full decay, and how far it may be trusted.

1. Of each row the medians over seeds, by updates, as gaps to the best possible value (`curves`). Every family is fitted.
2. Backtests, by a rolling origin (Tashman, "Out-of-sample tests of forecasting accuracy", 2000): each row is fitted on its first
   k >= 3 budgets, and later ones are predicted. Within the measured range, each budget between the ends is left out in turn.
3. The forecast is the mean of the families' (logarithms of) gaps, each weighted by the inverse square of its mean error in
   the backtests (Bates and Granger, "The Combination of Forecasts", 1969).
4. Its raw spread is what resampled seeds make of it (a bootstrap of the medians, put through one Gauss-Newton step), the
   families' disagreement, and the noise of a median. Backtests at a like ratio of budgets say by how much that is to be multiplied
   for the wanted level (split conformal prediction: Papadopoulos et al. 2002; Lei et al. 2018).
5. The hit rate is counted leaving out one row at a time: weights and factors come from the others. So far as the ratio to
   the largest fitted budget was tested, and the intervals hit, a forecast is made. Beyond, it is refused.

The interval is for the median over as many seeds as the study has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd

from ..core.errors import StudyError
from ..core.manifest import Manifest
from ..core.schedule import Plateau
from ..core.text import nearest
from .backtests import (
    ENOUGH,
    LEAST,
    LEAST_LEVEL,
    Calibration,
    Curves,
    Hits,
    Point,
    Scale,
    backtests,
    hit_rates,
)
from .curves import FAMILIES, Array
from .pace import Pace, pace_of
from .results import value_of

TOLERANCE = 0.1  # by which the share of hits may fall short of the level
_GRID = 400  # points by which a curve is drawn and turned round
_FAR = 1000.0


@final
@dataclass(frozen=True, slots=True)
class Expected:
    """The metric to expect of a budget: updates, the median, and its interval."""

    steps: float
    centre: float
    low: float
    high: float


@final
@dataclass(frozen=True, slots=True)
class Needed:
    """The budget that a target needs.

    Args:
        target: the value of the metric.
        steps: updates at which the curve is there.
        low, high: the interval's ends; None where the smallest budget may be enough, or where it may take more than may be
            forecast.
    """

    target: float
    steps: float
    low: float | None
    high: float | None


@final
@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """The curve of a row over budgets, and how far it holds.

    Args:
        task, metric, row, value: of what.
        level: of the intervals.
        points: what was measured, by rising budget.
        scale: of the metric.
        curves: the families fitted to the points.
        calibration: by the backtests of all rows.
        hits: how often held-out intervals hit, in the measured range and by rising ratio.
        rows: how many have backtests.
        reach: the ratio to the largest budget up to which a forecast is made.
        pace: of the row's runs.
        remarks: what is to be kept in mind.
    """

    task: str
    metric: str
    row: str
    value: str
    level: float
    points: tuple[Point, ...]
    scale: Scale
    curves: Curves
    calibration: Calibration
    hits: tuple[Hits, ...]
    rows: int
    reach: float
    pace: Pace
    remarks: tuple[str, ...]

    @property
    def smallest(self) -> float:
        return self.points[0].steps

    @property
    def largest(self) -> float:
        return self.points[-1].steps

    @property
    def furthest(self) -> float:
        """The updates up to which a forecast is made."""
        return self.largest * self.reach

    @property
    def families(self) -> list[tuple[str, str, float]]:
        """Name, formula and weight of each family, the heaviest first."""
        listed = [(f.name, f.formula, float(w)) for f, w in zip(FAMILIES, self.calibration.weights, strict=True)]
        return sorted(listed, key=lambda family: -family[2])

    def _band(self, steps: Array) -> tuple[Array, Array]:
        """Log gaps, and how far to either side their intervals go."""
        centre, spread = self.curves(np.log(steps)).combined(self.calibration.weights)
        return centre, spread * self.calibration.factor(steps / self.largest)

    def band(self, steps: Array) -> tuple[Array, Array, Array]:
        """The curve, the interval's lower and its upper end at some budgets, which may lie where no forecast is made."""
        centre, margin = self._band(steps)
        ends = np.sort([self.scale.value(centre - margin), self.scale.value(centre + margin)], axis=0)
        return self.scale.value(centre), ends[0], ends[1]

    def grid(self) -> Array:
        """Budgets from the smallest to the furthest, evenly over their logarithms."""
        return np.geomspace(self.smallest, self.furthest, _GRID)

    def at(self, steps: float) -> Expected:
        """The metric to expect of a budget.

        Raises:
            StudyError: below the smallest budget that was trained, and beyond what the backtests have shown to hold.
        """
        if steps < self.smallest * (1 - 1e-9):
            raise StudyError(
                f"{_updates(steps)} are less than the smallest budget of row '{self.row}' ({_updates(self.smallest)}), and this "
                "forecasts upwards only; train at such a budget"
            )
        if steps > self.furthest * (1 + 1e-9):
            raise StudyError(
                f"{_updates(steps)} are {steps / self.largest:.3g} times the largest budget: {self._refusal()}"
            )
        centre, low, high = self.band(np.array([steps]))
        return Expected(steps, float(centre[0]), float(low[0]), float(high[0]))

    def needed(self, target: float) -> Needed:
        """The budget that a value of the metric needs.

        Raises:
            StudyError: for a value that cannot be, that the curve does not come to, or to which it comes beyond what the
                backtests have shown to hold.
        """
        beyond = target > self.scale.bound if self.scale.maximize else target < self.scale.bound
        if beyond or not math.isfinite(target):
            raise StudyError(
                f"{self.metric} {target:g} is beyond the best possible, {self.scale.bound:g}; ask for one that can be"
            )
        goal, grid = float(self.scale.log_gap(target)), self.grid()
        centre, margin = self._band(grid)
        if centre[-1] > goal:
            raise StudyError(self._out_of_reach(target, goal))
        steps = _first(grid, centre, goal)
        assert steps is not None
        low = _first(grid, centre - margin, goal)
        high = _first(grid, centre + margin, goal)
        return Needed(target, steps, None if low is None or low <= self.smallest else low, high)

    def _out_of_reach(self, target: float, goal: float) -> str:
        end = self.at(self.furthest)
        far, _ = self.curves(np.log([self.largest * _FAR])).combined(self.calibration.weights)
        sentence = (
            f"{self.metric} {target:g} is not reached by {_updates(self.furthest)}, where {end.centre:.4g} is to be expected "
            f"({end.low:.4g} to {end.high:.4g})"
        )
        if far[0] > goal:
            return (
                f"{sentence}, and the curve does not come to it even at {_FAR:,.0f} times the largest budget: it takes another "
                "model, rate or schedule (--row), not more budget"
            )
        return f"{sentence}: {self._refusal()}"

    def _refusal(self) -> str:
        failed = next((hits for hits in self.hits if hits.most > self.reach), None)
        if failed is None:
            why = f"no held-out budget lies further than {self.reach:.3g} times beyond those fitted"
        elif failed.tests < ENOUGH:
            why = f"further out than {self.reach:.3g} times there are too few backtests to tell ({failed.tests}, and {ENOUGH} are needed)"
        else:
            why = f"intervals of level {self.level:g} held {failed}"
        return (
            f"{why}, so nothing is said beyond {_updates(self.furthest)}; train the row at a budget between that and the one asked "
            "for (`budgeted study ... --budgets`), and forecast again"
        )


def _updates(steps: float) -> str:
    return f"{steps:,.0f} updates"


def _first(steps: Array, log_gaps: Array, goal: float) -> float | None:
    """The first budget at which the gap is as small as the goal; None where there is none."""
    there = np.flatnonzero(log_gaps <= goal)
    if not len(there):
        return None
    k = int(there[0])
    if k == 0:
        return float(steps[0])
    return float(np.exp(np.interp(-goal, -log_gaps[k - 1 : k + 1], np.log(steps[k - 1 : k + 1]))))


def forecast(
    manifest: Manifest, runs: pd.DataFrame, *, task: str | None = None, row: str | None = None, level: float = 0.9
) -> Forecast:
    """The forecast of a row of a study.

    Args:
        manifest: of the study.
        runs: its runs, as `results.runs_of` gives them.
        task: which of its tasks; None where there is one.
        row: which of its rows; None for linear, or the best at the largest budget where there is no such row.
        level: of the intervals, from 0.5 to less than 1.

    Raises:
        StudyError: for an unknown task or row, and where there are too few budgets, or too few backtests for the level.
    """
    if not LEAST_LEVEL <= level < 1:
        raise StudyError(
            f"the level of an interval is from {LEAST_LEVEL:g} to less than 1, and was {level:g}; write for example 0.9"
        )
    task = _chosen("task", task, manifest.content["tasks"])
    facts, of_task = manifest.content["tasks"][task], runs[runs["task"] == task]
    value = value_of(manifest, task)
    value = value if value in ("best", "final") else "best"
    done = of_task[(of_task["status"] == "finished") & np.isfinite(of_task[value].astype(float))]
    by_row = {str(label): points_of(some, value) for label, some in done.groupby("row", sort=False)}
    if row is None:
        row = _usual(by_row, _schedules(manifest, task), facts["maximize"])
    elif row not in set(of_task["row"]):
        _chosen("row", row, dict.fromkeys(of_task["row"]))
    points = by_row.get(row, [])
    schedule = _schedules(manifest, task).get(row, "")
    _require_budgets(row, points, schedule)
    scale = Scale.of([v for some in by_row.values() for p in some for v in p.values], facts["maximize"])
    tests = [test for label, some in by_row.items() for test in backtests(label, some, scale)]
    hits = hit_rates(tests, level)
    return Forecast(
        task, facts["metric"], row, value, level, tuple(points), scale, Curves.through(points, scale),
        Calibration.by(tests, level), tuple(hits), len({test.row for test in tests}), _reach(hits, level),
        pace_of(facts, of_task[of_task["row"] == row]), tuple(_remarks(of_task, row, value, schedule, hits, level)),
    )  # fmt: skip


def points_of(runs: pd.DataFrame, value: str) -> list[Point]:
    """A point for each budget of a row's finished runs; two names of the same budget are one."""
    found: dict[float, Point] = {}
    for budget, some in runs.groupby("budget", sort=False):
        steps = float(some["steps"].median())
        before = found[steps].values if steps in found else ()
        found[steps] = Point(str(budget), steps, (*before, *map(float, some[value])))
    return [found[steps] for steps in sorted(found)]


def _chosen(what: str, name: str | None, known: Mapping[str, Any]) -> str:
    if name is None and len(known) == 1:
        return next(iter(known))
    if name is None:
        raise StudyError(f"the study has {len(known)} {what}s; choose one with --{what}: {', '.join(known)}")
    if name not in known:
        raise StudyError(f"the study has no {what} '{name}'{nearest(name, known) or ';'} it has {', '.join(known)}")
    return name


def _schedules(manifest: Manifest, task: str) -> dict[str, str]:
    return {cell["row"]: str(cell["spec"]["schedule"]) for cell in manifest.content["cells"] if cell["task"] == task}


def _usual(by_row: Mapping[str, Sequence[Point]], schedules: Mapping[str, str], maximize: bool) -> str:
    """Linear, or the row that is the best at the largest budget that any row with enough budgets has."""
    able = {
        row: points for row, points in by_row.items() if len(points) > LEAST and not _follows_metric(schedules[row])
    }
    if "linear" in able:
        return "linear"
    if not able:
        most = max((len(points) for points in by_row.values()), default=0)
        raise StudyError(_too_few(f"no row has finished runs at more than {most}" if most else "no run is finished"))
    largest = max(points[-1].steps for points in able.values())
    there = {row: points[-1].centre for row, points in able.items() if points[-1].steps == largest}
    return (max if maximize else min)(there, key=lambda row: there[row])


def _follows_metric(schedule: str) -> bool:
    return schedule.partition("(")[0].strip() == Plateau.name


def _require_budgets(row: str, points: Sequence[Point], schedule: str) -> None:
    if _follows_metric(schedule):
        raise StudyError(
            f"row '{row}' follows the metric, not the budget ({schedule}), so it has no curve over budgets; choose another (--row)"
        )
    if len(points) <= LEAST:
        there = ", ".join(point.budget for point in points)
        raise StudyError(_too_few(f"row '{row}' has finished runs at {len(points)}{f' ({there})' if there else ''}"))


def _too_few(there: str) -> str:
    return (
        f"a forecast needs runs at {LEAST + 1} budgets or more, {LEAST} to fit and another to hold out, and {there}: train at "
        "others too, such as `budgeted study ... --budgets 1%,2%,5%,10%`"
    )


def _reach(hits: Sequence[Hits], level: float) -> float:
    """The largest ratio that was tested, before the first range in which intervals hit too seldom or were too few to tell."""
    reach = 1.0
    for band in hits:
        if band.most > 1:
            if band.tests < ENOUGH or not band.holds(level - TOLERANCE):
                break
            reach = band.most
    return reach


def _remarks(
    runs: pd.DataFrame, row: str, value: str, schedule: str, hits: Sequence[Hits], level: float
) -> Iterator[str]:
    own = runs[runs["row"] == row]
    if " over " in schedule:
        yield f"Row '{row}' is stopped early ({schedule}): the curve is that of stopping sooner or later, not of decays that end with the budget."
    for status, words in (
        ("failed", "failed and are left out, which flatters the curve"),
        ("unfinished", "are not finished"),
        ("missing", "are missing"),
    ):
        if count := int((own["status"] == status).sum()):
            yield f"{count} of the row's {len(own)} runs {words}."
    done = own[own["status"] == "finished"]
    if strange := int((~np.isfinite(done[value].astype(float))).sum()):
        yield f"{strange} of the row's runs ended without a finite value, and are left out."
    seeds = int(done.groupby("budget")["seed"].nunique().max())
    if seeds == 1:
        yield "One seed: the interval rests on how the families differ and on backtests alone, and is for one run."
    if (inside := hits[0]).most == 1 and not inside.holds(level - TOLERANCE):
        yield f"Within the measured range intervals of level {level:g} hit only {inside}."
    yield "Backtests of one study share data, seeds and budgets, so they are fewer than they look: take the hit rate as the best case."
