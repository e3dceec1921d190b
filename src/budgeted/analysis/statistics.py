"""What may be concluded from a study: paired tests, bootstrap intervals, ranks. With few seeds that is little, and is said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from scipy import stats

ALPHA = 0.05
_RESAMPLES = 10_000
_EXACT = 12  # pairs up to which all 2^n changes of sign are gone through


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rows of a table, over every budget and seed that both have.

    Args:
        one, other: the rows.
        pairs: how many runs there are of each.
        difference: mean of `one` minus `other`, in units of the metric, positive where `one` is better.
        interval: 95 % bootstrap interval of it, seeds drawn within each budget.
        p: of the exact paired sign-flip test, two-sided.
        adjusted: the same by Holm's method for all the comparisons made together.
        least_p: the smallest p that so many pairs could give, by Holm's method.
        wins: budgets at which the median of `one` is the better one, of `budgets`.
    """

    one: str
    other: str
    pairs: int
    difference: float
    interval: tuple[float, float]
    p: float
    adjusted: float
    least_p: float
    wins: int
    budgets: int

    @property
    def separated(self) -> bool:
        return self.adjusted < ALPHA

    def __str__(self) -> str:
        low, high = self.interval
        figures = (
            f"{self.one} - {self.other}: {self.difference:+.4f} (95 % interval {low:+.4f} to {high:+.4f}, {self.pairs} pairs), "
            f"the better median at {self.wins} of {self.budgets} budgets, p {_p(self.p)}, by Holm {_p(self.adjusted)}"
        )
        if self.least_p > ALPHA:
            return f"{figures}: {self.pairs} pairs cannot give less than p {_p(self.least_p)} by Holm, so nothing can be concluded"
        return f"{figures}: {'separated' if self.separated else 'not separated'}"


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def comparisons(runs: pd.DataFrame, value: str, maximize: bool, *, seed: int = 0) -> list[Comparison]:
    """The row that is the best on average against each of the others, for one task.

    Pairs are runs of the same budget and seed, which begin from the same weights and meet the same batches. The test
    changes the signs of the pairs' differences (Fisher), which supposes nothing but that a difference is as likely to be
    in favour of the one as of the other.

    Args:
        runs: of one task, as `results.runs_of` gives them.
        value: the column.
        maximize: which way is better.
        seed: of the resampling.
    """
    wide = _wide(runs, value, maximize)
    if wide.shape[1] < 2 or wide.empty:
        return []
    best = str(wide.mean().idxmax())
    others = [str(row) for row in wide.columns if row != best]
    found = [_compare(wide, best, other, np.random.default_rng(seed)) for other in others]
    adjusted = _holm([c["p"] for c in found])
    return sorted(
        (Comparison(**c, adjusted=a) for c, a in zip(found, adjusted, strict=True)), key=lambda c: c.difference
    )


