"""Backtests of forecasts over budgets: what was predicted of held-out ones, and what follows for intervals.

`forecast` says how these parts make a forecast, with the sources.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from ..core.errors import StudyError
from .curves import FAMILIES, LEAST_NOISE, Array, Fit, fit

LEAST = 3  # budgets that a curve is fitted to
LEAST_LEVEL = 0.5
ENOUGH = 5  # backtests below which a share of hits says nothing
_DRAWS = 200


@final
@dataclass(frozen=True, slots=True)
class Point:
    """What a row came to at a budget: its label, updates, and the value of each seed."""

    budget: str
    steps: float
    values: tuple[float, ...]

    @property
    def centre(self) -> float:
        return float(np.median(self.values))


@final
@dataclass(frozen=True, slots=True)
class Scale:
    """A metric's values as logarithms of gaps, and back.

    Args:
        bound: the best possible value.
        maximize: which way is better.
        least: the gap that stands for none.
    """

    bound: float
    maximize: bool
    least: float

    @classmethod
    def of(cls, values: Sequence[float], maximize: bool) -> Scale:
        """1 for shares, 100 for percentages, 0 for losses; where none of these can be the bound, three ranges beyond the best."""
        low, high = min(values), max(values)
        if maximize:
            bound = next((b for b in (1.0, 100.0) if low >= 0 and high <= b), high + 3 * (high - low))
        else:
            bound = 0.0 if low >= 0 else low - 3 * (high - low)
        gaps = [abs(bound - v) for v in values if v != bound]
        return cls(bound, maximize, min(gaps, default=1.0) / 2)

    def log_gap(self, values: Any) -> Any:
        gap = np.subtract(self.bound, values) if self.maximize else np.subtract(values, self.bound)
        return np.log(np.maximum(gap, self.least))

    def value(self, log_gap: Any) -> Any:
        gap = np.exp(log_gap)
        return self.bound - gap if self.maximize else self.bound + gap


@final
@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What every family says at some budgets.

    Args:
        means: log gaps (families x budgets).
        sensitivities: how far they move with each fitted point's (families x budgets x points).
        variances: of each fitted median, over resampled seeds.
    """

    means: Array
    sensitivities: Array
    variances: Array

    def combined(self, weights: Array) -> tuple[Array, Array]:
        """The weighted mean, and its raw spread."""
        centre = weights @ self.means
        of_seeds = np.tensordot(weights, self.sensitivities, 1) ** 2 @ self.variances
        apart = weights @ (self.means - centre) ** 2
        return centre, np.sqrt(of_seeds + apart + self.variances.mean() + LEAST_NOISE**2)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Every family fitted to the points of a row."""

    fits: tuple[Fit, ...]
    variances: Array

    @classmethod
    def through(cls, points: Sequence[Point], scale: Scale) -> Curves:
        random = np.random.default_rng(0)
        gaps = [scale.log_gap(point.values) for point in points]
        variances = np.array([_variance(some, random) for some in gaps])
        noise = math.sqrt(variances.mean() + LEAST_NOISE**2)
        at = np.log([point.steps for point in points])
        medians = np.array([np.median(some) for some in gaps])
        return cls(tuple(fit(family, at, medians, noise) for family in FAMILIES), variances)

    def __call__(self, log_steps: Array) -> Prediction:
        means = np.stack([one(log_steps) for one in self.fits])
        return Prediction(means, np.stack([one.sensitivity(log_steps) for one in self.fits]), self.variances)


def _variance(values: Array, random: np.random.Generator) -> float:
    """Of the median of resampled seeds; 0 of one seed."""
    drawn = random.integers(0, len(values), (_DRAWS, len(values)))
    return float(np.var(np.median(values[drawn], axis=1)))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Backtest:
    """A held-out budget of a row, and what was predicted of it.

    Args:
        row, budget: whose.
        ratio: of its updates to those of the largest budget fitted; 1 within the range of those.
        observed: its log gap.
        prediction: of it.
    """

    row: str
    budget: str
    ratio: float
    observed: float
    prediction: Prediction

    def errors(self) -> Array:
        """Of each family."""
        return np.abs(self.prediction.means[:, 0] - self.observed)

    def score(self, weights: Array) -> float:
        """How many raw spreads the combined forecast is off."""
        centre, spread = self.prediction.combined(weights)
        return float(abs(centre[0] - self.observed) / spread[0])


def backtests(row: str, points: Sequence[Point], scale: Scale) -> Iterator[Backtest]:
    """Those of a row: none with fewer than four budgets."""
    at = np.log([point.steps for point in points])
    observed = [float(np.median(scale.log_gap(point.values))) for point in points]
    for k in range(LEAST, len(points)):
        curves = Curves.through(points[:k], scale)
        for later in range(k, len(points)):
            ratio = points[later].steps / points[k - 1].steps
            yield Backtest(row, points[later].budget, ratio, observed[later], curves(at[later : later + 1]))
    for inside in range(1, len(points) - 1 if len(points) > LEAST else 0):
        curves = Curves.through([*points[:inside], *points[inside + 1 :]], scale)
        yield Backtest(row, points[inside].budget, 1.0, observed[inside], curves(at[inside : inside + 1]))


@final
@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What backtests say of the families and of the spread.

    Args:
        weights: of the families.
        ratios, factors: what the raw spread is multiplied by, at the ends of each group of backtests; in between by
            interpolation over log ratio.
    """

    weights: Array
    ratios: Array
    factors: Array

    @classmethod
    def by(cls, tests: Sequence[Backtest], level: float) -> Calibration:
        """From backtests, of which those beyond the range must be `wanted(level)` or more."""
        beyond = [test for test in tests if test.ratio > 1]
        weights = np.mean([test.errors() for test in beyond], axis=0) ** -2.0
        weights /= weights.sum()
        groups = _grouped(beyond, wanted(level))
        inside = [test for test in tests if test.ratio == 1]
        if len(inside) >= wanted(level):
            groups.insert(0, inside)
        ends = [ratio for group in groups for ratio in (group[0].ratio, group[-1].ratio)]
        factors = [_quantile([test.score(weights) for test in group], level) for group in groups]
        factors = list(itertools.accumulate(factors, max))  # few backtests by chance near: further out is never surer
        return cls(weights, np.array(ends), np.repeat(factors, 2))

    def factor(self, ratio: Any) -> Any:
        return np.interp(np.log(np.maximum(ratio, 1.0)), np.log(self.ratios), self.factors)

    def hits(self, test: Backtest) -> bool:
        return test.score(self.weights) <= float(self.factor(test.ratio))


