"""Real processes over gloo. Rank 0's clock is fake, and the others' must not be read, but where a test is of real time."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator

import pytest
import stories
from stories import Processes, cap

from budgeted import BudgetError
from budgeted.core.ledger import Ledger
from budgeted.train.ranks import RanksApart


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Iterator[Processes]:
    group = Processes(2, tmp_path_factory.mktemp("two"))
    yield group
    group.close()


@pytest.fixture
def three(tmp_path) -> Iterator[Processes]:
    """For a story that not all of them survive."""
    group = Processes(3, tmp_path)
    yield group
    group.close()


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> Iterator[Processes]:
    group = Processes(4, tmp_path_factory.mktemp("four"))
    yield group
    group.close()


@pytest.fixture(params=["two", "four"])
def processes(request) -> Processes:
    return request.getfixturevalue(request.param)


def same(answers):
    """What all ranks said, which must be the same to the last bit."""
    first, *others = answers
    for rank, other in enumerate(others, 1):
        for k, (a, b) in enumerate(itertools.zip_longest(first, other)):
            assert a == b, f"rank {rank} at {k}"
    return first


SECONDS = [cap("seconds", 4)]
STEPS_OF_A_RAMP = [cap("steps", 90)]
BUDGETS = {
    "seconds": SECONDS,
    "a deadline": [cap("clock", 1004)],
    "seconds or samples": [cap("samples", 30_000), cap("seconds", 4)],
    "steps or seconds": [cap("steps", 700), cap("seconds", 4)],
    "energy": [cap("joules", 200)],
    "tokens": [cap("tokens", 70_000)],
    "FLOPs or a deadline": [cap("flops", 3e17), cap("clock", 1004)],
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_all_ranks_are_at_the_same_progress(processes, budget):
    """At every update, to the last bit, and so are the rates that follow from it, the stop, and what is spent."""
    *updates, (progress, state) = same(processes(stories.train, BUDGETS[budget], [], "noise", stories.nothing))
    ran_at = [p for p, *_ in updates]
    assert ran_at[0] == 0
    assert ran_at[-1] > 0.95
    assert ran_at == sorted(ran_at)
    assert max(b - a for a, b in itertools.pairwise(ran_at)) < 0.1  # energy is read off its counter now and then
    assert (progress, state["done"]) == (1.0, True)
    assert [done for *_, done, _ in updates] == [False] * (len(updates) - 1) + [True]


@pytest.mark.parametrize("warmup", [[], STEPS_OF_A_RAMP, [cap("seconds", 0.4)], [cap("clock", 1000.4)]])
@pytest.mark.parametrize("cost", stories.COSTS)
def test_time_goes_as_in_one_process(two, cost, warmup):
    """As many updates, at the same progress but for the small part that a straight line may be off."""
    *updates, (_, state) = same(two(stories.train, SECONDS, warmup, cost, stories.nothing))
    clock = stories.Clock(0)
    ledger, alone = Ledger(SECONDS, warmup=warmup, clock=clock, wall=clock), []
    while not ledger.done:
        alone.append((ledger.progress, ledger.warmup_progress))
        clock.wait(stories.COSTS[cost](len(alone) - 1))
        ledger.update()
    assert len(updates) == pytest.approx(len(alone), abs=1 if cost != "stalls" else 13)
    for (p, w, *_), (expected, expected_w) in zip(updates, alone, strict=False):
        assert p == pytest.approx(expected, abs=0.03)  # where the updates become slow, an interval late
        assert (w, expected_w) == (None, None) or w == pytest.approx(expected_w, abs=0.03)
    assert state["spent"]["seconds"] <= 4 or cost == "stalls"


@pytest.mark.parametrize(
    "happens",
    [stories.evaluated_by_rank_0, stories.evaluated_by_all, stories.broken_off, stories.forecast, stories.skipped,
     stories.a_wall_clock_set_forward, stories.extended, stories.extended_everywhere, stories.synchronised],
)  # fmt: skip
@pytest.mark.parametrize("budget", ["a deadline", "steps or seconds", "tokens"])
def test_what_happens_to_one_happens_to_all(two, budget, happens):
    *updates, (_, state) = same(two(stories.train, BUDGETS[budget], STEPS_OF_A_RAMP, "steady", happens))
    ran_at = [p for p, *_ in updates]
    assert ran_at == sorted(ran_at)
    assert ran_at[-1] > 0.95
    if happens is stories.evaluated_by_rank_0:
        assert state["activities"].keys() == {"evaluation"}
        assert state["activities"]["evaluation"]["seconds"] == pytest.approx(0.25 * (len(updates) // 150))
    if happens is stories.broken_off:
        assert state["activities"]["evaluation, broken off"]["seconds"] == 1.0
    if happens is stories.skipped:
        assert state["spent"]["steps"] == len(updates) - 2 * ((len(updates) + 29) // 90)
        assert budget != "steps or seconds" or state["spent"]["steps"] == 700
    if happens is stories.a_wall_clock_set_forward and budget == "a deadline":
        assert state["spent"]["seconds"] == pytest.approx(2, abs=0.01)
    if happens in (stories.extended, stories.extended_everywhere):
        assert updates[-1][-1].resource == "seconds"
        assert state["spent"]["seconds"] == pytest.approx(14, abs=0.01)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens(two, four, seed):
    seen = same((two if seed % 2 else four)(stories.whatever, seed))
    ran_at = [each[0] for each in seen if isinstance(each[0], float)]
    assert ran_at == sorted(ran_at)
    assert all(0 <= p <= 1 for p in ran_at)


@pytest.mark.parametrize("warmup", [[], STEPS_OF_A_RAMP])
def test_steps_go_as_in_one_process_to_the_last_bit(processes, warmup):
    caps = [cap("steps", 777)]
    amounts = {"samples": 32 * len(processes.processes)}
    assert same(processes(stories.counted, caps, warmup, {"samples": 32})) == stories.alone(caps, warmup, amounts)


@pytest.mark.parametrize("resource", ["samples", "tokens", "flops"])
def test_even_counts_go_as_in_one_process_to_the_last_bit(processes, resource):
    """Summed over the ranks, whenever that happens to be."""
    caps, count = [cap(resource, 100_001)], len(processes.processes)
    assert same(processes(stories.counted, caps, [], {resource: 48})) == stories.alone(caps, [], {resource: 48 * count})


def test_uneven_batches_are_summed_and_end_together(four):
    """Batches of other sizes, and fewer of them on some ranks: an epoch is what all have."""
    batches = [[32] * 12, [7] * 12, [1, 60] * 5, [33] * 11]
    answers = four(stories.uneven, [cap("samples", 9000)], batches)
    ran_at, spent = same([(*seen, spent) for seen, spent in answers])[:-1], answers[0][1]
    assert ran_at == tuple(sorted(ran_at))
    epochs, rest = divmod(len(ran_at), 10)
    used = [epochs * sum(each[:10]) + sum(each[:rest]) for each in batches]
    assert spent["samples"] == sum(used)
    assert 9000 <= sum(used) < 9000 + 32 + 7 + 60 + 33, "less than one update more"


@pytest.mark.parametrize(
    ("caps", "seconds", "updates", "most"),
    [
        ([cap("steps", 1000)], 0.0001, 1000, 22),  # never more than 64 updates without one
        ([cap("steps", 1000)], 0.005, 1000, 110),
        ([cap("steps", 50)], 0.4, 50, 51),
        ([cap("seconds", 10)], 0.005, 2000, 210),
        ([cap("seconds", 1000)], 0.2, 100, 101),
    ],
)
def test_there_is_an_exchange_every_50_ms_and_at_most_one_an_update(two, caps, seconds, updates, most):
    for steps, collectives in two(stories.agreements, caps, seconds, updates):
        assert (steps, collectives) == (pytest.approx(updates, abs=1), pytest.approx(most, rel=0.2))


def test_time_that_ran_out_in_an_evaluation_ends_all_within_50_ms(processes):
    (before, after, last), *others = processes(stories.slow_evaluation, 20.0)
    assert others == [(before, after, last)] * len(others)
    assert 0 < after - before <= 5
    assert last == 1.0


@pytest.mark.parametrize("whom", [[0], [1], [0, 1]])
def test_a_signal_to_one_rank_stops_all_at_the_same_update(two, whom):
    seen = same(two(stories.interrupted, whom))
    assert seen == [None] * (len(seen) - 1) + [f"SIGTERM on rank {whom[0]}"]
    assert 500 < len(seen) <= 564


@pytest.mark.parametrize(("resource", "slow"), [("seconds", 0), ("clock", 1)])
def test_a_slow_rank_only_slows_the_rest(two, resource, slow):
    """Two real seconds, in which both make the updates that the slow one has time for."""
    *ran_at, steps, ended_by, spent = same(two(stories.real_time, [cap(resource, 2)], slow))
    assert steps == len(ran_at) == spent["steps"]
    assert spent["samples"] == 16 * steps
    assert ran_at == sorted(ran_at)
    assert ran_at[-1] > 0.5
    assert ended_by.resource == resource


@pytest.mark.parametrize(
    ("how", "timeout"), [(signal.SIGKILL, stories.PATIENCE), (signal.SIGTERM, stories.PATIENCE), (signal.SIGSTOP, 1.0)]
)
def test_a_rank_that_dies_ends_the_others(three, how, timeout):
    """At once where it is gone, after the timeout where it says nothing; and they stay apart."""
    for pipe in three.pipes:
        pipe.send((stories.one_ends, (how, timeout)))
    for rank, pipe in enumerate(three.pipes[:2]):
        sentence, again = three.answer(pipe)
        assert sentence.startswith(
            f"rank {rank} of 3 cannot reach the others: one of them has ended, or gave no answer"
        )
        assert again == sentence


def test_other_limits_on_some_ranks_are_refused(two):
    """Such as epochs of another length."""
    answers = two.answers(stories.other_limits, [[cap("steps", 100)], [cap("steps", 90), cap("seconds", 60)]])
    for error in answers:
        assert isinstance(error, BudgetError)
        assert str(error) == (
            "rank 1 has the limits '90 steps' (90 steps), '1min' (60 seconds), and rank 0 '100 steps' (100 steps); "
            "give all the same budget, warm-up, steps_per_epoch and devices"
        )


def test_other_states_on_some_ranks_are_refused(two):
    states = []
    for updates in (5, 6):
        ledger = Ledger([cap("steps", 100)])
        for _ in range(updates):
            ledger.update()
        states.append(ledger.state_dict())
    for rank, error in enumerate(two.answers(stories.other_states, states)):
        assert isinstance(error, RanksApart)
        assert str(error).startswith(
            f"rank {rank} has made {6 + rank} updates, and all 2 together 13: each must make the same"
        )


@pytest.mark.parametrize("budget", [[cap("steps", 200)], [cap("samples", 9600)], [cap("seconds", 4)]])
@pytest.mark.parametrize("updates", [20, 187])
def test_a_run_goes_on_with_another_number_of_ranks(two, four, budget, updates):
    """From four to two, and to a process of its own."""
    states = four(stories.first_half, budget, STEPS_OF_A_RAMP, updates)
    state, lost = states[0], 0.25
    assert (state["spent"]["steps"], state["spent"]["samples"]) == (updates, 48 * updates)
    seconds, activities, *ran_at, progress, ended_by, steps = same(
        two(stories.second_half, budget, STEPS_OF_A_RAMP, state, lost)
    )
    assert seconds == pytest.approx(0.01 * updates + 0.5 + lost)
    assert activities["checkpoint"].seconds == 0.5
    assert ran_at[0] == state["progress"]
    assert (progress, ended_by) == (1.0, budget[0])
    clock = stories.Clock(0)
    ledger, alone = Ledger(budget, warmup=STEPS_OF_A_RAMP, clock=clock, wall=clock), []
    ledger.load_state_dict(state, lost)
    while not ledger.done:
        alone.append(ledger.progress)
        clock.wait(0.01)
        ledger.update(samples=48)
    if budget[0].resource == "seconds":
        assert ran_at == pytest.approx(alone, abs=0.02)
    else:
        assert (ran_at, steps) == (alone, ledger.steps)


def test_what_counts_of_the_beginning_is_rank_0s(two):
    assert same(two(stories.clock_from_the_first_step)) == [2.0, 3.0, 4.0, 5.0]
    assert same(two(stories.nothing_left)) == (True, 1.0)


@pytest.mark.parametrize("callers", [(0,), (0, 1)])
def test_rank_0_changes_the_budget_of_a_loop(two, callers):
    """All change over at the same update, whether the others call too or not; and closing lets go of them."""
    for _ in range(2):
        *updates, (budget, schedule, steps) = same(two(stories.changed_in_a_loop, callers))
        factors = [factor for _, factor in updates]
        assert factors[:300] == [1.0] * 300
        assert 400 <= steps <= 400 + 64  # counted from where all heard of it
        assert factors == sorted(factors, reverse=True)
        assert 0 < factors[-1] < 0.02
        assert budget == f"{steps} steps"
        assert schedule.startswith("cooldown(")


def test_what_others_than_rank_0_ask_for_is_not_heard(two):
    *updates, (budget, _, steps) = same(two(stories.changed_in_a_loop, (1,)))
    assert (budget, steps, len(updates)) == ("400 steps", 400, 400)
