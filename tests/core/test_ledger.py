from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budgeted.core.budget import Amount, Cap
from budgeted.core.errors import BudgetError
from budgeted.core.ledger import Ledger


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = self.start = now

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds

    @property
    def passed(self) -> float:
        return self.now - self.start


def cap(resource: str, amount: float) -> Cap:
    return Cap(
        resource,
        amount,
        Amount(float(amount), {"seconds": "s", "clock": "s", "flops": "FLOP", "joules": "J"}.get(resource, resource)),
    )


def run(ledger: Ledger, clock: Clock, cost: Callable[[int], float] = lambda _: 1.0) -> Iterator[tuple[int, float]]:
    """Update until the budget ends; yields each update's number and the progress it ran at, after it happened."""
    k = 0
    while not ledger.done:
        p = ledger.progress
        clock.wait(cost(k))
        ledger.update()
        yield k, p
        k += 1


def progress_of(ledger: Ledger, clock: Clock, cost: Callable[[int], float] = lambda _: 1.0) -> list[float]:
    return [p for _, p in run(ledger, clock, cost)]


# Limits that are counted


@pytest.mark.parametrize("total", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("beside", [[], [cap("seconds", 1e6)], [cap("tokens", 1e9), cap("clock", 1e9)]])
def test_update_k_of_T_runs_at_k_over_T(total, beside):
    """To the last bit, also with looser limits beside it, in seconds too."""
    clock = Clock()
    ledger = Ledger([*beside, cap("steps", total)], clock=clock, wall=clock)
    assert progress_of(ledger, clock, lambda k: 3.0 if k % 5 else 40.0) == [k / total for k in range(total)]
    assert (ledger.progress, ledger.steps, ledger.ended_by) == (1.0, total, cap("steps", total))


@pytest.mark.parametrize("total", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("resource", ["samples", "tokens", "flops"])
def test_other_counts_are_as_exact(total, resource):
    ledger, seen = Ledger([cap(resource, 128 * total)]), []
    while not ledger.done:
        seen.append(ledger.progress)
        ledger.update(**{resource: 128})
    assert seen == [k / total for k in range(total)]
    assert ledger.spent()[resource] == 128 * total


def test_the_last_partial_update_ends_the_run():
    ledger = Ledger([cap("samples", 100)])
    for _ in range(3):
        ledger.update(samples=32)
    assert (ledger.progress, ledger.done) == (0.96, False)
    ledger.update(samples=32)
    assert (ledger.progress, ledger.done) == (1.0, True)


def test_skipped_updates_are_taken_back():
    """Progress waits for them instead of going back."""
    ledger, seen = Ledger([cap("steps", 10)]), []
    for _ in range(5):
        ledger.update()
    ledger.skipped(2)
    for _ in range(4):
        ledger.update()
        seen.append(ledger.progress)
    assert seen == [0.5, 0.5, 0.6, 0.7]


# Limits in time: 100 s, updates of 0.05 s when nothing disturbs them


def evaluate(ledger: Ledger, clock: Clock, seconds: float = 1.0, more: int | None = None) -> None:
    with ledger.measure("evaluation", more):
        clock.wait(seconds)


TIMES: dict[str, Callable[[int], float]] = {
    "steady": lambda _: 0.05,
    "a tenfold first update": lambda k: 0.05 if k else 0.5,
    "a long stall": lambda k: 20.0 if k == 700 else 0.05,
    "an early stall": lambda k: 30.0 if k == 2 else 0.05,
    "a late stall": lambda k: 20.0 if k == 1500 else 0.05,
    "threefold slower half way": lambda k: 0.05 if k < 1000 else 0.15,
    "threefold faster": lambda k: 0.15 if k < 300 else 0.05,
    "unmeasured evaluations": lambda k: 0.05 if (k + 1) % 200 else 1.05,
    "noise": lambda k: 0.05 * (1 + k * 7919 % 13 / 13),
}


@pytest.mark.parametrize("resource", ["seconds", "clock"])
@pytest.mark.parametrize("name", TIMES)
def test_time_ends_with_its_schedule(name, resource):
    """Inside the limit, by one update at most, and the last update ran at hardly any rate."""
    clock, cost = Clock(), TIMES[name]
    limit = cap(resource, 100 if resource == "seconds" else 1100)
    ledger = Ledger([limit], clock=clock, wall=clock)
    seen = progress_of(ledger, clock, cost)
    assert 100 - 1.6 * min(cost(len(seen)), cost(len(seen) - 1)) <= clock.passed <= 100 + 1e-9  # noise needs its margin
    assert 1 - seen[-1] < 0.005
    assert seen == sorted(seen)
    assert (ledger.progress, ledger.ended_by) == (1.0, limit)


def test_steady_time_is_k_over_T():
    """From the second update on; the first pays for start-up too and says nothing of its own cost."""
    clock = Clock(0.0)
    seen = progress_of(Ledger([cap("seconds", 1000)], clock=clock), clock)
    assert seen == pytest.approx([0, *(k / 1000 if k > 1 else 0 for k in range(1, 999))], abs=1e-9)


def test_noise_seldom_leads_past_the_end():
    """The last update must fit in also when it is one of the slower ones."""
    late = 0
    for limit in range(10, 50):
        clock = Clock()
        list(run(Ledger([cap("seconds", limit)], clock=clock), clock, TIMES["noise"]))
        late += clock.passed > limit
    assert late <= 10


def test_unmeasured_evaluations_are_expected_again():
    """After two of ten the decay reckons with the rest: progress is close to the share of the updates."""
    clock = Clock()
    seen = progress_of(Ledger([cap("seconds", 100)], clock=clock), clock, TIMES["unmeasured evaluations"])
    assert seen == pytest.approx([k / len(seen) for k in range(len(seen))], abs=0.03)


def test_measured_time_is_no_part_of_an_update():
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], clock=clock)
    for _ in range(6):
        clock.wait(1.0)
        ledger.update()
        evaluate(ledger, clock, 1.5)
    assert ledger.update_seconds == 1.0
    assert ledger.seconds == 15.0


