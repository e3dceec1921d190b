"""Which runs begin alike: what is foreseen is what a ledger does, update for update."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted.core.budget import Budget, Terms
from budgeted.core.drive import factors
from budgeted.core.record import Spec
from budgeted.core.spec import schedule as read_schedule
from budgeted.study import sharing

TERMS = Terms(10, Budget.parse("20ep"))


def spec(budget: str, schedule: str, **more) -> Spec:
    return Spec("t", budget, schedule, **more)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (spec("20ep", "const"), spec("3ep", "const"), 30),
        (spec("20ep", "const"), spec("20ep", "step-d1"), 100),
        (spec("20ep", "const"), spec("99 steps", "step-d2"), 33),
        (spec("20ep", "exp.97 over 20ep"), spec("3ep", "exp.97 over 20ep"), 30),
        (spec("20ep", "linear"), spec("10ep", "linear"), 1),
        (spec("20ep", "htd"), spec("10ep", "const"), 0),
        (spec("20ep", "warmup(13 steps, wsd)"), spec("10ep", "warmup(13 steps, wsd)"), 13 + 70),
        (spec("20ep", "const"), spec("3ep", "const", seed=1), 0),
        (spec("20ep", "const"), spec("3ep", "const", lr=0.2), 0),
        (spec("20ep", "const"), spec("3ep", "const", subset=0.5), 0),
        (spec("20ep", "const", average="ema"), spec("3ep", "const", average="ema"), 0),
        (spec("20ep", "const"), spec("30s", "const"), 0),
        (spec("20ep", "plateau"), spec("3ep", "plateau"), 0),
        (spec("20ep", "one-cycle"), spec("20ep", "one-cycle"), 0),
        (spec("20ep", "const", optimizer="schedule-free-sgd"), spec("3ep", "const", optimizer="schedule-free-sgd"), 0),
        (spec("20ep", "const"), spec("3ep", "const", evaluations=2, refresh=False), 30),
    ],
)
def test_how_far_two_runs_are_the_same(one, other, expected):
    assert sharing.shared(one, other, TERMS) == sharing.shared(other, one, TERMS) == expected


SCHEDULES = st.sampled_from(["const", "linear", "step-d1", "step-d3", "exp.97 over 9ep", "wsd", "floor(cosine, 0.5)"])
RUNS = st.builds(lambda steps, text: spec(f"{steps} steps", text), st.integers(1, 120), SCHEDULES)


@given(RUNS, RUNS)
def test_it_is_the_length_of_the_common_beginning(one, other):
    a, b = (list(factors(read_schedule(s.schedule), Budget.parse(s.budget), TERMS)) for s in (one, other))
    common = next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert sharing.shared(one, other, TERMS) == common
    assert (sharing.length(one, TERMS), sharing.length(other, TERMS)) == (len(a), len(b))


@given(st.lists(RUNS, max_size=8, unique=True))
def test_every_run_is_in_one_group_with_those_that_it_shares_enough_with(specs):
    groups = sharing.groups(specs, {"t": TERMS})
    assert sorted(s.name for g in groups for s in g) == sorted(s.name for s in specs)
    for trunk, *others in groups:
        for other in others:
            assert sharing.shared(trunk, other, TERMS) >= 16
            assert sharing.length(other, TERMS) <= sharing.length(trunk, TERMS)


def test_table_2s_constant_and_stepped_runs_begin_together():
    from budgeted.study.plan import Facts
    from budgeted.study.read import read_study

    facts = {"cifar10": Facts("200ep", 352, "accuracy", True)}
    specs = [c.spec for c in read_study("table2").narrowed(seeds=[0]).cells(facts)]
    together = [g for g in sharing.groups(specs, {"cifar10": facts["cifar10"].terms}) if len(g) > 1]
    assert [len(group) for group in together] == [24]
    assert {s.schedule.partition("(")[0].partition("-")[0] for s in together[0]} == {"const", "step"}


def test_a_trunk_is_not_shared_for_a_few_updates():
    few = [spec("20ep", "const"), replace(spec("12 steps", "const"))]
    assert [len(group) for group in sharing.groups(few, {"t": TERMS})] == [1, 1]
