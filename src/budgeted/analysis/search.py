"""What a search's rungs are worth: how well they rank, and what is lost by the choice. Everything from the search's file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy import stats

from ..core.halving import promote
from .statistics import Array, resampled_taus

_RESAMPLES = 1000
_BASELINE = "truncated"  # what people do
Figures = Mapping[str, float | None]  # of each configuration by its label; None where it came to nothing


@final
@dataclass(frozen=True, slots=True)
class Agreement:
    """How a rung ranks all configurations, against the truth.

    Args:
        strategy, budget, updates: of the rung.
        tau: Kendall's tau-b; NaN where all are equal.
        interval: 95 % bootstrap interval of it, configurations drawn with replacement.
    """

    strategy: str
    budget: str
    updates: int
    tau: float
    interval: tuple[float, float]


@final
@dataclass(frozen=True, slots=True)
class Choice:
    """What a strategy chose, and what that is worth.

    Args:
        strategy, winner: who chose whom.
        truth: the winner's true figure; NaN where it came to nothing.
        regret: how much the truly best one is better, in units of the metric, at least 0.
        rank: of the winner by the truth, 1 the best; of equal ones the best.
        spent: updates.
        mean_regret: over random halves of the configurations, each searched anew.
        interval: 2.5 % and 97.5 % of those regrets.
    """

    strategy: str
    winner: str
    truth: float
    regret: float
    rank: int
    spent: int
    mean_regret: float
    interval: tuple[float, float]


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """How much better a rung ranks than the truncated one of the same budget.

    Args:
        strategy, budget: of the rung.
        difference: its tau minus that of `truncated`.
        interval: 95 % bootstrap interval of it, the same configurations drawn for both.
    """

    strategy: str
    budget: str
    difference: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        told = "not told apart" if low <= 0 <= high else "told apart"
        return (
            f"tau of {self.strategy} minus that of {_BASELINE} at {self.budget}: {self.difference:+.2f} "
            f"({low:+.2f} to {high:+.2f}), {told}"
        )


def agreements(content: Mapping[str, Any], *, seed: int = 0) -> list[Agreement]:
    """Of each strategy and rung of a comparison.

    Args:
        content: the search's file.
        seed: of the resampling.
    """
    truth = _truth(content)
    return [
        Agreement(
            strategy, budget, updates, tau(scores, truth), _middle(resampled_taus(scores, truth, _RESAMPLES, seed))
        )
        for strategy, rungs in _scores_of(content).items()
        for scores, budget, updates in zip(rungs, content["budgets"], content["updates"], strict=True)
    ]


def differences(content: Mapping[str, Any], *, seed: int = 0) -> list[Difference]:
    """Of each strategy but `truncated` on each rung below the last; arguments as of `agreements`."""
    truth, scores = _truth(content), _scores_of(content)
    found = []
    for number, budget in enumerate(content["budgets"][:-1]):
        baseline = scores[_BASELINE][number]
        draws = resampled_taus(baseline, truth, _RESAMPLES, seed)
        for strategy, rungs in scores.items():
            if strategy != _BASELINE:
                apart = tau(rungs[number], truth) - tau(baseline, truth)
                interval = _middle(resampled_taus(rungs[number], truth, _RESAMPLES, seed) - draws)
                found.append(Difference(strategy, budget, apart, interval))
    return found


def _truth(content: Mapping[str, Any]) -> Array:
    truth = content["comparison"]["truth"]
    return _scores(truth, truth, content["task"]["maximize"])


def _scores_of(content: Mapping[str, Any]) -> dict[str, list[Array]]:
    """Of each strategy's rungs, the configurations in the order of the truth."""
    comparison, maximize = content["comparison"], content["task"]["maximize"]
    return {
        strategy: [_scores(figures, comparison["truth"], maximize) for figures in rungs]
        for strategy, rungs in comparison["figures"].items()
    }


def tau(one: Array, other: Array) -> float:
    """Kendall's tau-b, which allows for ties.

    >>> tau(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])).__round__(3)
    0.333
    """
    return float(stats.kendalltau(one, other).statistic)


def _scores(figures: Figures, order: Figures, maximize: bool) -> Array:
    """The higher the better; what came to nothing is worse than all."""
    return np.array([_score(figures[label], maximize) for label in order])


def _score(figure: float | None, maximize: bool) -> float:
    return -math.inf if figure is None else figure if maximize else -figure


def _middle(values: Sequence[float] | Array) -> tuple[float, float]:
    """2.5 % and 97.5 %, without those that are NaN; values may be infinite."""
    there = [value for value in values if not math.isnan(value)]
    if not there:
        return math.nan, math.nan
    low, high = np.quantile(there, [0.025, 0.975], method="nearest")
    return float(low), float(high)


def choices(content: Mapping[str, Any], *, seed: int = 0) -> list[Choice]:
    """Of each strategy of a comparison; arguments as of `agreements`."""
    comparison, maximize = content["comparison"], content["task"]["maximize"]
    truth: Figures = comparison["truth"]
    scores = [_score(figure, maximize) for figure in truth.values()]
    found = []
    for climb in content["climbs"]:
        winner, figures = climb["winner"], comparison["figures"][climb["strategy"]]
        own = _score(truth[winner], maximize)
        regrets = list(_regrets(figures, truth, content, np.random.default_rng(seed)))
        found.append(
            Choice(
                climb["strategy"],
                winner,
                math.nan if truth[winner] is None else float(truth[winner]),  # type: ignore[arg-type]
                max(scores) - own,
                1 + sum(score > own for score in scores),
                climb["spent"],
                float(np.mean(regrets)) if regrets else math.nan,
                _middle(regrets),
            )
        )
    return found


def halved(rungs: Sequence[Figures], eta: float, maximize: bool, labels: Sequence[str]) -> str | None:
    """Whom a search over some of the configurations would have chosen; None where none of them comes through.

    Args:
        rungs: the figures of all of them on each rung.
        eta, maximize: as of the search.
        labels: those that are searched over.
    """
    left: Sequence[str] = labels
    for number, figures in enumerate(rungs):
        last = number == len(rungs) - 1
        left = promote({label: figures[label] for label in left}, math.inf if last else eta, maximize=maximize)
        if not left:
            return None
    return left[0]


def _regrets(
    rungs: Sequence[Figures], truth: Figures, content: Mapping[str, Any], random: np.random.Generator
) -> Iterator[float]:
    """Of searches over random halves of the configurations, in which some true figure is there."""
    maximize, labels = content["task"]["maximize"], list(truth)
    for _ in range(_RESAMPLES):
        drawn = [labels[k] for k in sorted(random.permutation(len(labels))[: max(2, len(labels) // 2)])]
        best = max(_score(truth[label], maximize) for label in drawn)
        winner = halved(rungs, content["search"]["eta"], maximize, drawn)
        if winner is not None and best > -math.inf:
            yield best - _score(truth[winner], maximize)