def test_rounding_never_takes_progress_back():
    """A clock that shows years, and a plan made anew at each update."""
    clock = Clock(1e9)
    ledger, seen = Ledger([cap("seconds", 1)], clock=clock), []
    for _, p in run(ledger, clock, lambda k: 1e-4 * (k % 2)):
        seen.append(p)
        evaluate(ledger, clock, 0.0)
    assert seen == sorted(seen)


def test_progress_never_leaps():
    """A stall of a fifth of the budget shows as a faster decay, not as a jump of a fifth."""
    clock = Clock()
    seen = progress_of(Ledger([cap("seconds", 100)], clock=clock), clock, TIMES["a long stall"])
    steps = [b - a for a, b in itertools.pairwise(seen)]
    assert steps[600] == pytest.approx(1 / 2000, rel=1e-3)
    assert max(steps[2:]) < 1.6 / 2000


@pytest.mark.parametrize(
    ("cost", "fastest"),
    [
        # 1500 updates fit in before and 150 after: the decay may go ten times as fast, not more
        (lambda k: 0.05 if k < 500 else 0.5, 0.0053),
        # compiled anew at two of the first updates: 94 s remain for 1880
        (lambda k: 3.0 if k in (10, 20) else 0.05, 0.75 / 1000),
        (lambda k: 3.0 if k in (10, 20, 21, 40, 41) else 0.05, 0.75 / 1000),
    ],
    ids=["tenfold slower", "two compilations", "five compilations"],
)
def test_a_burst_of_stalls_is_not_expected_for_ever(cost, fastest):
    clock = Clock()
    seen = progress_of(Ledger([cap("seconds", 100)], clock=clock), clock, cost)
    assert max(b - a for a, b in itertools.pairwise(seen[2:])) < fastest
    assert 99 <= clock.passed <= 100 + 1e-9
    assert 1 - seen[-1] < 0.01


@pytest.mark.parametrize("told", [False, True])
def test_measured_evaluations_fit_in(told):
    """One every 250 updates, and one at the very end: it ends inside the budget too, by less than two updates."""
    clock = Clock()
    ledger, seen = Ledger([cap("seconds", 100)], clock=clock), []
    for k, p in run(ledger, clock, TIMES["steady"]):
        seen.append(p)
        if k % 250 == 249:
            evaluate(ledger, clock, more=8 - (k + 1) // 250 if told else None)
    evaluate(ledger, clock)
    assert 100 - 0.1 <= clock.passed <= 100 + 1e-9
    assert 1 - seen[-1] < 0.01
    assert seen == sorted(seen)
    assert ledger.activities["evaluation"].seconds == pytest.approx(ledger.activities["evaluation"].count)


def test_an_update_longer_than_the_budget_ends_it():
    clock = Clock()
    ledger = Ledger([cap("seconds", 10)], clock=clock)
    assert progress_of(ledger, clock, lambda _: 50.0) == [0.0]
    assert ledger.progress == 1.0


def test_time_outside_updates_ends_the_run_too():
    clock = Clock()
    ledger = Ledger([cap("seconds", 10)], clock=clock)
    clock.wait(9.0)
    assert not ledger.done
    clock.wait(1.0)
    assert ledger.done
    assert (ledger.progress, ledger.steps) == (1.0, 0)


def test_an_activity_does_not_end_the_run_before_it_is_over():
    clock = Clock()
    ledger = Ledger([cap("seconds", 10)], clock=clock)
    with ledger.measure("evaluation"):
        clock.wait(11)
        assert not ledger.done
    assert ledger.done


def test_nested_activities_are_charged_once():
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], clock=clock)
    with ledger.measure("evaluation"), ledger.measure("checkpoint"):
        clock.wait(3)
    assert {name: a.seconds for name, a in ledger.activities.items()} == {"evaluation": 3.0}


