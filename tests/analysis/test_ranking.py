"""Rank prediction on made-up runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from budgeted.analysis import results
from budgeted.analysis.ranking import _interval_of_tau, rankings
from budgeted.core.errors import StudyError


def study(shelf, at_small, at_full, **more):
    """Configurations a, b, c ... with values by schedule at 1 %, and with linear at 100 %."""
    cells, rows = {}, []
    for schedule, values in at_small.items():
        for k, value in enumerate(values):
            label = f"{schedule}, m{k}"
            cells[label, "1%"] = value
            rows.append({"label": label, "schedule": schedule, "model": f"m{k}"})
    for k, value in enumerate(at_full):
        label = f"linear, m{k}"
        cells[label, "100%"] = value
        if label not in {row["label"] for row in rows}:
            rows.append({"label": label, "schedule": "linear", "model": f"m{k}"})
    manifest = shelf.study(cells, rows=rows, ranks="linear", **more)
    return manifest, results.runs_of(manifest)


def one(shelf, *arguments, **more):
    (found,) = rankings(*study(shelf, *arguments, **more))
    return found


def test_tau_is_scipys(shelf):
    small, full = [0.5, 0.7, 0.6, 0.8, 0.4], [0.8, 0.85, 0.9, 0.95, 0.7]
    found = one(shelf, {"linear": [[v] for v in small], "const": [[v] for v in small[::-1]]}, [[v] for v in full])
    assert found.tau["linear", "1%"].value == pytest.approx(stats.kendalltau(small, full).statistic)
    assert found.tau["const", "1%"].value == pytest.approx(stats.kendalltau(small[::-1], full).statistic)
    assert found.mean["linear", "1%"].value == pytest.approx(np.mean(small))
    assert found.normalised["linear", "1%"].value == pytest.approx(np.mean(np.array(small) / full))
    assert (found.reference, found.budgets, found.schedules) == (("linear", "100%"), ("1%",), ("linear", "const"))


def test_medians_over_seeds_are_ranked(shelf):
    small = [[0.5, 0.1, 0.9], [0.6, 0.6, 0.6], [0.4, 0.7, 0.7]]  # medians 0.5, 0.6, 0.7
    found = one(shelf, {"linear": small}, [[0.7], [0.8], [0.9]])
    assert found.tau["linear", "1%"].value == 1.0


def test_where_less_is_better_ranks_are_the_same(shelf):
    small, full = [[0.5], [0.7], [0.6]], [[1.5], [1.7], [1.6]]
    assert one(shelf, {"linear": small}, full, maximize=False).tau["linear", "1%"].value == 1.0


def test_ties_count_as_in_tau_b(shelf):
    small, full = [0.5, 0.5, 0.6, 0.7], [0.8, 0.9, 0.85, 0.95]
    found = one(shelf, {"linear": [[v] for v in small]}, [[v] for v in full])
    assert found.tau["linear", "1%"].value == pytest.approx(stats.kendalltau(small, full).statistic)


def test_what_cannot_be_trained_is_left_out_and_said(shelf):
    manifest, runs = study(
        shelf,
        {"linear": [[0.5], [0.6], [0.1], [0.7], [0.2]]},
        [[0.8], [0.9], [0.11], [0.95], ["the loss was nan at update 3"]],
    )
    manifest.content["tasks"]["t"]["chance"] = 0.1
    (found,) = rankings(manifest, runs)
    assert found.configurations == ("m0", "m1", "m3")
    assert found.left_out == {
        "m2": "cannot be trained: 0.1100, where a guess gets 0.1",
        "m4": "failed: the loss was nan at update 3",
    }


def test_how_far_the_target_repeats_itself(shelf):
    full = [[0.8, 0.8], [0.9, 0.95], [0.95, 0.9]]
    found = one(shelf, {"linear": [[0.5], [0.6], [0.7]]}, full)
    assert found.repeatable == pytest.approx(1 / 3)
    assert math.isnan(one(shelf, {"cosine": [[0.5], [0.6], [0.7]]}, [[0.8], [0.9], [0.7]]).repeatable)


def test_a_run_that_is_missing_is_missing_in_its_cell_alone(shelf):
    found = one(
        shelf,
        {"linear": [[0.5], [0.6], [0.7], [None]], "const": [[0.5], [0.6], [0.7], [0.8]]},
        [[0.6], [0.7], [0.8], [0.9]],
    )
    assert (found.ranked["linear", "1%"], found.ranked["const", "1%"]) == (3, 4)


def test_the_interval_covers_the_true_tau():
    """Of pairs of normal variables with correlation 0.8, whose tau is 2/pi asin(0.8) = 0.59."""
    drawn, covered = np.random.default_rng(0), 0
    for _ in range(60):
        x = drawn.standard_normal(40)
        y = 0.8 * x + 0.6 * drawn.standard_normal(40)
        low, high = _interval_of_tau(x, y)
        covered += low <= 2 / math.pi * math.asin(0.8) <= high
    assert covered >= 50


def test_the_papers_figures_stand_beside_for_its_own_task(shelf):
    cells = {"const": [[0.5], [0.6], [0.7]]}
    found = one(shelf, cells, [[0.8], [0.9], [0.95]], paper="6", task="cifar10")
    assert found.tau["const", "1%"].paper == 0.4595
    assert found.mean["const", "1%"].paper == 0.4699
    assert found.normalised["const", "1%"].paper == 0.5343


def test_what_cannot_be_ranked(shelf):
    with pytest.raises(
        StudyError, match="2 configurations are finished and trained with linear at 100%, and ranks need at least 3"
    ):
        one(shelf, {"linear": [[0.5], [0.6]]}, [[0.8], [0.9]])
    manifest, runs = study(shelf, {"linear": [[0.5], [0.6], [0.7]]}, [[0.8], [0.9], [0.95]])
    with pytest.raises(StudyError, match="has no schedule 'linaer'; did you mean 'linear'"):
        rankings(manifest, runs, "linaer")
    manifest.content["study"]["rows"] = None
    with pytest.raises(StudyError, match="no study with rows"):
        rankings(manifest, runs)
