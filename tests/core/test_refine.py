"""Refined schedules against a plain reading of the paper's algorithm."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import budgeted
from budgeted import ScheduleError
from budgeted.core import refine
from budgeted.core.record import RunFolder, Spec
from budgeted.core.refine import refined

norms = st.lists(st.floats(0.01, 100), min_size=30, max_size=300)


def history(values):
    return [((k + 0.5) / len(values), v) for k, v in enumerate(values)]


def by_the_paper(values, power=2.0, smoothing=0.1):
    """Algorithm 1: median filter with (nearest, reflect) padding, w = G^-power, eta_t = w_t sum_{p > t} w_p."""
    g, n = np.asarray(values), len(values)
    half = max(1, round(smoothing * n)) // 2
    padded = np.concatenate([np.full(half, g[0]), g, g[::-1][: half + 1]])
    w = np.array([np.median(padded[k : k + 2 * half + 1]) for k in range(n)]) ** -power
    eta = w * (np.cumsum(w[::-1])[::-1] - w)
    return eta / eta.max()


def test_a_steady_norm_gives_the_linear_schedule():
    found = refined(history([3.0] * 400))
    assert all(found(k / 50) == pytest.approx(1 - k / 50, abs=1e-3) for k in range(51))


def test_it_is_the_papers_algorithm():
    """At 200 norms, where the resampling has nothing to do; half a weight more or less is what the middle of an interval makes."""
    drawn = np.random.default_rng(0)
    values = np.exp(-2 * np.linspace(0, 1, 200)) * np.exp(0.1 * drawn.standard_normal(200))
    for power in (1.0, 2.0):
        expected = by_the_paper(values, power)
        found = [refined(history(values), power=power)((k + 0.5) / 200) for k in range(200)]
        apart = np.abs(np.array(found) - expected)
        assert apart.max() < 0.08  # where the median jumps between two of the fifty points
        assert apart.mean() < 0.03


def test_a_norm_that_is_high_at_first_asks_for_a_warm_up():
    values = [5.0] * 30 + [1.0] * 270
    found = refined(history(values))
    assert found(0.0) < 0.1
    assert found(0.15) > 0.95


def test_a_norm_that_falls_asks_for_longer_steps_late():
    found = refined(history([2.0 - 1.5 * k / 300 for k in range(300)]))
    assert found(0.7) > 1.5 * (1 - 0.7)


@given(norms, st.sampled_from([1.0, 2.0]))
def test_whatever_the_norms_it_is_a_schedule(values, power):
    found = refined(history(values), power=power)
    factors = [found(k / 100) for k in range(101)]
    assert max(found(k / 50) for k in range(51)) == 1.0
    assert all(0 <= f <= 1 + 1e-12 for f in factors)
    assert found(1.0) == 0.0
    assert budgeted.schedule(str(found)) == found


@given(norms, st.floats(0.01, 1000))
def test_the_scale_of_the_norms_does_not_matter(values, scale):
    one, other = refined(history(values)), refined(history([v * scale for v in values]))
    assert all(one(k / 50) == pytest.approx(other(k / 50), rel=2e-3, abs=1e-9) for k in range(51))


@pytest.mark.parametrize(
    ("given_history", "sentence"),
    [
        (history([1.0] * 9), "at least 10 gradient norms, and the run has 9"),
        (history([1.0] * 20 + [math.inf]), "positive and finite, and one is inf"),
        (history([1.0] * 20 + [0.0]), "there is nothing left to weigh"),
        (history([1.0] * 20 + [-1.0]), "positive and finite, and one is -1"),
    ],
)
def test_what_no_schedule_can_be_made_of(given_history, sentence):
    with pytest.raises(ScheduleError, match=sentence):
        refined(given_history)


def test_smoothing_is_a_share():
    with pytest.raises(ScheduleError, match="smoothing is the share of the run"):
        refined(history([1.0] * 20), smoothing=2)


def run_folder(tmp_path, *, optimizer=None, done=True, rows=40):
    folder = RunFolder.create(tmp_path, Spec("t", "40 steps", "linear", optimizer=optimizer))
    lines = [{"steps": k, "progress": k / rows, "gradient": 1.0 + k / rows} for k in range(1, rows + 1)]
    (folder.path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if done:
        folder.write("result", {"schedule": "linear"})
    return folder


def test_from_a_runs_folder_by_its_text(tmp_path):
    folder = run_folder(tmp_path)
    found = budgeted.schedule(f"refined:{folder.path}")
    assert found == refined([(k / 40, 1.0 + k / 40) for k in range(1, 41)])


def test_the_norm_counts_once_for_adam_and_twice_for_sgd(tmp_path):
    found = [budgeted.schedule(f"refined:{run_folder(tmp_path, optimizer=o).path}") for o in ("adamw(lr=0.1)", None)]
    expected = [refined([(k / 40, 1.0 + k / 40) for k in range(1, 41)], power=p) for p in (1.0, 2.0)]
    assert found == expected


def test_a_tasks_own_optimizer_is_known_from_the_environment(tmp_path):
    folder = run_folder(tmp_path)
    folder.write("environment", {"optimizer": "AdamW"})
    assert budgeted.schedule(f"refined:{folder.path}") == refined(
        [(k / 40, 1.0 + k / 40) for k in range(1, 41)], power=1.0
    )


def test_a_run_that_is_not_there_or_not_over(tmp_path):
    with pytest.raises(budgeted.RunFolderError, match="there is no run folder"):
        budgeted.schedule(f"refined:{tmp_path / 'none'}")
    with pytest.raises(ScheduleError, match="the run is not finished"):
        budgeted.schedule(f"refined:{run_folder(tmp_path, done=False).path}")
    with pytest.raises(ScheduleError, match="at least 10 gradient norms, and the run has 5"):
        budgeted.schedule(f"refined:{run_folder(tmp_path / 'short', rows=5).path}")


def test_the_form_that_names_a_schedule_is_for_where_runs_are():
    with pytest.raises(ScheduleError, match="in `budgeted train` and `budgeted study`"):
        budgeted.schedule("refined(linear)")
    assert refine.source(Spec("t", "1ep", "refined(cosine)")) == Spec("t", "1ep", "cosine")
    assert refine.source(Spec("t", "1ep", "cosine")) is None