def test_an_activity_that_raises_is_charged_and_over():
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], clock=clock)

    def broken_evaluation():
        with ledger.measure("evaluation"):
            clock.wait(3)
            raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        broken_evaluation()
    assert ledger.activities["evaluation, broken off"].seconds == 3
    assert ledger.remaining() == {"seconds": 97}, "it says nothing of what a whole one costs"
    clock.wait(100)
    assert ledger.done


@pytest.mark.parametrize(
    ("prepare", "left"),
    [
        (lambda *_: None, 90),  # a reserve of 10
        (lambda _, clock: clock.wait(20), 70),
        (lambda ledger, clock: evaluate(ledger, clock, 5), 80 - 3.75),  # spent, once more at the end, and the doubt of one seen once
        (lambda ledger, clock: evaluate(ledger, clock, 5, more=3), 70 - 3.75),
        (lambda ledger, clock: evaluate(ledger, clock, 5, more=0), 85),
        (lambda ledger, _: ledger.expect("evaluation", 5), 85 - 3.75),
        (lambda ledger, _: ledger.expect("evaluation", 5, more=4), 70 - 3.75),
        (lambda ledger, _: [ledger.expect("evaluation", s) for s in (4, 5, 2)], 85 - 1.25),  # a third of the doubt of one
        (lambda ledger, clock: [evaluate(ledger, clock, 5, more=m) for m in (2, 1)], 75),  # two alike leave none
        (lambda ledger, clock: [evaluate(ledger, clock, s, more=1) for s in (2, 4)], 80 - 2),  # two unlike, half the worst
        (lambda ledger, clock: evaluate(ledger, clock, 40, more=1), 10 - 10 / 3),  # at most a third of the rest
        (lambda _, clock: clock.wait(95), 0),
    ],
)  # fmt: skip
def test_what_remains_is_for_training(prepare, left):
    clock = Clock()
    ledger = Ledger([cap("seconds", 100), cap("steps", 7)], reserve=10, clock=clock)
    prepare(ledger, clock)
    assert ledger.remaining() == pytest.approx({"seconds": left, "steps": 7})


def test_seconds_before_the_ledger_are_charged():
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], elapsed=40, clock=clock)
    assert (ledger.seconds, ledger.remaining()) == (40, {"seconds": 60})
    list(run(ledger, clock))
    assert 59 <= clock.passed <= 60


def test_the_clock_may_start_later():
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], elapsed=40, clock=clock)
    ledger.hold_clock()
    clock.wait(500)
    assert (ledger.done, ledger.seconds, ledger.remaining()) == (False, 40, {"seconds": 60})
    ledger.start_clock()
    clock.wait(10)
    ledger.start_clock()  # it runs already
    assert (ledger.seconds, ledger.remaining()) == (50, {"seconds": 50})


@pytest.mark.parametrize(("jump", "end"), [(30.0, 70.0), (-30.0, 130.0), (500.0, 51.0)])
def test_a_deadline_follows_the_wall_clock(jump, end):
    """A jump of that clock bends the decay; progress goes neither back nor by leaps, unless the end has come."""
    clock, shift = Clock(), [5e8]
    ledger, seen = Ledger([cap("clock", 5e8 + 1100)], clock=clock, wall=lambda: clock.now + shift[0]), []
    for _, p in run(ledger, clock, lambda _: 0.01):
        seen.append(p)
        if clock.passed > 50 and shift == [5e8]:
            shift[0] += jump
    assert end - 1 <= clock.passed <= end + 1e-6  # a jump is seen within some updates
    assert seen == sorted(seen)
    assert max(b - a for a, b in itertools.pairwise(seen)) < 5e-4
    assert ledger.progress == 1.0


# Energy: 100 W, updates of 0.05 s when nothing disturbs them


class Meter:
    """A counter of joules: what a device drew at some power while the clock went on."""

    def __init__(self, clock: Clock, power: float = 100.0) -> None:
        self._clock, self.power = clock, power
        self._joules, self._since = 5e6, clock.now  # it counts since the machine was started

    def __call__(self) -> float:
        self.draw(self.power)
        return self._joules

    def draw(self, power: float) -> None:
        """From now on so many watts."""
        self._joules += self.power * (self._clock.now - self._since)
        self._since, self.power = self._clock.now, power

    @property
    def drawn(self) -> float:
        return self() - 5e6


