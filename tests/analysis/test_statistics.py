"""Conclusions: exact where they can be, none where there is nothing to conclude."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from budgeted.analysis import statistics


def runs(values: dict, task="t") -> pd.DataFrame:
    """`{row: {budget: [values by seed]}}`."""
    rows = [
        {"task": task, "row": row, "budget": budget, "seed": seed, "status": "finished", "best": value}
        for row, budgets in values.items()
        for budget, some in budgets.items()
        for seed, value in enumerate(some)
    ]
    return pd.DataFrame(rows)


@settings(deadline=None, max_examples=40)
@given(arrays(float, st.integers(2, 8), elements=st.floats(-1, 1, width=32)))
def test_the_sign_flip_test_is_that_of_the_textbook(differences):
    """All 2^n changes of sign, and how many of them are as far from zero."""
    p = statistics.sign_flip(differences, np.random.default_rng(0))
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(1))
    expected = (means >= abs(differences.mean()) * (1 - 1e-9) - 1e-15).mean()
    assert p == pytest.approx(expected, abs=2 / 2 ** len(differences)) or not differences.any()


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_smallest_p_of_few_pairs(n):
    assert statistics.sign_flip(np.arange(1.0, n + 1), np.random.default_rng(0)) == pytest.approx(2.0 ** (1 - n))


def test_one_pair_says_nothing():
    assert statistics.sign_flip(np.array([1.0]), np.random.default_rng(0)) == 1.0


def test_chance_is_not_separated_and_a_shift_is():
    random = np.random.default_rng(1)
    base = {b: random.normal(0.5, 0.02, 5) for b in ("1%", "5%", "10%", "25%")}
    noisy = {b: v + random.normal(0, 0.01, 5) for b, v in base.items()}
    worse = {b: v - 0.05 + random.normal(0, 0.01, 5) for b, v in base.items()}
    found = {c.other: c for c in statistics.comparisons(runs({"a": base, "b": noisy, "c": worse}), "best", True)}
    far = found["c"]
    assert far.separated
    assert (far.pairs, far.wins, far.budgets) == (20, 4, 4)
    assert far.interval[0] < 0.05 < far.interval[1] + 0.02
    near = next(c for name, c in found.items() if name != "c")
    assert not near.separated
    assert "not separated" in str(near)
    assert far.adjusted >= far.p


def test_less_may_be_better():
    (found,) = statistics.comparisons(runs({"a": {"1%": [1.0, 1.1]}, "b": {"1%": [2.0, 2.1]}}), "best", False)
    assert (found.one, found.difference) == ("a", pytest.approx(1.0))


def test_three_pairs_conclude_nothing():
    (found,) = statistics.comparisons(
        runs({"a": {"1%": [0.9, 0.8, 0.85]}, "b": {"1%": [0.1, 0.2, 0.15]}}), "best", True
    )
    assert (found.p, found.least_p) == (0.25, 0.25)
    assert "3 pairs cannot give less than p = 0.250 by Holm, so nothing can be concluded" in str(found)


def test_many_comparisons_need_more_pairs():
    values = {row: {"1%": [1.0 - k / 10] * 6} for k, row in enumerate("abcd")}
    found = statistics.comparisons(runs(values), "best", True)
    assert {c.least_p for c in found} == {3 * 2.0**-5}
    assert all("nothing can be concluded" in str(c) for c in found)


def test_only_pairs_that_both_have_are_compared():
    frame = runs({"a": {"1%": [0.9, 0.8], "5%": [0.9, 0.9]}, "b": {"1%": [0.5, 0.6]}})
    (found,) = statistics.comparisons(frame, "best", True)
    assert (found.pairs, found.budgets) == (2, 1)


def test_one_row_is_compared_with_nothing():
    assert statistics.comparisons(runs({"a": {"1%": [0.5]}}), "best", True) == []
    assert statistics.ranks(runs({"a": {"1%": [0.5]}}), "best", {"t": True}) is None


def test_ranks_are_averaged_over_tasks_and_budgets():
    one = runs(
        {"a": {"1%": [0.9], "5%": [0.9]}, "b": {"1%": [0.5], "5%": [0.95]}, "c": {"1%": [0.1], "5%": [0.1]}}, "t"
    )
    other = runs({"a": {"1%": [1.0]}, "b": {"1%": [2.0]}, "c": {"1%": [3.0]}}, "u")  # less is better there
    found = statistics.ranks(pd.concat([one, other]), "best", {"t": True, "u": False})
    assert found.mean.to_dict() == pytest.approx({"a": 4 / 3, "b": 5 / 3, "c": 3.0})
    assert (found.blocks, found.caveat) == (3, "")
    assert found.p == pytest.approx(stats.friedmanchisquare([1, 2, 1], [2, 1, 2], [3, 3, 3]).pvalue)
    assert found.pairwise.loc["a", "a"] == 1.0
    assert "not independent" in statistics.ranks(one, "best", {"t": True}).caveat


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (1, "One seed: there is no spread"),
        (3, "3 seeds: within one budget an exact paired test cannot give less than p = 0.25"),
        (6, None),
    ],
)
def test_what_so_few_seeds_cannot_tell(seeds, said):
    found = list(statistics.cautions(runs({"a": {"1%": [0.5] * seeds}})))
    assert (said is None and not found) or found[0].startswith(said)
