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
@given(arrays(float, st.integers(2, 8), elements=st.integers(-50, 50).map(lambda k: k / 100)))
def test_the_sign_flip_test_is_that_of_the_textbook(differences):
    """All 2^n changes of sign, and how many of them are as far from zero."""
    p = statistics.sign_flip(differences, np.random.default_rng(0))
    signs = np.array(list(itertools.product((1, -1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(1))
    expected = (means >= abs(differences.mean()) - 1e-9).mean()
    assert p == pytest.approx(expected) or np.count_nonzero(differences) < 2


def test_a_sum_of_nothing_is_not_told_from_nothing():
    """In floating point these differences add up to something else in another order."""
    differences = np.array([-0.03, 0.02, 0.01, 0.0, 0.01, -0.01, -0.02, 0.02])
    assert statistics.sign_flip(differences, np.random.default_rng(0)) == 1.0


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


def test_seeds_that_hang_together_are_told_by_whole_seeds():
    """A seed that favours one row at every budget is one observation, not one for each budget."""
    budgets = ("1%", "5%", "10%", "25%")
    values = {"a": {b: [0.9, 0.8, 0.7] for b in budgets}, "b": {b: [0.8, 0.7, 0.6] for b in budgets}}
    (found,) = statistics.comparisons(runs(values), "best", True)
    assert found.p < 0.01
    assert (found.seeds, found.p_of_seeds) == (3, 0.25)
    assert "by whole seeds = 0.250" in str(found)


def test_one_seed_separates_nothing():
    values = {"a": {f"{b}%": [0.9] for b in range(1, 9)}, "b": {f"{b}%": [0.1 + b / 100] for b in range(1, 9)}}
    (found,) = statistics.comparisons(runs(values), "best", True)
    assert found.interval is None
    assert not found.separated
    assert "with one seed nothing can be concluded" in str(found)


def test_a_row_with_few_runs_does_not_take_the_others_pairs_away():
    values = {"a": {"1%": [0.9, 0.8, 0.7]}, "b": {"1%": [0.5, 0.6, 0.4]}, "c": {"1%": [0.99]}}
    found = {c.other: c.pairs for c in statistics.comparisons(runs(values), "best", True)}
    assert found == {"b": 3, "c": 1}


def test_pairs_that_are_equal_have_no_sign():
    (found,) = statistics.comparisons(runs({"a": {"1%": [0.9, 0.8, 0.7]}, "b": {"1%": [0.9, 0.8, 0.6]}}), "best", True)
    assert (found.p, found.least_p) == (1.0, 1.0)


def test_runs_that_failed_are_named():
    frame = runs({"a": {"1%": [0.9, 0.8]}, "b": {"1%": [0.5, 0.6]}})
    frame.loc[3, "status"] = "failed"
    assert next(statistics.cautions(frame)) == "Failed runs are left out, which flatters their rows: b (1)."


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
    assert found.blocks == 3
    assert "not independent blocks" in found.caveat
    assert "approximation" in found.caveat
    assert found.p == pytest.approx(stats.friedmanchisquare([1, 2, 1], [2, 1, 2], [3, 3, 3]).pvalue)
    assert found.pairwise.loc["a", "a"] == 1.0
    alone = statistics.ranks(one[one["budget"] == "1%"], "best", {"t": True})
    assert (alone.blocks, alone.caveat) == (1, "")


def test_rows_that_are_all_alike_are_not_tested():
    same = {row: {b: [0.5] for b in ("1%", "5%", "10%")} for row in "abc"}
    found = statistics.ranks(runs(same), "best", {"t": True})
    assert found.pairwise is None
    assert set(found.mean) == {2.0}


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