def _wide(runs: pd.DataFrame, value: str, maximize: bool) -> pd.DataFrame:
    """Budget and seed by row; what a row lacks is left out for all, so that each compares on the same pairs."""
    done = runs[runs["status"] == "finished"]
    wide = done.pivot_table(index=["budget", "seed"], columns="row", values=value, sort=False)
    wide = wide[[row for row in dict.fromkeys(runs["row"]) if row in wide]]
    common = wide.dropna()
    if common.empty:  # rows that do not stand in all columns, of a table that is not whole
        common = wide.dropna(axis=1, thresh=max(1, len(wide) // 2)).dropna()
    return common if maximize else -common


def _compare(wide: pd.DataFrame, one: str, other: str, random: np.random.Generator) -> dict[str, Any]:
    differences = wide[one] - wide[other]
    medians = wide.groupby(level="budget", sort=False).median()
    return {
        "one": one,
        "other": other,
        "pairs": len(differences),
        "difference": float(differences.mean()),
        "interval": _interval(
            [group.to_numpy() for _, group in differences.groupby(level="budget", sort=False)], random
        ),
        "p": sign_flip(differences.to_numpy(), random),
        "least_p": min(1.0, (wide.shape[1] - 1) * 2.0 ** (1 - len(differences))),
        "wins": int((medians[one] > medians[other]).sum()),
        "budgets": len(medians),
    }


def sign_flip(differences: np.ndarray[Any, Any], random: np.random.Generator) -> float:
    """The two-sided p of the mean of paired differences under changes of their signs; exact for few of them.

    >>> sign_flip(np.array([0.1, 0.2, 0.3]), np.random.default_rng(0))
    0.25
    """
    if len(differences) < 2 or not differences.any():
        return 1.0
    resamples = math.inf if len(differences) <= _EXACT else _RESAMPLES
    tested = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=resamples, rng=random, vectorized=True
    )
    return float(tested.pvalue)


def _interval(groups: Sequence[np.ndarray[Any, Any]], random: np.random.Generator) -> tuple[float, float]:
    """The percentile interval of the mean, each group resampled by itself."""
    total = sum(len(group) for group in groups)
    sums = np.zeros(_RESAMPLES)
    for group in groups:
        sums += group[random.integers(0, len(group), (_RESAMPLES, len(group)))].sum(1)
    low, high = np.percentile(sums / total, [2.5, 97.5])
    return float(low), float(high)


def _holm(ps: Sequence[float]) -> list[float]:
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(ps, method="holm")[1]] if ps else []


@final
@dataclass(frozen=True, slots=True)
class Ranks:
    """Rows ranked in each block, 1 the best, and whether the ranks can be told apart (Demsar 2006).

    Args:
        mean: of each row, the best first.
        blocks: task and budget, or tasks alone, over which they are averaged.
        p: Friedman's test that all rows are alike; NaN where there are too few rows or blocks for it.
        pairwise: Nemenyi's p of each pair of rows, or None.
        caveat: what is to be kept in mind, or nothing.
    """

    mean: pd.Series
    blocks: int
    p: float
    pairwise: pd.DataFrame | None
    caveat: str


def ranks(runs: pd.DataFrame, value: str, maximize: dict[str, bool]) -> Ranks | None:
    """Average ranks of the rows over tasks and budgets, by their medians; None with fewer than two rows.

    Args:
        runs: of any number of tasks.
        value: the column.
        maximize: which way is better, by task.
    """
    done = runs[runs["status"] == "finished"]
    if done.empty:
        return None
    signs = done["task"].map(lambda task: 1.0 if maximize[task] else -1.0)
    signed = done.assign(signed=done[value] * signs)
    medians = signed.groupby(["task", "budget", "row"], sort=False)["signed"].median().unstack("row")
    medians = medians.dropna(axis=1, how="all").dropna()
    if medians.shape[1] < 2 or medians.empty:
        return None
    ranked = medians.rank(axis=1, ascending=False)
    mean = ranked.mean().sort_values()
    tasks = medians.index.get_level_values("task").nunique()
    p, pairwise = math.nan, None
    if medians.shape[1] >= 3 and len(medians) >= 3:
        p = float(stats.friedmanchisquare(*(medians[row] for row in medians)).pvalue)
        import scikit_posthocs

        pairwise = scikit_posthocs.posthoc_nemenyi_friedman(medians.reset_index(drop=True))
    caveat = ""
    if tasks == 1:
        lower = "" if math.isnan(p) else ": the p-value is lower than it should be"
        caveat = f"The blocks are budgets of one task, which are not independent{lower}."
    return Ranks(mean, len(medians), p, pairwise, caveat)


def cautions(runs: pd.DataFrame) -> Iterator[str]:
    """What cannot be concluded from so few seeds, in sentences."""
    done = runs[runs["status"] == "finished"]
    if done.empty:
        return
    seeds = int(done.groupby(["task", "row", "budget"])["seed"].nunique().max())
    if seeds == 1:
        yield "One seed: there is no spread, and no difference between two cells means anything by itself."
    elif (least := 2.0 ** (1 - seeds)) > ALPHA:
        yield (
            f"{seeds} seeds: within one budget an exact paired test cannot give less than p = {least:g}, so no single cell "
            "separates two rows; places are by the median alone. Comparisons pool the budgets."
        )
