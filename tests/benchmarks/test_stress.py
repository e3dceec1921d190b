"""The deadline harness: what it plans, what its task brings about, and how it judges."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stress import KINDS, SEVERAL, SINGLE, Outcome, planned, verdict
from troubled import SLOWER, VARIABLE, Trouble, Troubled

from budgeted.core.record import RunFolder, Spec
from budgeted.train.loop import fit

SECONDS = (5.0, 20.0)


@given(st.integers(0, 10_000), st.integers(0, 10))
def test_a_number_and_a_seed_decide_the_run(number, seed):
    assert planned(number, seed, SECONDS) == planned(number, seed, SECONDS)
    assert planned(number, seed, SECONDS) != planned(number + len(KINDS), seed, SECONDS)


@given(st.integers(0, 10_000))
def test_no_stall_is_longer_than_can_be_made_up_for(number):
    _, seconds, trouble = planned(number, 0, SECONDS)
    assert SECONDS[0] <= seconds <= SECONDS[1]
    for begin, end in trouble.stalls:
        assert 0 < end - begin <= 0.3
        assert end <= 0.9 or end - begin <= 0.01 + 1e-9


@pytest.mark.parametrize("kind", SINGLE)
def test_a_single_trouble_comes_alone(kind):
    _, _, trouble = planned(KINDS.index(kind), 0, SECONDS)
    quiet = Trouble(update=trouble.update, batch_norm=trouble.batch_norm)
    differing = {name for name, value in asdict(trouble).items() if value != asdict(quiet)[name]}
    assert len(differing - {"in_data", "stalls"}) == ("stall" not in kind)
    assert bool(trouble.stalls) == ("stall" in kind)


def test_in_a_quiet_run_nothing_goes_wrong():
    _, _, trouble = planned(KINDS.index("quiet"), 0, SECONDS)
    assert trouble == Trouble(update=trouble.update, batch_norm=trouble.batch_norm)


def test_several_stalls_add_up():
    runs = [planned(KINDS.index(SEVERAL) + k * len(KINDS), 0, SECONDS)[2] for k in range(100)]
    lengths = [[end - begin for begin, end in run.stalls] for run in runs]
    assert any(len(some) > 5 and max(some) > 0.02 for some in lengths)


def test_a_standstill_lasts_from_its_beginning_to_its_end():
    trouble = Trouble(stalls=[(0.25, 0.5), (0.75, 0.875)])
    assert [trouble.standstill(now) for now in (0.0, 0.25, 0.375, 0.5, 0.75, 0.9)] == [0, 0.25, 0.125, 0, 0.125, 0]


def test_updates_are_three_times_as_slow_while_a_slow_down_lasts():
    trouble = Trouble(update=0.5, slow=(0.25, 0.75))
    assert [trouble.update_seconds(now) / 0.5 for now in (0.0, 0.25, 0.5, 0.75)] == [1, SLOWER, SLOWER, 1]


def test_the_task_sleeps_where_its_trouble_says(monkeypatch, tmp_path):
    trouble = Trouble(update=0.001, start=0.02, evaluations=[0.03, 0.04], save=0.05, sync=0.06)
    monkeypatch.setenv(VARIABLE, json.dumps({"trouble": asdict(trouble), "began": 0.0, "seconds": 1.0}))
    monkeypatch.setattr(torch, "save", torch.save)  # put back at the end
    monkeypatch.setattr(os, "fsync", os.fsync)
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    spec = Spec("troubled", "20 steps", "linear", deterministic=True)
    rows = list(fit(Troubled(), spec, RunFolder.create(tmp_path, spec)))
    assert rows[-1]["steps"] == 20
    assert slept.count(0.001) == 20
    assert slept.count(0.02) == 1
    assert [seconds for seconds in slept if seconds in (0.03, 0.04)] == [0.03, 0.04]
    assert {0.05, 0.06} <= set(slept)


def outcome(wall: float, said: str = "", **trouble) -> Outcome:
    return Outcome(7, "quiet", 10.0, Trouble(**trouble), 4.0, wall, said, wall, 250, 0.004, 1.0)


@pytest.mark.parametrize(
    ("wall", "update", "missed"),
    [(9.9, 0.01, False), (10.05, 0.01, False), (10.2, 0.01, True), (10.2, 0.3, False), (10.4, 0.3, True)],
)
def test_over_by_an_update_or_a_hundredth_is_no_miss(wall, update, missed):
    assert outcome(wall, update=update).missed is missed


def test_at_the_end_of_a_slow_down_an_update_is_a_slow_one():
    assert outcome(10.2, update=0.1).missed
    assert not outcome(10.2, update=0.1, slow=(0.5, 2.0)).missed


def test_a_refusal_is_no_miss():
    assert not outcome(14.0, "error: nothing is left").missed
    assert "refused" in verdict([outcome(14.0, "error: nothing is left")])


def test_the_verdict_names_what_missed():
    assert "1 of 2 (aim: none): runs 7;" in verdict([outcome(9.9), outcome(10.2)])
    assert "median rate of the last update: 0.00400" in verdict([outcome(9.9), outcome(10.2)])
