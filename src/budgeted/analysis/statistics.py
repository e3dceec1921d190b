"""What may be concluded from a study: paired tests, bootstrap intervals, ranks. With few seeds that is little, and is said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from scipy import stats

Array = np.ndarray[Any, Any]
ALPHA = 0.05
_RESAMPLES = 10_000
_BLOCKS = 10  # from which on the chi-square of Friedman's test is near enough
_EXACT = 18  # pairs up to which all 2^n changes of sign are gone through


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """Two rows of a table, over every budget and seed that both have.

    Args:
        one, other: the rows.
        pairs, seeds: how many pairs of runs there are, and of how many seeds.
        difference: mean of `one` minus `other`, in units of the metric, positive where `one` is better.
        interval: 95 % bootstrap interval of it, seeds drawn within each budget; None with one seed.
        p: of the paired sign-flip test, two-sided, which takes the pairs for independent.
        adjusted: the same by Holm's method for all the comparisons made together.
        least_p: the smallest p that so many pairs could give, by Holm's method.
        p_of_seeds: of the same test with all pairs of a seed flipped together: they begin from the same weights.
        wins: budgets at which the median of `one` is the better one, of `budgets`.
    """

    one: str
    other: str
    pairs: int
    seeds: int
    difference: float
    interval: tuple[float, float] | None
    p: float
    adjusted: float
    least_p: float
    p_of_seeds: float
    wins: int
    budgets: int

    @property
    def separated(self) -> bool:
        return self.seeds > 1 and self.adjusted < ALPHA

    def __str__(self) -> str:
        between = "" if self.interval is None else "95 % interval {:+.4f} to {:+.4f}, ".format(*self.interval)
        figures = (
            f"{self.one} - {self.other}: {self.difference:+.4f} ({between}{self.pairs} pairs), "
            f"the better median at {self.wins} of {self.budgets} budgets"
        )
        if self.seeds == 1:
            return f"{figures}: with one seed nothing can be concluded"
        figures += f", p {_p(self.p)}, by Holm {_p(self.adjusted)}, by whole seeds {_p(self.p_of_seeds)}"
        if self.least_p > ALPHA:
            return f"{figures}: {self.pairs} pairs cannot give less than p {_p(self.least_p)} by Holm, so nothing can be concluded"
        return f"{figures}: {'separated' if self.separated else 'not separated'}"


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def comparisons(runs: pd.DataFrame, value: str, maximize: bool, *, seed: int = 0) -> list[Comparison]:
    """The row that is the best on average against each of the others, for one task.

    Pairs are runs of the same budget and seed, which begin from the same weights and meet the same batches. The test
    changes the signs of the pairs' differences (Fisher), which supposes nothing but that a difference is as likely to be
    in favour of the one as of the other, and that the pairs are independent.

    Args:
        runs: of one task, as `results.runs_of` gives them.
        value: the column.
        maximize: which way is better.
        seed: of the resampling.
    """
    done = runs[runs["status"] == "finished"]
    wide = done.pivot_table(index=["budget", "seed"], columns="row", values=value, sort=False)
    wide = wide[[row for row in dict.fromkeys(runs["row"]) if row in wide]] * (1.0 if maximize else -1.0)
    if wide.shape[1] < 2:
        return []
    best = _best(wide)
    found = [
        _compare(wide[[best, other]].dropna(), best, str(other), np.random.default_rng(seed))
        for other in wide.columns
        if other != best and not wide[[best, other]].dropna().empty
    ]
    adjusted = _holm([c["p"] for c in found])
    made = [
        Comparison(**{**c, "least_p": min(1.0, len(found) * c["least_p"])}, adjusted=a)
        for c, a in zip(found, adjusted, strict=True)
    ]
    return sorted(made, key=lambda c: c.difference)


def _best(wide: pd.DataFrame) -> str:
    """The row with the highest mean, among those that most pairs have, over the pairs that all of those have."""
    counts = wide.count()
    most = wide[counts.index[counts >= 0.5 * counts.max()]]
    common = most.dropna()
    return str((most if common.empty else common).mean().idxmax())


def _compare(both: pd.DataFrame, one: str, other: str, random: np.random.Generator) -> dict[str, Any]:
    differences = both[one] - both[other]
    medians = both.groupby(level="budget", sort=False).median()
    of_seeds = differences.groupby(level="seed").mean().to_numpy()
    by_budget = [group.to_numpy() for _, group in differences.groupby(level="budget", sort=False)]
    return {
        "one": one,
        "other": other,
        "pairs": len(differences),
        "seeds": len(of_seeds),
        "difference": float(differences.mean()),
        "interval": _interval(by_budget, random) if len(of_seeds) > 1 else None,
        "p": sign_flip(differences.to_numpy(), random),
        "least_p": 2.0 ** (1 - np.count_nonzero(differences)),  # a difference of 0 has no sign
        "p_of_seeds": sign_flip(of_seeds, random),
        "wins": int((medians[one] > medians[other]).sum()),
        "budgets": len(medians),
    }


def sign_flip(differences: Array, random: np.random.Generator) -> float:
    """The two-sided p of the mean of paired differences under changes of their signs.

    Exact for up to 18 of them that are not 0; else by 10,000 changes drawn at random.

    >>> sign_flip(np.array([0.1, 0.2, 0.3]), np.random.default_rng(0))
    0.25
    """
    differences = differences[differences != 0]  # which changes of sign leave as they are
    if len(differences) < 2:
        return 1.0
    resamples = math.inf if len(differences) <= _EXACT else _RESAMPLES
    tested = stats.permutation_test(
        (differences / np.abs(differences).max(),),
        _rounded_mean,
        permutation_type="samples",
        n_resamples=resamples,
        rng=random,
        vectorized=True,
    )
    return float(tested.pvalue)


def _rounded_mean(values: Any, axis: int = -1) -> Any:
    """The mean without its last bits, so that sums in another order are as far from zero as they should be."""
    return np.round(np.mean(values, axis=axis), 12)


def _interval(groups: Sequence[Array], random: np.random.Generator) -> tuple[float, float]:
    """The percentile interval of the mean, each group resampled by itself."""
    total = sum(len(group) for group in groups)
    sums = np.zeros(_RESAMPLES)
    for group in groups:
        sums += group[random.integers(0, len(group), (_RESAMPLES, len(group)))].sum(1)
    low, high = np.percentile(sums / total, [2.5, 97.5])
    return float(low), float(high)


def resampled_taus(one: Array, other: Array, resamples: int, seed: int = 0) -> Array:
    """Kendall's tau-b of things drawn with replacement, the same draws for the same seed; NaN where all drawn are equal.

    Args:
        one, other: two figures of each thing; infinite ones are the last or the first.
        resamples: how often.
        seed: of the draws.
    """
    random, n = np.random.default_rng(seed), len(one)
    signs = [np.sign(ranks[:, None] - ranks[None, :]) for ranks in map(stats.rankdata, (one, other))]
    taus = np.full(resamples, math.nan)
    for number in range(resamples):
        drawn = random.integers(0, n, n)
        x, y = (sign[np.ix_(drawn, drawn)] for sign in signs)  # one that is drawn twice makes no pair with itself
        if scale := math.sqrt(np.square(x).sum() * np.square(y).sum()):
            taus[number] = (x * y).sum() / scale
    return taus


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
    if medians.shape[1] >= 3 and len(medians) >= 3 and (ranked.nunique(axis=1) > 1).any():  # else there are only ties
        p = float(stats.friedmanchisquare(*(medians[row] for row in medians)).pvalue)
        import scikit_posthocs

        pairwise = scikit_posthocs.posthoc_nemenyi_friedman(medians.reset_index(drop=True))
    caveat = ""
    if len(medians) > tasks:
        few = " With so few blocks Friedman's p is an approximation." if p == p and len(medians) < _BLOCKS else ""
        caveat = f"Budgets of one task are not independent blocks, so the ranks look surer than they are.{few}"
    return Ranks(mean, len(medians), p, pairwise, caveat)


def cautions(runs: pd.DataFrame) -> Iterator[str]:
    """What cannot be concluded, in sentences: from so few seeds, from pairs that hang together, from runs that failed."""
    failed = runs[runs["status"] == "failed"]
    if not failed.empty:
        rows = ", ".join(f"{row} ({count})" for row, count in failed["row"].value_counts(sort=False).items())
        yield f"Failed runs are left out, which flatters their rows: {rows}."
    done = runs[runs["status"] == "finished"]
    if done.empty:
        return
    seeds = int(done.groupby(["task", "row", "budget"])["seed"].nunique().max())
    if seeds == 1:
        yield "One seed: there is no spread, and no difference between two cells means anything by itself."
        return
    if (least := 2.0 ** (1 - seeds)) > ALPHA:
        yield (
            f"{seeds} seeds: within one budget an exact paired test cannot give less than p = {least:g}, so no single cell "
            "separates two rows; places are by the median alone."
        )
    if done["row"].nunique() > 1 and done["budget"].nunique() > 1:
        yield (
            "Comparisons pool the budgets, and take the pairs of one seed for independent; those begin from the same weights, so p is "
            f"somewhat too low. Flipped by whole seeds, {seeds} of them cannot give less than {least:g}. The row compared with the "
            "others was chosen by the same figures, which makes p too low as well."
        )
