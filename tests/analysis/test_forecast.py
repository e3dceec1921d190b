"""Forecasts over budgets: curves that can be, intervals that hold, and refusals where nothing shows that they would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budgeted.analysis import results
from budgeted.analysis.backtests import Backtest, Calibration, Curves, Point, Scale, backtests, hit_rates, wanted
from budgeted.analysis.curves import FAMILIES, fit
from budgeted.analysis.forecast import forecast
from budgeted.core.budget import Budget
from budgeted.core.errors import StudyError

BUDGETS = {"1%": 10, "2%": 20, "5%": 50, "10%": 100, "25%": 250, "50%": 500}


def made(
    shelf, rows=4, seeds=3, budgets=BUDGETS, noise=0.02, gap=lambda x, row: 0.05 + (0.4 + 0.02 * row) * x**-0.5, **more
):
    """A study of rows whose accuracy follows a curve, with noise of its logarithm."""
    random = np.random.default_rng(3)
    cells = {
        (name, budget): list(1 - gap(steps / 10, row) * np.exp(noise * random.normal(size=seeds)))
        for row, name in enumerate(["linear", "a", "b", "c", "d", "e"][:rows])
        for budget, steps in budgets.items()
    }
    return shelf.study(cells, steps=budgets, **more)


def of(manifest, **how):
    return forecast(manifest, results.runs_of(manifest), **how)


@pytest.fixture
def found(shelf):
    return of(made(shelf))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(FAMILIES), st.lists(st.floats(0.001, 0.999), min_size=3, max_size=7))
def test_a_curve_never_rises_and_its_gap_is_never_negative(family, gaps):
    """Whatever the points: the asymptote stays within the metric's range."""
    at = np.log(np.geomspace(10, 1000, len(gaps)))
    curve = np.exp(fit(family, at, np.log(gaps), 0.05)(np.linspace(at[0], at[-1] + 10, 50)))
    assert np.isfinite(curve).all()
    assert (curve >= 0).all()
    assert (np.diff(curve) <= 1e-9).all()


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_finds_its_own_curve_again(family):
    at = np.log(np.geomspace(10, 300, 7))
    floor = [0.4] if family.floor else []
    wanted = family(at - at[0], np.array([1.2, *floor, *family.centres]))
    assert fit(family, at, wanted, 0.02)(at) == pytest.approx(wanted, abs=0.02)


def test_the_response_is_that_of_a_new_fit():
    """The one step that stands for a refit of resampled seeds."""
    at, gaps = np.log([10.0, 50, 100, 250]), np.log([0.3, 0.15, 0.12, 0.09])
    for family in FAMILIES[:3]:
        before = fit(family, at, gaps, 0.02)
        moved = gaps + np.array([0, 0, 0.004, 0])
        after = fit(family, at, moved, 0.02)
        change = before.sensitivity(at[-1:])[0, 2] * 0.004
        assert after(at[-1:])[0] - before(at[-1:])[0] == pytest.approx(change, abs=0.0006)


def test_scales():
    assert Scale.of([0.5, 1.0], True).bound == 1
    assert Scale.of([20.0, 71.0], True).bound == 100
    assert Scale.of([2.0, 0.3], False).bound == 0
    assert Scale.of([-3.0, -1.0], True).bound == 5  # a reward: nobody knows its bound
    assert Scale.of([-1.0, 1.0], False).bound == -7
    for scale in (Scale.of([0.5, 1.0], True), Scale.of([2.0, 0.3], False)):
        assert scale.value(scale.log_gap(0.7)) == pytest.approx(0.7)
    assert np.isfinite(Scale.of([1.0, 0.9], True).log_gap(1.0))


def test_backtests_are_of_later_budgets_and_of_those_left_out():
    points = [Point(name, steps, (0.5 + steps / 2000,)) for name, steps in BUDGETS.items()]
    tests = list(backtests("linear", points, Scale(1.0, True, 1e-4)))
    assert [(t.budget, t.ratio) for t in tests if t.ratio > 1] == [
        ("10%", 2), ("25%", 5), ("50%", 10), ("25%", 2.5), ("50%", 5), ("50%", 2),
    ]  # fmt: skip
    assert [t.budget for t in tests if t.ratio == 1] == ["2%", "5%", "10%", "25%"]
    assert not list(backtests("linear", points[:3], Scale(1.0, True, 1e-4)))