@pytest.mark.parametrize("name", TIMES)
def test_energy_ends_with_its_schedule(name):
    """Within one update and one reading of the counter, and the last update ran at hardly any rate."""
    clock, cost = Clock(), TIMES[name]
    meter, limit = Meter(clock), cap("joules", 10_000)
    ledger = Ledger([limit], clock=clock, meter=meter)
    assert ledger.timed
    assert ledger.meters
    seen = progress_of(ledger, clock, cost)
    last = max(cost(len(seen)), cost(len(seen) - 1))
    assert 10_000 - 100 * (2 * last + 0.1) <= meter.drawn <= 10_000 + 100 * 0.06
    assert 1 - seen[-1] < 0.01
    assert seen == sorted(seen)
    assert (ledger.progress, ledger.ended_by) == (1.0, limit)
    assert ledger.spent()["joules"] == pytest.approx(meter.drawn, abs=6)


def test_energy_follows_the_power_that_the_device_draws():
    """Three times as much from half way on: the decay goes three times as fast, without a leap, and both end together."""
    clock = Clock()
    meter = Meter(clock)
    ledger, seen = Ledger([cap("joules", 10_000)], clock=clock, meter=meter), []
    for k, p in run(ledger, clock, TIMES["steady"]):
        seen.append(p)
        if k == 999:
            meter.draw(300.0)
    assert meter.drawn == pytest.approx(10_000, abs=40)
    assert seen[1000] == pytest.approx(0.5, abs=0.01)
    assert 1 - seen[-1] < 0.01
    assert max(b - a for a, b in itertools.pairwise(seen)) < 2 * 3 / 2000


def test_evaluations_are_kept_time_for_in_joules():
    """At the mean power so far; the last one, too, ends inside the budget."""
    clock = Clock()
    meter = Meter(clock)
    ledger = Ledger([cap("joules", 10_000)], clock=clock, meter=meter)
    for k, _ in run(ledger, clock, TIMES["steady"]):
        if k % 250 == 249:
            evaluate(ledger, clock)
    assert ledger.remaining()["joules"] < 20
    evaluate(ledger, clock)
    assert 10_000 - 30 <= meter.drawn <= 10_000 + 6


@pytest.mark.parametrize(
    ("prepare", "left"),
    [
        (lambda *_: None, 10_000),
        (lambda ledger, clock: evaluate(ledger, clock, 5), 10_000 - 500 - 875),
        (lambda ledger, clock: evaluate(ledger, clock, 5, more=3), 10_000 - 500 - 1875),
        (lambda ledger, clock: evaluate(ledger, clock, 5, more=0), 10_000 - 500),
        (lambda ledger, clock: (evaluate(ledger, clock, 5, more=0), ledger.expect("checkpoint", 2)), 9500 - 350),
    ],
)
def test_what_remains_of_energy_is_for_training(prepare, left):
    clock = Clock()
    ledger = Ledger([cap("joules", 10_000)], clock=clock, meter=Meter(clock))
    prepare(ledger, clock)
    assert ledger.remaining() == pytest.approx({"joules": left})


@pytest.mark.parametrize(
    ("seconds", "joules", "binding", "end"),
    [(50, 10_000, "seconds", 50), (200, 10_000, "joules", 100), (1000, 20_000, "joules", 200)],
)
@pytest.mark.parametrize("order", [1, -1])
def test_energy_and_time_together(seconds, joules, binding, end, order):
    clock = Clock()
    caps = [cap("seconds", seconds), cap("joules", joules)][::order]
    ledger = Ledger(caps, clock=clock, meter=Meter(clock))
    seen = progress_of(ledger, clock, TIMES["steady"])
    assert end - 0.2 <= clock.passed <= end + 0.06
    assert ledger.ended_by.resource == binding
    assert seen == pytest.approx([k / len(seen) for k in range(len(seen))], abs=0.005)


def test_energy_and_steps_together():
    clock = Clock()
    ledger = Ledger([cap("joules", 10_000), cap("steps", 100)], clock=clock, meter=Meter(clock))
    assert progress_of(ledger, clock, TIMES["steady"]) == pytest.approx([k / 100 for k in range(100)], abs=1e-12)
    assert ledger.ended_by.resource == "steps"


def test_a_counter_that_falls_back_takes_nothing_back():
    clock, reading = Clock(), [1000.0]
    ledger = Ledger([cap("joules", 500)], clock=clock, meter=lambda: reading[0])
    spent = []
    for value in (1100.0, 1200.0, 900.0, 1000.0, 1250.0):
        reading[0] = value
        clock.wait(1.0)
        ledger.update()
        spent.append(ledger.spent()["joules"])
    assert spent == [100, 200, 200, 200, 250]


def test_the_counter_is_not_read_at_each_update():
    clock, readings = Clock(), []
    meter = Meter(clock)

    def counted() -> float:
        readings.append(clock.passed)
        return meter()

    ledger = Ledger([cap("joules", 10_000)], clock=clock, meter=counted)
    for _ in range(1000):
        clock.wait(0.001)
        ledger.update()
    assert 15 <= len(readings) <= 25


def test_without_a_counter_there_is_none():
    assert not Ledger([cap("steps", 3)]).meters