def wanted(level: float) -> int:
    """The fewest backtests from which an interval of a level follows: with n, conformal ones reach n / (n + 1)."""
    return math.ceil(level / (1 - level) - 1e-9)


def _quantile(scores: Sequence[float], level: float) -> float:
    """The conformal one: of n scores, the one of rank (n + 1) level, rounded up."""
    return sorted(scores)[math.ceil((len(scores) + 1) * level - 1e-9) - 1]


def _grouped(tests: Sequence[Backtest], least: int, *, whole: bool = True) -> list[list[Backtest]]:
    """By octaves of their ratio, each joined with the next while it has fewer than `least`.

    Too few at the end go with those before, or, where not `whole`, stand alone.
    """
    groups: list[list[Backtest]] = []
    octave = None
    for test in sorted(tests, key=lambda test: test.ratio):
        own = math.ceil(math.log2(test.ratio) - 0.05)
        if not groups or (own != octave and len(groups[-1]) >= least):
            groups.append([])
        groups[-1].append(test)
        octave = own
    if whole and len(groups) > 1 and len(groups[-1]) < least:
        last = groups.pop()
        groups[-1].extend(last)
    return groups


@final
@dataclass(frozen=True, slots=True)
class Hits:
    """How many held-out budgets of a range of ratios lay in their intervals."""

    least: float
    most: float
    hits: int
    tests: int

    @property
    def rate(self) -> float:
        return self.hits / self.tests

    def holds(self, rate: float) -> bool:
        return self.rate >= rate - 1e-9

    def __str__(self) -> str:
        ratio = f"{self.least:.3g}" if self.least == self.most else f"{self.least:.3g} to {self.most:.3g}"
        where = "within the measured range" if self.most == 1 else f"at {ratio} times the largest budget fitted"
        return f"{self.hits} of {self.tests} ({self.rate:.0%}) {where}"


def hit_rates(tests: Sequence[Backtest], level: float) -> list[Hits]:
    """Each group of backtests (a row; of one row alone, a held-out budget) by intervals that the others make.

    Raises:
        StudyError: where the others are too few for the level.
    """
    by_row = len({test.row for test in tests}) > 1
    groups: dict[str, list[Backtest]] = {}
    for test in tests:
        groups.setdefault(test.row if by_row else test.budget, []).append(test)
    hits: dict[int, bool] = {}
    for group in groups.values():
        others = [test for test in tests if not any(test is own for own in group)]
        _require(sum(test.ratio > 1 for test in others), level)
        calibration = Calibration.by(others, level)
        hits |= {id(test): calibration.hits(test) for test in group}
    inside = [test for test in tests if test.ratio == 1]
    beyond = [test for test in tests if test.ratio > 1]
    return [
        Hits(group[0].ratio, group[-1].ratio, sum(hits[id(test)] for test in group), len(group))
        for group in [inside, *_grouped(beyond, ENOUGH, whole=False)]
        if group
    ]


def _require(there: int, level: float) -> None:
    if there >= wanted(level):
        return
    possible = math.floor(100 * there / (there + 1)) / 100
    lower = f"; or ask for a level of {possible:g} or less (--level)" if possible >= LEAST_LEVEL else ""
    raise StudyError(
        f"an interval of level {level:g} needs {wanted(level)} held-out budgets beside those that it is tested on, and there "
        f"are {there}: train more budgets, or more rows at four budgets or more{lower}"
    )