def test_how_many_backtests_a_level_needs():
    assert [wanted(level) for level in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]


def curve(name, random):
    """The logarithm of a gap over t, of a family with parameters drawn at random."""
    family = next(f for f in FAMILIES if f.name == name)
    floor = [random.uniform(0.1, 0.9)] if family.floor else []
    parameters = np.array([random.uniform(1.0, 1.6), *floor, *(c + 0.3 * random.normal() for c in family.centres)])
    return lambda t: family(t, parameters) + np.log(0.1)


@pytest.mark.parametrize("name", ["power", "power-floor", "inverse-log", "hill", "janoschek"])
def test_intervals_hold_about_as_often_as_they_say(name):
    """Studies of six rows of a family: the two largest budgets are hidden, and forecast at 90 %."""
    random = np.random.default_rng(5)
    steps, hits, scale = np.array([10, 20, 40, 80, 160, 320, 480.0]), [], Scale(1.0, True, 1e-6)
    for _ in range(4):
        rows = {}
        for row in range(6):
            gaps = curve(name, random)(np.log(steps / 10))
            values = 1 - np.exp(gaps[:, None] + 0.04 * random.normal(size=(7, 3)))
            rows[str(row)] = [Point(str(s), s, tuple(v)) for s, v in zip(steps, values, strict=True)]
        tests = [t for row, points in rows.items() for t in backtests(row, points[:5], scale)]
        calibration = Calibration.by(tests, 0.9)
        for row, points in rows.items():
            curves = Curves.through(points[:5], scale)
            for point in points[5:]:
                observed = float(np.median(scale.log_gap(point.values)))
                prediction = curves(np.log([point.steps]))
                hits.append(calibration.hits(Backtest(row, point.budget, point.steps / 160, observed, prediction)))
    assert len(hits) == 48
    assert 0.8 <= np.mean(hits) <= 1.0


def test_the_hit_rate_leaves_the_row_out_that_it_is_counted_on():
    """A row unlike the others is missed by what they say."""
    smooth = [
        [Point(str(s), s, (1 - 0.5 * (s / 10) ** -c,)) for s in (10, 20, 50, 100)] for c in np.linspace(0.3, 0.5, 10)
    ]
    odd = [Point(str(s), s, (v,)) for s, v in ((10, 0.5), (20, 0.6), (50, 0.7), (100, 0.2))]
    scale = Scale(1.0, True, 1e-4)
    tests = [t for k, points in enumerate([*smooth, odd]) for t in backtests(str(k), points, scale)]
    beyond = next(hits for hits in hit_rates(tests, 0.9) if hits.most > 1)
    assert (beyond.tests, beyond.hits) == (11, 10)


def test_the_target_and_the_budget_agree(found):
    assert found.row == "linear"
    at = found.at(400)
    back = found.needed(at.centre)
    assert back.steps == pytest.approx(400, rel=0.01)
    assert at.low < at.centre < at.high < 1
    assert back.low < 400 < (back.high or np.inf)
    assert at.centre == pytest.approx(1 - (0.05 + 0.4 * 40**-0.5), abs=0.01)
    assert found.pace.amounts(400) == pytest.approx(
        {"steps": 400, "epochs": 40, "share": 0.4, "seconds": 400 / 75}, rel=3
    )


def test_a_budget_in_any_unit(found):
    steps = found.pace.steps
    assert [steps(Budget.parse(text)) for text in ("20ep", "300 steps", "50%", "20ep or 10%")] == [200, 300, 500, 100]
    assert steps(Budget.parse("10s")) == pytest.approx(10 / found.pace.spent["seconds"])
    with pytest.raises(StudyError, match="ends at a moment, which is no amount"):
        steps(Budget.parse("until 18:00"))
    with pytest.raises(StudyError, match="did not count flops; write it in one of updates, epochs"):
        steps(Budget.parse("1e12 FLOP"))


def test_less_may_be_better(shelf):
    cells = {
        (row, budget): [0.2 + (2 + k / 10) * (steps / 10) ** -0.5] * 2
        for k, row in enumerate(("x", "y", "z", "w"))
        for budget, steps in BUDGETS.items()
    }
    found = of(shelf.study(cells, steps=BUDGETS, maximize=False))
    assert found.row == "x"  # without linear, the best at the largest budget
    assert found.at(500).centre < found.at(250).centre < found.at(100).centre
    assert found.needed(0.6).steps == pytest.approx(10 * 5**2, rel=0.15)
    with pytest.raises(StudyError, match="beyond the best possible, 0"):
        found.needed(-0.1)