# Several limits


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("caps", "binding", "updates"),
    [
        ([cap("steps", 50), cap("seconds", 100)], "steps", 50),
        ([cap("steps", 2000), cap("seconds", 1000)], "seconds", 1000),
        ([cap("samples", 640), cap("steps", 21)], "samples", 20),
        ([cap("seconds", 1000), cap("clock", 1600)], "clock", 600),
        ([cap("steps", 3000), cap("samples", 1e5), cap("seconds", 300), cap("tokens", 1e9)], "seconds", 300),
    ],
)
def test_the_binding_limit_decides(caps, binding, updates, order):
    clock = Clock()
    caps = caps[::order]
    ledger, seen = Ledger(caps, clock=clock, wall=clock), []
    while not ledger.done:
        seen.append(ledger.progress)
        clock.wait(1.0)
        ledger.update(samples=32, tokens=7)
    assert updates - 1 <= len(seen) <= updates
    assert seen == pytest.approx(
        [k / updates for k in range(len(seen))], abs=2 / updates
    )  # time learns from two updates
    assert ledger.ended_by.resource == binding
    # What happens afterwards changes nothing.
    clock.wait(1e6)
    for _ in range(400):
        ledger.update(samples=32, tokens=7)
    assert (ledger.done, ledger.progress, ledger.ended_by.resource) == (True, 1.0, binding)


def test_the_lead_may_change():
    """Steps lead until the updates slow down; from there on time does, without a leap, and ends the run."""
    clock = Clock()
    ledger = Ledger([cap("steps", 1000), cap("seconds", 100)], clock=clock)
    seen = progress_of(ledger, clock, lambda k: 0.05 if k < 500 else 0.5)
    assert seen[:500] == [k / 1000 for k in range(500)]
    assert max(b - a for a, b in itertools.pairwise(seen)) < 0.5 / 145
    assert 99 <= clock.passed <= 100
    assert 1 - seen[-1] < 0.01
    assert ledger.ended_by.resource == "seconds"


@given(
    st.integers(2, 900),
    st.sampled_from([0.1, 0.9, 1.0, 1.1, 3.0]),
    st.lists(
        st.tuples(st.sampled_from([0.02, 0.5, 0.9, 1.0, 1.1, 1.9, 30.0]), st.integers(1, 200)), min_size=1, max_size=8
    ),
    st.sampled_from([0, 0, 50]),
    st.sampled_from([0, 0, 37]),
    st.booleans(),
)
@example(500, 1.1, [(0.9, 100), (1.9, 100)], 0, 0, False)  # steps decide until updates become slower
@example(500, 0.9, [(1.0, 100), (0.5, 100)], 0, 0, False)  # seconds, until they become faster
def test_what_decides_for_now_decides_as_if_all_limits_were_asked(
    steps, seconds_a_step, paces, evaluations, skips, killed
):
    """Of steps and seconds one is asked for a while; beside a third limit, which nothing spends, all are, each time."""
    clock = Clock()
    two = [cap("steps", steps), cap("seconds", seconds_a_step * steps)]
    caps = (two, [*two, cap("flops", 1e30)])
    ledgers = [Ledger(some, clock=clock) for some in caps]
    costs = itertools.cycle([pace * (1 + k % 7 / 50) for pace, times in paces for k in range(times)])
    for k, cost in enumerate(costs):
        clock.wait(cost)
        for ledger in ledgers:
            ledger.update()
        first, second = (ledger.done for ledger in ledgers)
        assert first == second
        assert ledgers[0].progress == pytest.approx(ledgers[1].progress, rel=1e-9, abs=1e-12)
        if first:
            break
        if evaluations and k % evaluations == 1:
            with ledgers[0].measure("evaluation"), ledgers[1].measure("evaluation"):
                clock.wait(2.0)
        if skips and k % skips == 1:
            for ledger in ledgers:
                ledger.skipped(1)
        if killed and k == 100:
            ledgers = [resumed(*pair, clock) for pair in zip(ledgers, caps, strict=True)]
    assert ledgers[0].ended_by.resource == ledgers[1].ended_by.resource


# Warm-up of absolute length


@pytest.mark.parametrize(("warmup", "total"), [(1, 2), (3, 10), (500, 1777)])
def test_progress_covers_what_a_warmup_leaves(warmup, total):
    ledger = Ledger([cap("steps", total)], warmup=[cap("steps", warmup)])
    seen, ramp = [], []
    while not ledger.done:
        seen.append(ledger.progress)
        ramp.append(ledger.warmup_progress)
        ledger.update()
    assert seen == [0.0] * warmup + [(t - warmup) / (total - warmup) for t in range(warmup, total)]
    assert ramp == [k / warmup for k in range(warmup)] + [None] * (total - warmup)
    assert ledger.progress == 1.0


