"""How many threads train: simulated machines on which neighbours come and go."""

from __future__ import annotations

import pytest
import torch

import tiny_task
from budgeted.core.record import RunFolder, Spec
from budgeted.train.loop import fit
from budgeted.train.threads import Threads


class Machine:
    """Seconds of an update by the number of threads, which changes at some moments; what was used, and for how long."""

    def __init__(self, most, now, *phases):
        self.phases, self.time, self.updates = list(phases), 0.0, 0
        self.used: list[tuple[float, int]] = []
        self.threads = Threads(most, now, lambda count: self.used.append((self.time, count)))

    def run(self, until):
        while self.time < until:
            seconds = next(phase for end, phase in self.phases if self.time < end)[self.threads.now]
            self.time += seconds
            self.updates += 1
            self.threads.took(seconds)
        return self


QUIET, BUSY = {1: 0.016, 2: 0.01}, {1: 0.0165, 2: 0.1}
FOREVER = float("inf")


def test_a_quiet_machine_is_left_with_all_threads():
    machine = Machine(2, 2, (FOREVER, QUIET)).run(100)
    assert machine.used == []
    assert machine.threads.changes == 0


@pytest.mark.parametrize("seconds", [1.0, 0.1, 0.001])
def test_a_neighbour_takes_a_core_and_leaves_again(seconds):
    """Whatever an update takes, nearly all of them are made with the better number of threads."""
    quiet, busy = ({n: seconds * 100 * t for n, t in phase.items()} for phase in (QUIET, BUSY))
    hour = max(100.0, 1500 * seconds)
    machine = Machine(2, 2, (hour, quiet), (2 * hour, busy), (3 * hour, quiet)).run(3 * hour)
    ideal = 2 * hour / quiet[2] + hour / busy[1]
    assert machine.updates > 0.85 * ideal
    assert machine.threads.now == 2
    assert machine.threads.changes == 2


def test_trials_with_a_neighbour_that_stays_cost_a_twentieth_at_most():
    machine = Machine(2, 1, (FOREVER, BUSY)).run(600)
    assert machine.updates > 0.94 * 600 / BUSY[1]
    assert machine.threads.changes == 0
    assert len(machine.used) >= 10  # all threads were tried again, in case it had left


def test_the_first_hopeless_reading_ends_a_trial():
    machine = Machine(2, 1, (FOREVER, {1: 1.0, 2: 15.0})).run(30)
    assert [count for _, count in machine.used] == [2, 1]
    (began, _), (ended, _) = machine.used
    assert ended - began == 15.0


def test_a_little_faster_is_not_worth_a_change():
    assert Machine(2, 1, (FOREVER, {1: 0.01, 2: 0.0097})).run(100).threads.changes == 0
    assert Machine(2, 1, (FOREVER, {1: 0.01, 2: 0.0090})).run(100).threads.now == 2


def test_of_many_threads_half_may_be_best():
    quiet = {1: 0.08, 2: 0.04, 4: 0.02, 8: 0.01}
    busy = {1: 0.08, 2: 0.04, 4: 0.021, 8: 0.05}
    machine = Machine(8, 8, (50, quiet), (150, busy), (FOREVER, quiet)).run(149)
    assert machine.threads.now == 4
    assert machine.run(300).threads.now == 8


@pytest.mark.parametrize("most", [3, 6, 7])
def test_any_number_of_cores_leads_down_to_one_and_up_again(most):
    slow = {n: 0.04 * n for n in range(1, most + 1)}
    fast = {n: 0.1 / n for n in range(1, most + 1)}
    machine = Machine(most, most, (10, fast), (400, slow), (FOREVER, fast)).run(399)
    assert machine.threads.now == 1
    assert machine.run(800).threads.now == most


def test_what_a_person_chose_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert Threads.following(2) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert Threads.following(1) is None
    following = Threads.following(4)
    assert following is not None
    assert (following.most, following.now) == (4, torch.get_num_threads())


@pytest.mark.parametrize(("options", "follows"), [({}, True), ({"deterministic": True}, False)])
def test_a_run_follows_unless_it_is_to_give_the_same_bits(tmp_path, monkeypatch, options, follows):
    noted = []

    class Noted:
        changes = 3

        def took(self, seconds):
            noted.append(seconds)

    monkeypatch.setattr(Threads, "following", lambda _: Noted())
    spec = Spec("tiny", "2ep", "linear", precision="float32", **options)
    folder = RunFolder.create(tmp_path, spec)
    for _ in fit(tiny_task.Tiny(), spec, folder, device="cpu"):
        pass
    assert (len(noted), folder.result["thread_changes"]) == ((20, 3) if follows else (0, 0))
    assert all(seconds > 0 for seconds in noted)