def test_what_was_not_shown_to_hold_is_refused(found):
    assert 2 <= found.reach <= 5  # at 10 times there are but four backtests
    with pytest.raises(
        StudyError, match=r"are 20 times the largest budget: .* so nothing is said beyond .*; train the row"
    ):
        found.at(10_000)
    with pytest.raises(StudyError, match=r"accuracy 0.99 is not reached by .* is to be expected"):
        found.needed(0.99)
    with pytest.raises(StudyError, match="beyond the best possible, 1; ask for one that can be"):
        found.needed(1.2)
    with pytest.raises(StudyError, match="less than the smallest budget"):
        found.at(3)


def test_a_target_that_the_smallest_budget_reaches(found):
    reached = found.needed(0.2)
    assert (reached.steps, reached.low) == (10, None)


def test_a_level_that_so_few_backtests_cannot_give(shelf):
    manifest = made(shelf, rows=3, budgets={b: BUDGETS[b] for b in ("1%", "5%", "10%", "25%")})
    with pytest.raises(StudyError, match=r"needs 9 held-out budgets .* there are 2: .* level of 0.66 or less"):
        of(manifest)
    assert of(manifest, level=0.6).level == 0.6
    with pytest.raises(StudyError, match=r"from 0\.5 to less than 1, and was 1"):
        of(manifest, level=1.0)


def test_too_few_budgets(shelf):
    manifest = made(shelf, budgets={b: BUDGETS[b] for b in ("1%", "5%", "10%")})
    with pytest.raises(StudyError, match="no row has finished runs at more than 3: train at others too"):
        of(manifest)
    with pytest.raises(StudyError, match=r"row 'a' has finished runs at 3 \(1%, 5%, 10%\)"):
        of(manifest, row="a")


def test_one_row_needs_many_budgets(shelf):
    with pytest.raises(StudyError, match=r"an interval of level 0\.9 needs 9 held-out budgets"):
        of(made(shelf, rows=1))
    found = of(made(shelf, rows=1), level=0.5)
    assert found.rows == 1


def test_unknown_names(shelf):
    manifest = made(shelf)
    with pytest.raises(StudyError, match="no row 'liner'; did you mean 'linear'"):
        of(manifest, row="liner")
    with pytest.raises(StudyError, match="no task 'u'"):
        of(manifest, task="u")


def test_a_row_that_follows_the_metric_has_no_curve(shelf):
    manifest = made(shelf)
    for cell in manifest.content["cells"]:
        cell["spec"]["schedule"] = "plateau"
    runs = results.runs_of(made(type(shelf)(shelf.out / "other")))
    with pytest.raises(StudyError, match=r"row 'a' follows the metric, not the budget \(plateau\)"):
        forecast(manifest, runs, row="a")


def test_failures_odd_values_and_one_seed_are_said(shelf):
    manifest = made(shelf, seeds=1)
    runs = results.runs_of(manifest)
    of_a = runs.index[runs["row"] == "a"]
    runs.loc[of_a[0], "status"] = "failed"
    runs.loc[of_a[1], "best"] = np.nan
    manifest.content["cells"] = [
        {**cell, "spec": {**cell["spec"], "schedule": "step-d2 over 100ep"}} if cell["row"] == "a" else cell
        for cell in manifest.content["cells"]
    ]
    remarks = " ".join(forecast(manifest, runs, row="a", level=0.8).remarks)
    assert "Row 'a' is stopped early (step-d2 over 100ep)" in remarks
    assert "1 of the row's 6 runs failed and are left out" in remarks
    assert "1 of the row's runs ended without a finite value" in remarks
    assert "One seed: the interval rests on" in remarks


def test_a_perfect_metric_is_no_error(shelf):
    """1 - accuracy has a logarithm even then."""
    cells = {(row, b): [min(1.0, 0.9 + k / 50)] * 2 for row in "abcd" for k, b in enumerate(BUDGETS)}
    found = of(shelf.study(cells, steps=BUDGETS))
    assert 0.98 < found.at(500).centre <= 1