def test_a_warmup_in_seconds_before_a_limit_in_steps():
    clock = Clock()
    ledger = Ledger([cap("steps", 300)], warmup=[cap("seconds", 20)], clock=clock)
    assert ledger.timed
    seen = progress_of(ledger, clock, lambda _: 0.5)
    assert seen == [0.0] * 40 + [(t - 40) / 260 for t in range(40, 300)]


def test_a_warmup_in_steps_before_a_limit_in_seconds():
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], warmup=[cap("steps", 20)], clock=clock)
    seen = progress_of(ledger, clock)
    assert seen == pytest.approx([0.0] * 20 + [k / 80 for k in range(79)], abs=1e-9)


def test_a_warmup_in_seconds_ramps_up():
    clock, ramp = Clock(), []
    ledger = Ledger([cap("seconds", 100)], warmup=[cap("seconds", 10)], clock=clock)
    for _ in range(10):
        ramp.append(ledger.warmup_progress)
        clock.wait(1.0)
        ledger.update()
    assert ramp == pytest.approx([0, 0, *(k / 10 for k in range(2, 10))])
    assert (ledger.warmup_progress, ledger.progress) == (None, 0.0)


def test_a_budget_that_ends_within_its_warmup():
    clock = Clock()
    ledger = Ledger([cap("seconds", 5)], warmup=[cap("steps", 20)], clock=clock)
    assert set(progress_of(ledger, clock)) == {0.0}
    assert (ledger.progress, ledger.warmup_progress) == (1.0, None)


# Another budget on the way


@pytest.mark.parametrize("new", [20, 8, 6, 1000])
def test_extending_bends_the_decay(new):
    """From half way through 10 steps, in even steps to the new end; nothing jumps."""
    ledger = Ledger([cap("steps", 10)])
    for _ in range(5):
        ledger.update()
    ledger.extend([cap("steps", new)])
    seen = []
    while not ledger.done:
        seen.append(ledger.progress)
        ledger.update()
    assert seen == [0.5 + 0.5 * k / (new - 5) for k in range(new - 5)]


def test_extending_time():
    clock = Clock()
    ledger, seen = Ledger([cap("seconds", 100)], clock=clock), []
    for k, p in run(ledger, clock):
        seen.append(p)
        if k == 49:
            ledger.extend([cap("seconds", 200)])
    assert seen[2:] == pytest.approx([k / 100 for k in range(2, 50)] + [0.5 + k / 300 for k in range(149)])
    assert 199 <= clock.passed <= 200


def test_extending_to_another_unit_during_the_warmup():
    ledger = Ledger([cap("steps", 100)], warmup=[cap("steps", 10)])
    for _ in range(5):
        ledger.update()
    ledger.extend([cap("samples", 320)])
    for _ in range(5):
        ledger.update(samples=32)
    assert (ledger.progress, ledger.warmup_progress) == (0.0, None)
    ledger.update(samples=32)
    assert ledger.progress == 32 / 160


def test_extending_after_the_end_is_refused():
    ledger = Ledger([cap("steps", 1)])
    ledger.update()
    with pytest.raises(
        BudgetError, match=r"the budget has ended and the rate has reached its end: .*; start a new run"
    ):
        ledger.extend([cap("steps", 10)])


@pytest.mark.parametrize("new", [cap("steps", 5), cap("seconds", 5), cap("clock", 1005)])
def test_extending_to_what_is_spent_is_refused(new):
    clock = Clock()
    ledger = Ledger([cap("steps", 10)], clock=clock, wall=clock)
    for _ in range(5):
        clock.wait(1.0)
        ledger.update()
    with pytest.raises(BudgetError, match=f"the new budget '{new.limit}' is spent already"):
        ledger.extend([cap("steps", 20), new])
    ledger.update()
    assert ledger.progress == 0.6  # as if nobody had asked


# Resuming


def resumed(ledger: Ledger, caps: list[Cap], clock: Clock, **settings) -> Ledger:
    """The same run in a second process."""
    again = Ledger(caps, clock=clock, wall=clock, **settings)
    again.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    return again


@given(st.lists(st.integers(1, 97), min_size=2, max_size=80), st.data())
def test_counted_limits_resume_to_the_last_bit(samples, data):
    """Whichever leads, inside a warm-up or behind it, and the run ends by the same limit."""
    at = data.draw(st.integers(0, len(samples)))
    caps = [
        cap("steps", data.draw(st.integers(1, 60))),
        cap("samples", data.draw(st.integers(1, 3000))),
        cap("tokens", 700),
    ]
    warmup = data.draw(st.sampled_from([[], [cap("steps", 5)], [cap("samples", 101)]]))
    whole, broken = (Ledger(caps, warmup=warmup) for _ in range(2))
    for k, count in enumerate(samples):
        if k == at:
            broken = resumed(broken, caps, Clock(), warmup=warmup)
        for ledger in (whole, broken):
            ledger.update(samples=count, tokens=11)
        assert (broken.progress, broken.warmup_progress) == (whole.progress, whole.warmup_progress)
        assert (broken.done, broken.ended_by) == (whole.done, whole.ended_by)


