"""Processes that hold a shared ledger, and what may happen to them: the stories that `test_shared.py` has them live through."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from budgeted.core.budget import Amount, Cap
from budgeted.core.errors import BudgetedError, BudgetError
from budgeted.core.ledger import Ledger
from budgeted.train.attach import attach
from budgeted.train.ranks import RanksApart
from budgeted.train.shared import SharedLedger

PATIENCE = 60.0  # seconds after which a story is taken to hang


class Processes:
    """So many ranks over gloo; calling it with a story gives what each rank returns."""

    def __init__(self, count: int, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["budgeted.train.shared"])  # and with it torch, once for all
        pipes = [context.Pipe() for _ in range(count)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            context.Process(target=_serve, args=(theirs, rank, count, folder / "store"), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self.processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that the end of the process is the end of the pipe

    def __call__(self, story: Callable[..., Any], *arguments: Any) -> list[Any]:
        answers = self.answers(story, *arguments)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def answers(self, story: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each rank returned or raised; None where it ended without a word."""
        for pipe in self.pipes:
            pipe.send((story, arguments))
        return [self.answer(pipe) for pipe in self.pipes]

    def answer(self, pipe: Connection) -> Any:
        if not pipe.poll(PATIENCE):
            self.close()
            raise AssertionError("a rank hangs")
        try:
            return pipe.recv()
        except EOFError:
            return None

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _serve(pipe: Connection, rank: int, count: int, store: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    while True:
        story, arguments = pipe.recv()
        try:
            pipe.send(story(rank, *arguments))
        except BudgetedError as error:
            pipe.send(error)


class Clock:
    """Rank 0's clock, which moves when it is told to; the other ranks have one that must not be looked at."""

    def __init__(self, rank: int) -> None:
        self.now, self.rank = 1000.0, rank

    def __call__(self) -> float:
        assert self.rank == 0, "rank 0's clock counts"
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def cap(resource: str, amount: float) -> Cap:
    unit = {"seconds": "s", "clock": "s", "flops": "FLOP", "joules": "J"}.get(resource, resource)
    return Cap(resource, amount, Amount(float(amount), unit))


COSTS: dict[str, Callable[[int], float]] = {
    "steady": lambda _: 0.004,
    "long updates": lambda _: 0.2,
    "stalls": lambda k: 1.5 if k % 400 == 300 else 0.004,
    "threefold slower half way": lambda k: 0.004 if k < 400 else 0.012,
    "noise": lambda k: 0.004 * (1 + k * 7919 % 13 / 13),
}


# What happens beside updates; each is called on every rank after every update.


def nothing(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    pass


def evaluated_by_rank_0(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    if k % 150 == 149 and rank == 0:
        with ledger.measure("evaluation"), ledger.measure("within it"):
            clock.wait(0.25)


def evaluated_by_all(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    if k % 150 == 149:
        with ledger.measure("evaluation"):
            clock.wait(0.25 + rank)


def broken_off(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    if k in (70, 300) and rank == 0:
        try:
            with ledger.measure("evaluation"):
                clock.wait(0.5)
                raise KeyError
        except KeyError:
            pass


def forecast(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    if k == 3:
        ledger.expect("evaluation", 1.0, 2)
    if k == 400:
        ledger.forgo("evaluation")


def skipped(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    if k % 90 == 60:
        ledger.skipped(2)
        assert ledger.state_dict()["spent"]["steps"] == ledger.steps == k + 1 - 2 * (k // 90 + 1)


def a_wall_clock_set_forward(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    if k == 200:
        clock.jump = 2.0


def extended(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    """By rank 0 alone, and heard by all."""
    ledger.hear = lambda amount: ledger.extend([cap("seconds", amount), cap("tokens", 1e6)])
    if k == 333:
        ledger.announce(15.0)
        ledger.announce(14.0)


def extended_everywhere(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    """By all at the same update, wherever that is between two exchanges."""
    if k == 333:
        ledger.extend([cap("seconds", 14.0)])


def synchronised(ledger: SharedLedger, clock: Clock, rank: int, k: int) -> None:
    evaluated_by_rank_0(ledger, clock, rank, k)
    if k % 150 == 149:
        ledger.synchronise()
        assert ledger.activities["evaluation"].seconds > 0
        assert ledger.remaining()


def train(
    rank: int, caps: Sequence[Cap], warmup: Sequence[Cap], cost: str, happens: Callable[..., None]
) -> list[tuple[Any, ...]]:
    """What each update ran at, and what was known after it."""
    clock, joules = Clock(rank), [0.0]
    clock.jump = 0.0
    ledger = SharedLedger(
        caps, warmup=warmup, clock=clock, wall=lambda: clock() + clock.jump, meter=lambda: joules[0], timeout=PATIENCE
    )
    seen: list[tuple[Any, ...]] = []
    k = 0
    while not ledger.done and k < 20_000:
        ran_at = ledger.progress, ledger.warmup_progress
        clock.wait(COSTS[cost](k))
        joules[0] += (rank + 1) / 7
        ledger.update(samples=32 - rank, tokens=100 if k % 3 else 70 * rank, flops=1e15 / (rank + 3))
        happens(ledger, clock, rank, k)
        seen.append((*ran_at, ledger.steps, ledger.seconds, ledger.spent(), ledger.timed, ledger.done, ledger.ended_by))
        k += 1
    ledger.synchronise()
    seen.append((ledger.progress, ledger.state_dict()))
    ledger.close()
    return seen


def whatever(rank: int, seed: int) -> list[tuple[Any, ...]]:
    """Things that happen in an order drawn at random; rank 0 alone has more of them."""
    everywhere, alone = random.Random(seed), random.Random(seed + 1000)
    caps = [
        cap(
            resource,
            everywhere.randint(1, 400) * {"flops": 1e12, "clock": 1}.get(resource, 1) + 1000 * (resource == "clock"),
        )
        for resource in everywhere.sample(["steps", "seconds", "samples", "flops", "clock"], everywhere.randint(1, 3))
    ]
    warmup = everywhere.choice([[], [cap("steps", 7)], [cap("seconds", 2)]])
    clock = Clock(rank)
    ledger = SharedLedger(caps, warmup=warmup, clock=clock, wall=clock, timeout=PATIENCE)
    ledger.hear = lambda amount: None if ledger.done else ledger.extend([cap("steps", ledger.steps + amount)])
    seen: list[tuple[Any, ...]] = []
    for _ in range(120):
        if ledger.done or ledger.interrupted:
            break  # from here on rank 0 alone counts seconds
        happens = everywhere.choice(["updates", "skip", "synchronise", "updates", "updates"])
        if happens == "updates":
            pace = alone.choice([0.0, 0.001, 0.01, 1.0])
            for _ in range(everywhere.randint(1, 30)):
                clock.wait(pace)
                ledger.update(samples=everywhere.randint(0, 9) * (rank + 1), flops=everywhere.random() * 1e10)
                seen.append((ledger.progress, ledger.warmup_progress, ledger.spent(), ledger.done, ledger.interrupted))
        elif happens == "skip" and ledger.steps > 3:
            ledger.skipped(1)
        elif happens == "synchronise":
            ledger.synchronise()
            seen.append((ledger.state_dict(), ledger.remaining(), ledger.spent_share(), ledger.seconds_left()))
        if rank == 0:
            for _ in range(alone.randint(0, 2)):
                happen = alone.choice(["measure", "expect", "wait", "announce"])
                if happen == "measure":
                    with ledger.measure(alone.choice("ab"), alone.choice([None, 0, 4])):
                        clock.wait(alone.random())
                elif happen == "expect":
                    ledger.expect("c", alone.random())
                elif happen == "announce" and alone.random() < 0.03:
                    ledger.announce(alone.randint(1, 200))
                else:
                    clock.wait(alone.random() / 10)
        if everywhere.random() < 0.003:
            ledger.interrupt("SIGTERM") if rank else None
    ledger.close()
    return seen


def counted(rank: int, caps: Sequence[Cap], warmup: Sequence[Cap], amounts: dict[str, float]) -> list[Any]:
    """Progress at each update, by clocks that do not move or move wildly; and the same in one process."""
    clock = Clock(rank)
    ledger = SharedLedger(caps, warmup=warmup, clock=clock, wall=clock, timeout=PATIENCE)
    seen: list[Any] = []
    while not ledger.done:
        seen.append((ledger.progress, ledger.warmup_progress))
        clock.wait(0.001 if len(seen) % 100 else 0.4)
        ledger.update(**amounts)
    seen.append((ledger.progress, ledger.ended_by, {**ledger.spent(), "seconds": 0}))
    ledger.close()
    return seen


def uneven(rank: int, caps: Sequence[Cap], batches: Sequence[Sequence[int]]) -> tuple[list[float], dict[str, float]]:
    """Ranks whose batches differ in size, and in number: no more than all have is used."""
    clock, seen = Clock(rank), []
    ledger = SharedLedger(caps, clock=clock, wall=clock, timeout=PATIENCE)
    mine = batches[rank]
    epoch = ledger.agree(len(mine))
    assert (ledger.agree(len(mine), "max"), ledger.agree(len(mine), "sum")) == (
        max(map(len, batches)),
        sum(map(len, batches)),
    )
    assert not ledger.agree(rank != 2)
    while not ledger.done:
        for size in mine[:epoch]:
            seen.append(ledger.progress)
            clock.wait(0.003)
            ledger.update(samples=size)
            if ledger.done:
                break
    spent = ledger.spent()
    ledger.close()
    return seen, spent


def agreements(rank: int, caps: Sequence[Cap], seconds: float, updates: int) -> tuple[int, int]:
    """How many updates there were, and how many collectives."""
    clock, collectives = Clock(rank), 0
    ledger = SharedLedger(caps, clock=clock, wall=clock, timeout=PATIENCE)
    all_reduce = dist.all_reduce

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal collectives
        collectives += 1
        return all_reduce(*arguments, **options)

    dist.all_reduce = counting
    try:
        while not ledger.done and ledger.steps < updates:
            clock.wait(seconds)
            ledger.update()
    finally:
        dist.all_reduce = all_reduce
    ledger.close()
    return ledger.steps, collectives


def slow_evaluation(rank: int, seconds: float) -> tuple[int, int, float]:
    """Rank 0's evaluation takes all the time that was left; the updates before and after it."""
    clock = Clock(rank)
    ledger = SharedLedger([cap("seconds", 10)], clock=clock, wall=clock, timeout=PATIENCE)
    for _ in range(200):
        clock.wait(0.01)
        ledger.update()
    with ledger.measure("evaluation"):
        clock.wait(seconds)
    assert not ledger.done  # nobody else knows yet
    before = ledger.steps
    while not ledger.done:
        clock.wait(0.01)
        ledger.update()
    with ledger.measure("the last one"):
        clock.wait(1.0)
    ledger.synchronise()
    ledger.close()
    return before, ledger.steps, ledger.activities["the last one"].seconds


def interrupted(rank: int, whom: Sequence[int]) -> list[str | None]:
    """A real signal to some of the ranks."""
    clock = Clock(rank)
    ledger = SharedLedger([cap("steps", 10_000)], clock=clock, wall=clock, timeout=PATIENCE)
    before = signal.signal(signal.SIGTERM, lambda *_: ledger.interrupt(f"SIGTERM on rank {rank}"))
    seen: list[str | None] = []
    try:
        while ledger.interrupted is None:
            clock.wait(0.001)
            ledger.update()
            seen.append(ledger.interrupted)
            if ledger.steps == 500 and rank in whom:
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    ledger.close()
    return seen


def real_time(rank: int, caps: Sequence[Cap], slow: int) -> list[Any]:
    """Real clocks, and a rank that is slower than the others."""
    deadline = [cap("clock", time.time() + each.amount) if each.resource == "clock" else each for each in caps]
    ledger, seen = SharedLedger(deadline, timeout=PATIENCE), []
    meet = torch.zeros(1)
    while not ledger.done:
        seen.append(ledger.progress)
        time.sleep(0.012 if rank == slow else 0.002)
        dist.all_reduce(meet)  # as gradients do
        ledger.update(samples=8)
    ledger.close()
    return [*seen, ledger.steps, ledger.ended_by, ledger.spent()]


def one_ends(rank: int, how: int, timeout: float) -> list[str]:
    """The last rank gets a signal at its 50th update, which ends or stops it; what the others are told, and told again."""
    ledger, told = SharedLedger([cap("seconds", 1000)], timeout=timeout), []
    while len(told) < 2:
        time.sleep(0.001)
        try:
            ledger.update()
            if rank == dist.get_world_size() - 1 and ledger.steps == 50:
                os.kill(os.getpid(), how)
        except RanksApart as error:
            told.append(str(error))
            ledger.close()
    assert dist.is_initialized()  # the group of the gradients is nobody's but the loop's
    return told


def other_limits(rank: int, caps: Sequence[Sequence[Cap]]) -> None:
    SharedLedger(caps[rank], timeout=PATIENCE)


def other_states(rank: int, states: Sequence[dict[str, Any]]) -> None:
    ledger = SharedLedger([cap("steps", 100)], timeout=PATIENCE)
    ledger.load_state_dict(states[rank])
    ledger.update()


def first_half(rank: int, caps: Sequence[Cap], warmup: Sequence[Cap], updates: int) -> dict[str, Any]:
    """The state after so many updates, as rank 0 writes it down without asking the others."""
    clock = Clock(rank)
    ledger = SharedLedger(caps, warmup=warmup, clock=clock, wall=clock, timeout=PATIENCE)
    for _ in range(updates):
        clock.wait(0.01)
        ledger.update(samples=48 / dist.get_world_size())
    with ledger.measure("checkpoint"):
        clock.wait(0.5)
    state = ledger.state_dict()
    assert (state["progress"], state["warmup_progress"]) == (ledger.progress, ledger.warmup_progress)
    ledger.synchronise()
    ledger.close()
    return state


def second_half(rank: int, caps: Sequence[Cap], warmup: Sequence[Cap], state: dict[str, Any], lost: float) -> list[Any]:
    clock = Clock(rank)
    ledger = SharedLedger(caps, warmup=warmup, clock=clock, wall=clock, timeout=PATIENCE)
    ledger.load_state_dict(state, lost if rank == 0 else 0.0)
    seen: list[Any] = [ledger.seconds, dict(ledger.activities)]
    while not ledger.done:
        seen.append(ledger.progress)
        clock.wait(0.01)
        ledger.update(samples=48 / dist.get_world_size())
    ledger.close()
    return [*seen, ledger.progress, ledger.ended_by, ledger.steps]


def clock_from_the_first_step(rank: int) -> list[float]:
    clock = Clock(rank)
    ledger = SharedLedger([cap("seconds", 10)], elapsed=2.0 + rank, clock=clock, wall=clock, timeout=PATIENCE)
    ledger.hold_clock()
    clock.wait(500)
    ledger.start_clock()
    seen = [ledger.spent_of(cap("clock", 1e9))]
    for _ in range(3):
        clock.wait(1.0)
        ledger.update()
        seen.append(ledger.seconds)
    ledger.close()
    return seen


def nothing_left(rank: int) -> tuple[bool, float]:
    clock = Clock(rank)
    ledger = SharedLedger([cap("seconds", 10)], elapsed=20.0 - 20 * rank, clock=clock, wall=clock, timeout=PATIENCE)
    ledger.update()  # and nobody waits for it
    ledger.close()
    return ledger.done, ledger.progress


def alone(caps: Sequence[Cap], warmup: Sequence[Cap], amounts: dict[str, float]) -> list[Any]:
    """What `counted` sees in one process."""
    ledger, seen = Ledger(caps, warmup=warmup), []
    while not ledger.done:
        seen.append((ledger.progress, ledger.warmup_progress))
        ledger.update(**amounts)
    return [*seen, (ledger.progress, ledger.ended_by, {**ledger.spent(), "seconds": 0})]


def changed_in_a_loop(rank: int, callers: Sequence[int]) -> list[Any]:
    """A loop in which some ranks ask for a longer budget at one update, and for its end at a later one."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    clock = Clock(rank)
    run = attach(optimizer, "400 steps", "const", clock=clock, wall=clock)
    seen: list[Any] = []
    while not run.done:
        if rank in callers and run.ledger.steps == 100:
            run.extend(by="200 steps")
        if rank in callers and run.ledger.steps == 300:
            run.stop_in("100 steps")
        clock.wait(0.01)
        optimizer.step()
        seen.append((run.progress, run.factor))
    if rank == 0:  # the others' word is for nothing
        with pytest.raises(BudgetError, match="the run has ended: there is nothing left to change"):
            run.extend(by="5 steps")
    spent = run.summary().spent["steps"]
    run.close()
    return [*seen, (str(run.budget), str(run.schedule), spent)]
