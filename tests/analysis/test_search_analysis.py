"""What rungs are worth, on figures whose answer is known."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted.analysis.search import agreements, choices, differences, halved, tau

LABELS = [f"c{k:02}" for k in range(12)]
TRUTH = {label: 0.5 + 0.01 * k for k, label in enumerate(LABELS)}
SHUFFLED = dict(zip(LABELS, reversed(TRUTH.values()), strict=True))


def content(rungs, truth=None, *, winner="c11", maximize=True):
    """A comparison of a strategy with these rungs against one that is right on every rung."""
    truth = truth or TRUTH
    right = [truth] * len(rungs)
    return {
        "search": {"eta": 3, "configurations": LABELS},
        "task": {"maximize": maximize, "metric": "accuracy"},
        "budgets": [f"{k}ep" for k in range(1, len(rungs) + 1)],
        "updates": [10 * k for k in range(1, len(rungs) + 1)],
        "climbs": [{"strategy": "fitted", "winner": winner, "spent": 7}, {"strategy": "truncated", "winner": "c11", "spent": 8}],
        "comparison": {"truth": truth, "figures": {"fitted": rungs, "truncated": right}},
    }  # fmt: skip


def test_a_rung_that_ranks_as_the_truth_does_has_tau_1_and_one_that_turns_it_round_has_minus_1():
    found = {(a.strategy, a.budget): a for a in agreements(content([SHUFFLED, TRUTH]))}
    assert found["fitted", "1ep"].tau == pytest.approx(-1)
    assert found["fitted", "1ep"].interval == pytest.approx((-1, -1))
    assert found["fitted", "2ep"].tau == pytest.approx(1)
    assert found["truncated", "1ep"].updates == 10


def test_tau_is_one_minus_twice_the_share_of_pairs_the_wrong_way_round():
    order = [3, 1, 2, 5, 4, 0, 6]
    pairs = list(itertools.combinations(range(7), 2))
    wrong = sum(order[a] > order[b] for a, b in pairs)
    import numpy as np

    assert tau(np.arange(7.0), np.array(order, float)) == pytest.approx(1 - 2 * wrong / len(pairs))


def test_what_failed_is_ranked_below_all():
    failed = {**TRUTH, "c00": None}
    assert agreements(content([failed, TRUTH]))[0].tau == pytest.approx(1)
    assert agreements(content([{**TRUTH, "c11": None}, TRUTH]))[0].tau < 0.9


def test_a_rung_on_which_all_are_equal_says_nothing():
    found = agreements(content([dict.fromkeys(LABELS, 0.5), TRUTH]))[0]
    assert math.isnan(found.tau)
    assert all(map(math.isnan, found.interval))


def test_lower_is_better_where_the_task_says_so():
    rungs = [TRUTH, {**TRUTH, "c00": None}]
    found = choices(content(rungs, maximize=False, winner="c01"))[0]
    assert (found.regret, found.rank) == (pytest.approx(0.01), 2)
    assert agreements(content(rungs, maximize=False))[1].tau < 0.9  # the best one failed


def test_what_a_choice_costs():
    found = choices(content([TRUTH, TRUTH], winner="c08"))
    assert (found[0].regret, found[0].rank, found[0].truth, found[0].spent) == (pytest.approx(0.03), 4, 0.58, 7)
    assert (found[1].regret, found[1].rank) == (0, 1)
    assert found[0].mean_regret == 0  # of halves searched by rungs that are always right
    assert choices(content([SHUFFLED, TRUTH]))[0].mean_regret > 0.02


def test_a_choice_that_truly_fails_costs_everything():
    found = choices(content([TRUTH, TRUTH], {**TRUTH, "c08": None}, winner="c08"))[0]
    assert (found.regret, found.rank) == (math.inf, 12)
    assert math.isnan(found.truth)


def test_a_strategy_is_held_against_truncation_on_the_same_draws():
    (apart,) = differences(content([SHUFFLED, TRUTH]))
    assert (apart.strategy, apart.budget, apart.difference) == ("fitted", "1ep", pytest.approx(-2))
    assert "told apart" in str(apart)
    assert "not told apart" in str(differences(content([TRUTH, TRUTH]))[0])


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=12, unique=True), st.floats(2, 4))
def test_rungs_that_are_always_right_choose_the_best(labels, eta):
    assert halved([TRUTH, TRUTH, TRUTH], eta, True, labels) == max(labels)
    assert halved([TRUTH, TRUTH, TRUTH], eta, False, labels) == min(labels)


def test_where_nothing_comes_through_nothing_is_chosen():
    assert halved([TRUTH, {**TRUTH, "c00": None}], 3, True, ["c00"]) is None