def test_what_ended_a_run_is_remembered():
    clock = Clock()
    caps = [cap("steps", 100), cap("seconds", 10)]
    ledger = Ledger(caps, clock=clock)
    list(run(ledger, clock))
    again = resumed(ledger, caps, clock)
    assert (again.done, again.progress, again.ended_by) == (True, 1.0, cap("seconds", 10))
    with pytest.raises(BudgetError, match="the budget has ended"):
        again.extend([cap("seconds", 100)])


def test_seconds_go_on_and_a_second_set_up_is_charged():
    """40 s of 100 before, 5 s of set-up in the second process; the time between them is free."""
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], clock=clock)
    for _ in range(40):
        clock.wait(1.0)
        ledger.update()
    second = Clock(7.0)
    again = resumed(ledger, [cap("seconds", 100)], second, elapsed=5)
    assert (again.seconds, again.remaining()) == (45, {"seconds": 55})
    assert again.progress == ledger.progress == pytest.approx(0.4)
    seen = progress_of(again, second)
    assert 54 <= second.passed <= 55
    assert seen[2:] == pytest.approx([0.4 + 0.6 * k / 55 for k in range(2, len(seen))])


def test_seconds_that_a_kill_undid_are_charged():
    """60 s were spent, 40 of them are in the checkpoint."""
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], clock=clock)
    for _ in range(40):
        clock.wait(1.0)
        ledger.update()
    state, second = ledger.state_dict(), Clock(7.0)
    again = Ledger([cap("seconds", 100)], clock=second, elapsed=5)
    again.load_state_dict(state, lost=20)
    assert (again.seconds, again.steps, again.remaining()) == (65, 40, {"seconds": 35})
    assert again.progress == pytest.approx(0.4)
    seen = progress_of(again, second)
    assert 34 <= second.passed <= 35
    assert seen[2:] == pytest.approx([0.4 + 0.6 * k / 35 for k in range(2, len(seen))])


def test_energy_goes_on_and_a_second_set_up_is_charged():
    """4000 J of 10,000 before, 500 J until the second process has read its checkpoint; what is drawn between is free."""
    clock = Clock()
    caps = [cap("joules", 10_000)]
    ledger = Ledger(caps, clock=clock, meter=Meter(clock))
    for _ in range(40):
        clock.wait(1.0)
        ledger.update()
    state = json.loads(json.dumps(ledger.state_dict()))
    second = Clock(7.0)
    meter = Meter(second)
    again = Ledger(caps, clock=second, meter=meter)
    second.wait(5.0)
    again.load_state_dict(state)
    assert (again.seconds, again.spent()["joules"]) == (45, 4500)
    assert again.remaining() == pytest.approx({"joules": 5500})
    assert again.progress == ledger.progress == pytest.approx(0.4, abs=0.02)
    seen = progress_of(again, second)
    assert seen == sorted(seen)
    assert 6000 - 200 <= meter.drawn <= 6000
    assert again.ended_by == caps[0]


def test_an_interrupt_is_no_end_of_the_budget():
    ledger = Ledger([cap("steps", 10)])
    assert ledger.interrupted is None
    ledger.update()
    ledger.interrupt("SIGTERM")
    ledger.interrupt("SIGINT")
    assert (ledger.interrupted, ledger.done, ledger.ended_by) == ("SIGTERM", False, None)
    again = resumed(ledger, [cap("steps", 10)], Clock())
    assert (again.interrupted, again.steps) == (None, 1)


def test_what_is_measured_elsewhere_is_expected_beside_what_was_measured_here():
    """A write beside training takes so long at the end, when it is waited for; what was charged stays charged."""
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], clock=clock)
    with ledger.measure("checkpoint", 1):
        clock.wait(2.0)
    for seconds in (1.0, 4.0, 3.0, 3.0):
        ledger.expect("checkpoint", seconds)
    activity = ledger.activities["checkpoint"]
    assert (activity.count, activity.seconds, activity.recent) == (1, 2.0, [4.0, 3.0, 3.0])
    assert ledger.remaining() == {"seconds": 93}  # the worst once more, and a third of three quarters of it for doubt
    again = resumed(ledger, [cap("seconds", 100)], clock)
    assert again.activities == ledger.activities


def test_activities_are_remembered():
    clock = Clock()
    ledger = Ledger([cap("seconds", 100)], clock=clock)
    evaluate(ledger, clock, 5)
    again = resumed(ledger, [cap("seconds", 100)], Clock(0.0))
    assert again.activities == ledger.activities
    assert again.remaining() == {"seconds": 86.25}


