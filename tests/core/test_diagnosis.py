"""What is said of a run at its end."""

from __future__ import annotations

import math

import pytest

from budgeted import schedule
from budgeted.core.diagnosis import diagnose


def told(text, metric=lambda p: 1 - math.exp(-3 * p), *, maximize=True, until=1.0, norms=lambda p: 1 - p, full=False):
    """The diagnosis of a run of a hundred rows with an evaluation in every tenth."""
    shape = schedule(text.partition(" over ")[0])
    rows = []
    for k in range(1, 101):
        p = k / 100
        row = {"steps": k, "progress": p, "factor": shape(min(1.0, p * until - 0.01 * until)), "gradient": norms(p)}
        if k % 10 == 0:
            row["accuracy"] = metric(p)
        if full and k % 20 == 1:
            row["full_gradient"] = norms(p)
        rows.append(row)
    found = [(row["accuracy"], row["progress"]) for row in rows if "accuracy" in row]
    best, at = (max if maximize else min)(found)
    result = {
        "schedule": text, "last_factor": rows[-1]["factor"], "metric": {"name": "accuracy", "best": best},
        "best_at": {"progress": at}, "maximize": maximize,
    }  # fmt: skip
    return diagnose(rows, result)


def test_a_run_that_used_its_budget():
    assert told("linear") == [
        "The rate reached 0.01 of its base, the norm of the batches' gradients fell to 0.021 of its start, "
        "and the best accuracy was at p = 1.00."
    ]


def test_the_full_gradient_is_told_where_it_was_probed():
    (sentence,) = told("linear", full=True)
    assert "the full gradient's norm fell to 0.19 of its start" in sentence


def test_a_norm_may_rise():
    assert "rose to 1.9 of its start" in told("linear", norms=lambda p: 1 + p)[0]


def test_step_decay_wastes_what_comes_after_its_last_drop():
    sentences = told("step-d2", lambda p: min(p, 0.7))
    assert sentences[1] == (
        "After p = 0.70 accuracy gained no more than 2% of all that it gained: the rate was below 2% of its highest from "
        "p = 0.68 on, and the budget after that bought next to nothing. A schedule that decays to the end, such as linear, uses it."
    )


def test_a_task_that_was_learned_early_wants_a_smaller_budget():
    (_, sentence) = told("linear", lambda p: min(p, 0.5))
    assert sentence == (
        "After p = 0.50 accuracy gained no more than 2% of all that it gained: a smaller budget may buy as much "
        "(see `budgeted forecast`)."
    )


def test_a_schedule_that_was_cut_off():
    (_, sentence) = told("exp.97 over 200ep", until=0.25)
    assert sentence == (
        "The rate was still at 22% of its highest when the budget ended, so the run did not converge within it: leave the "
        "horizon out ('exp.97'), and the schedule ends where the budget does."
    )


def test_a_constant_rate_never_comes_down():
    assert told("const")[1].endswith("give it a schedule that ends low, such as linear.")


def test_less_may_be_better():
    assert len(told("linear", lambda p: math.exp(-3 * p), maximize=False)) == 1
    assert "gained no more than" in told("linear", lambda p: 1 - min(p, 0.5), maximize=False)[1]


def test_a_task_that_was_solved_at_the_first_evaluation():
    (_, sentence) = told("linear", lambda _: 0.99)
    assert sentence == (
        "Nothing was gained after the first evaluation, at p = 0.10: a smaller budget may buy as much (see `budgeted forecast`)."
    )


def test_a_run_that_never_got_better():
    assert told("linear", lambda p: 0.5 - 0.1 * p)[1].startswith("No evaluation was better than the first")


def test_a_metric_that_is_nan_at_first_is_passed_over():
    sentences = told("linear", lambda p: math.nan if p < 0.15 else 1 - math.exp(-3 * p))
    assert len(sentences) == 1


@pytest.mark.parametrize("rows", [[], [{"factor": None, "progress": 0.0}], [{"factor": math.nan, "progress": 0.0}]])
def test_without_figures_nothing_is_said(rows):
    assert diagnose(rows, {}) == []