def test_a_deadline_does_not_wait_for_a_resume():
    clock = Clock()
    ledger = Ledger([cap("clock", 1100)], clock=clock, wall=clock)
    for _ in range(40):
        clock.wait(1.0)
        ledger.update()
    state = ledger.state_dict()
    clock.wait(30)
    again = Ledger([cap("clock", 1100)], clock=clock, wall=clock)
    again.load_state_dict(state)
    assert again.progress == pytest.approx(0.4)
    list(run(again, clock))
    assert 99 <= clock.passed <= 100


# Whatever happens

costs = st.floats(0, 3) | st.sampled_from([0.0, 1e-9, 0.1, 0.1, 0.1, 30.0])
events = st.one_of(
    st.tuples(st.just("updates"), st.integers(1, 40), costs),
    st.tuples(st.just("wait"), costs),
    st.tuples(st.just("measure"), st.sampled_from(["evaluation", "checkpoint"]), costs, st.sampled_from([None, 0, 1, 5])),
    st.tuples(st.just("expect"), costs),
    st.tuples(st.just("extend"), st.sampled_from(["steps", "seconds", "clock", "samples"]), st.floats(0.01, 400)),
    st.tuples(st.just("skip"), st.integers(1, 3)),
    st.tuples(st.just("wall"), st.floats(-50, 50)),
    st.tuples(st.just("power"), st.floats(0, 50)),
    st.tuples(st.just("kill"), st.floats(0, 5)),
)  # fmt: skip
some_caps = st.lists(
    st.builds(cap, st.sampled_from(["steps", "seconds", "clock", "samples", "joules"]), st.floats(0.5, 200).map(math.ceil)),
    min_size=1, max_size=3, unique_by=lambda c: c.resource,
)  # fmt: skip


class Story:
    """A ledger to which things happen, and what must hold after each of them."""

    def __init__(self, caps, warmup, now):
        self.clock, self.shift = Clock(now), 0.0
        self.caps, self.warmup, self.meter = [self.here(c) for c in caps], warmup, Meter(self.clock, 1.0)
        self.ledger = self.start()
        self.progress, self.ended_by = 0.0, None
        self.check()

    def start(self):
        return Ledger(
            self.caps,
            warmup=self.warmup,
            clock=self.clock,
            wall=lambda: self.clock.now + self.shift,
            meter=self.meter,
        )

    def here(self, given):
        """A deadline so far from now."""
        return cap("clock", self.clock.now + given.amount) if given.resource == "clock" else given

    def check(self):
        ledger = self.ledger
        assert self.progress <= ledger.progress <= 1
        assert ledger.warmup_progress is None or 0 <= ledger.warmup_progress <= 1
        done = ledger.done
        assert done == (ledger.ended_by is not None)
        assert not done or ledger.progress == 1
        assert self.ended_by in (None, ledger.ended_by)
        assert all(left >= 0 for left in ledger.remaining().values())
        self.progress, self.ended_by = ledger.progress, ledger.ended_by

    def happen(self, what, *details):
        getattr(self, what)(*details)
        self.check()

    def updates(self, count, cost):
        for _ in range(count):
            self.clock.wait(cost)
            self.ledger.update(samples=3)
            self.check()

    def wait(self, cost):
        self.clock.wait(cost)

    def measure(self, name, cost, more):
        with self.ledger.measure(name, more):
            self.clock.wait(cost)

    def expect(self, cost):
        self.ledger.expect("evaluation", cost)

    def extend(self, resource, amount):
        try:
            caps = [self.here(cap(resource, amount))]
            self.ledger.extend(caps)
        except BudgetError:
            return  # ended, or spent already: nothing changes
        self.caps = caps

    def skip(self, updates):
        if self.ledger.steps >= updates:
            self.ledger.skipped(updates)

    def wall(self, jump):
        self.shift += jump

    def power(self, watts):
        self.meter.draw(watts)

    def kill(self, lost):
        """A second process goes on from what the first one wrote."""
        state, before = json.loads(json.dumps(self.ledger.state_dict())), self.ledger.spent()
        self.ledger = self.start()
        self.clock.wait(lost)
        self.ledger.load_state_dict(state, lost=lost)
        after = self.ledger.spent()
        assert after["seconds"] == pytest.approx(before["seconds"] + 2 * lost, abs=1e-6 + 1e-9 * self.clock.now)
        assert all(after[name] >= amount - 1e-6 for name, amount in before.items())


@given(
    some_caps,
    st.sampled_from([[], [cap("steps", 5)], [cap("seconds", 2)], [cap("seconds", 2), cap("steps", 50)]]),
    st.sampled_from([0.0, 1000.0, 123456.789, 1e7]),
    st.lists(events, max_size=15),
)
def test_progress_only_goes_on_and_ends_at_one(caps, warmup, now, happenings):
    story = Story(caps, warmup, now)
    for happening in happenings:
        story.happen(*happening)
    for _ in range(2000):
        if story.ledger.done:
            break
        story.meter.draw(1.0)
        story.happen("updates", 1, 1.0)
    story.happen("updates", 3, 1.0)
    assert story.ledger.done
