"""One budget for several processes: every rank holds the same ledger, equal to the last bit.

A ledger is a function of what it was told. So one collective carries rank 0's clock and the sum of what all ranks spent,
every rank tells its own ledger the same in the same order, and progress, stop and time left need not be sent. What
happened on one rank alone, such as a measured evaluation, a signal or a request, travels with the next exchange.

Where updates are short there is no exchange at each, but about every 50 ms, and more often towards the end. In between,
what only a clock could tell goes on in a straight line, by the receding horizon's own rule: each update moves progress by
(1 - p) c / R, the cost c and the rest R as they were at the last exchange. What is counted goes on exactly.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..core.activity import Activity
from ..core.budget import Cap
from ..core.errors import BudgetError
from .ranks import Ranks, RanksApart, Reduction
from .replica import Copy, Event, News, Start, require_same

_INTERVAL = 0.05  # seconds between two exchanges
_MOST = 64  # updates between them, however short: should they become slow, a stop has to wait for so many
_CAREFUL = 4  # towards the end an exchange comes after so small a part of the updates that seem left
_BELOW_ONE = math.nextafter(1.0, 0.0)  # the end itself is always agreed upon


class SharedLedger:
    """A `Ledger` for all ranks of `torch.distributed`; each of them makes one at the same point.

    All ranks charge the same updates, each with what it spent itself. Progress, the stop and its reason are the same on
    all of them at every update. Rank 0's clocks count: what it measures is charged, what others measure is not.
    `progress`, `warmup_progress`, `steps`, `timed`, `ended_by` and `interrupted` are attributes, as of a `Ledger`.

    Args:
        caps, warmup, elapsed, reserve, clock, wall: as of a `Ledger`; the clocks are read on rank 0 only.
        meter: a counter of the joules that this rank spends; they are summed.
        timeout: seconds after which a rank that does not answer is given up, and the run with it.

    Raises:
        BudgetError: where ranks have different limits.
        RanksApart: where a rank has ended or does not answer; so do the methods that exchange something.
    """

    def __init__(
        self,
        caps: Sequence[Cap],
        *,
        warmup: Sequence[Cap] = (),
        elapsed: float = 0.0,
        reserve: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        meter: Callable[[], float] | None = None,
        timeout: float = 600.0,
    ) -> None:
        self._ranks = Ranks(timeout)
        self._leads = self._ranks.rank == 0
        self._clock, self._wall, self._meter = clock, wall, meter
        moment = self._read_clocks() if self._leads else (0.0, 0.0)
        starts = self._ranks.gather(Start(caps, warmup, elapsed, reserve, *moment, meter is not None))
        require_same(starts)
        self._ramp, self._ledger = starts[0].warmup, Copy(starts[0])
        self.steps = 0
        self.interrupted: str | None = None
        self.hear: Callable[[Any], None] = _ignore  # called with what rank 0 announces, on all ranks at the same update
        self.hearing = False  # whether that is what happens now
        self._asked: str | None = None  # why to stop, where this rank was asked to
        self._news = News()
        self._measuring = False
        # Since the last exchange: updates, and those taken back; when each was over; what this rank spent.
        self._alone = self._skipped = 0
        self._moments: list[float] = []
        self._own = [0.0, 0.0, 0.0]  # samples, tokens, FLOPs
        self._joules = meter() if meter else 0.0
        # From the last exchange: when it was, what an update spends on all ranks together, and when the next is due.
        self._exchanged = starts[0].now
        self._mean = (0.0, 0.0, 0.0)
        self._interval = 1
        self._take_over()
        if self._ledger.done:  # nothing was left to begin with
            self._settle()

    # What follows from the ledger

    @property
    def done(self) -> bool:
        """Whether the budget for training is spent: agreed upon at an update, the same on all ranks."""
        return self.ended_by is not None

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, whose clocks and changes count."""
        return self._leads

    @property
    def meters(self) -> bool:
        """Whether there is a counter of energy."""
        return self._ledger.meters

    @property
    def within_warmup(self) -> bool:
        """Whether the budget ended within its warm-up."""
        return self._ledger.within_warmup

    @property
    def activities(self) -> dict[str, Activity]:
        """What rank 0 measured; the others know of it from the next exchange on."""
        return self._ledger.activities

    @property
    def update_seconds(self) -> float | None:
        """What one update costs when nothing disturbs it, or None before there are any."""
        return self._ledger.update_seconds

    @property
    def seconds(self) -> float:
        """Seconds on rank 0's clock."""
        return self.spent()["seconds"]

    def spent(self) -> dict[str, float]:
        """What all ranks have spent together: between exchanges at the pace so far, and the same on all ranks."""
        if self.ended_by is not None or self.interrupted is not None:
            return self._ledger.spent()
        return {name: amount + self._costs[name] * self._alone for name, amount in self._spent.items()}

    def spent_of(self, cap: Cap) -> float:
        """What is spent of one cap's resource; for a deadline, seconds of this run."""
        return self.spent().get("seconds" if cap.resource == "clock" else cap.resource, 0.0)

    def remaining(self) -> dict[str, float]:
        """What is left for training, by resource: limit - spent - reserve, never below 0."""
        return self._ledger.remaining()

    def spent_share(self) -> float:
        """The share of the budget that is spent, 0 to 1, of the limit that is nearest to its end."""
        return self._ledger.spent_share()

    def seconds_left(self) -> float | None:
        """Seconds until training ends, or None before there is a pace."""
        return self._ledger.seconds_left()

    def seconds_to_end(self) -> float:
        """Seconds until a limit in time is reached itself, by rank 0's clock at the last exchange."""
        return self._ledger.seconds_to_end()

    def overrun(self) -> float:
        """Seconds by which the limit that ended the run is exceeded now; 0 where it is none of time."""
        return self._ledger.overrun()

    # Spending

    def update(self, samples: float = 0.0, tokens: float = 0.0, flops: float = 0.0) -> None:
        """Charge one optimizer update, which happened on all ranks, with what this rank spent on it."""
        if self.ended_by is not None:
            return  # what is spent after the end changes nothing
        self.steps += 1
        if samples or tokens or flops:
            own = self._own
            own[0] += samples
            own[1] += tokens
            own[2] += flops
        if self._alone + 1 < self._interval:
            self._go_on()
            return
        announced = self._exchange(self._alone + 1)
        self._ledger.update()
        self._settle()
        self._have_heard(announced)

    def _go_on(self) -> None:
        """An update without an exchange."""
        ledger = self._ledger
        self._alone += 1
        if not self.timed:
            ledger.update(*self._mean)
            self.progress, self.warmup_progress = ledger.progress, ledger.warmup_progress
            return
        if self._leads:
            ledger.now = moment = self._clock()
            self._moments.append(moment)
            ledger.update(*self._mean)
        if self.warmup_progress is None:
            self.progress = min(self.progress + self._slope, _BELOW_ONE)
        else:
            self.warmup_progress = min(self.warmup_progress + self._slope, _BELOW_ONE)

    def skipped(self, updates: int) -> None:
        """Take back updates that mixed precision turned out to have skipped, on all ranks; progress waits for them."""
        self.steps -= updates
        self._skipped += updates

    @contextmanager
    def measure(self, name: str, more: int | None = None) -> Iterator[None]:
        """Charge what happens inside, on rank 0, to an activity; the other ranks may take part in it or not.

        Args:
            name: what it is, such as `evaluation`.
            more: how often it will come again after this time, if that is known.
        """
        if not self._leads or self._measuring:
            yield
            return
        began, self._measuring, whole = self._clock(), True, False
        try:
            yield
            whole = True
        finally:
            self._measuring = False
            self._tell("measured", name, more, began, self._clock(), whole)

    def uncharged(self) -> AbstractContextManager[None]:
        """Refused: the other ranks' time would go on.

        Raises:
            BudgetError: always.
        """
        raise BudgetError("what several ranks do is charged to their budget; leave charged=False out")

    def expect(self, name: str, seconds: float, more: int = 1) -> None:
        """Keep an estimate in reserve for an activity; rank 0's counts."""
        self._tell("expect", name, seconds, more)

    def forgo(self, name: str) -> None:
        """Keep nothing more in reserve for an activity; rank 0's word counts."""
        self._tell("forgo", name)

    def hold_clock(self) -> None:
        """Count no seconds until `start_clock`; all ranks must call it."""
        self._ledger.hold_clock()

    def start_clock(self) -> None:
        """Count seconds from now on, where the clock was held."""
        self._tell("start_clock")

    def _tell(self, method: str, *arguments: Any) -> None:
        """What rank 0's ledger is told now, the others' are told at the next exchange."""
        if self._leads:
            event = Event(self._alone, self._clock(), method, arguments)
            event.happen(self._ledger)
            self._news.events.append(event)

    # Deciding together

    def interrupt(self, reason: str) -> None:
        """Have training stop on all ranks: from the next exchange on, `interrupted` is the reason there.

        It may come on any rank, within a signal handler too.
        """
        self._asked = self._asked or reason

    def announce(self, message: Any) -> None:
        """Have `hear` called with what rank 0 says, on all ranks at the same update; what others say is not heard.

        Args:
            message: anything that can be pickled.
        """
        if self._leads:
            self._news.announced.append(message)

    def agree(self, value: int, op: Reduction = "min") -> int:
        """The lowest (`min`), the highest (`max`) or the sum (`sum`) of the ranks' whole numbers; all ranks must call it.

        Where ranks have different numbers of batches, `agree(len(loader))` of them make an epoch.
        """
        return self._ranks.agree(value, op)

    def synchronise(self) -> None:
        """Exchange now instead of at one of the next updates; all ranks must call it.

        After it every rank knows what rank 0 measured, so that they decide the same.
        """
        announced = self._exchange(self._alone)
        self._settle()
        self._have_heard(announced)

    def extend(self, caps: Sequence[Cap]) -> None:
        """Go on under other limits; all ranks must call it at the same update, such as that at which they `hear` of it.

        Raises:
            BudgetError: where the run has ended, or the new limits are spent already.
        """
        if self._alone:
            self.synchronise()
        self._ledger.extend(caps)
        self._interval = 1
        self._settle()

    def close(self) -> None:
        """Let go of the other ranks; all must call it."""
        self._ranks.close()

    # State

    def rebase(self, caps: Sequence[Cap]) -> None:
        """Take other limits before anything is spent, on all ranks; a state is loaded next."""
        self._ledger.rebase(caps)

    def state_dict(self) -> dict[str, Any]:
        """As of a `Ledger`, for whatever number of ranks; rank 0's counts, and right after `synchronise` all are equal."""
        state = self._ledger.state_dict()
        state["spent"]["steps"] = float(self.steps)
        return {**state, "progress": self.progress, "warmup_progress": self.warmup_progress, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any], lost: float = 0.0) -> None:
        """Go on from a state, the same one on all ranks.

        Args:
            state: what `state_dict` returned, here, on another number of ranks, or of a `Ledger`.
            lost: seconds that were spent after the state was taken; rank 0's count.
        """
        self._exchange(self._alone)
        self._ledger.load_state_dict(state, self._ranks.gather(lost)[0])
        self.steps, self._interval = self._ledger.steps, 1
        self._take_over()

    # The exchange

    def _exchange(self, updates: int) -> list[Any]:
        """Tell this rank's ledger what happened on all of them; what rank 0 announced is returned, to be heard.

        Args:
            updates: how many were charged since the last exchange, with one that the ledger is told of next.
        """
        news = News(self._asked if self.interrupted is None else None, self._news.events, self._news.announced)
        figures = [self.steps, *self._own, self._joules_spent(), float(bool(news))]
        figures += [*self._read_clocks(), *self._moments] if self._leads else []
        figures += [0.0] * (8 + _MOST - len(figures))
        steps, samples, tokens, flops, joules, is_news, now, ahead, *moments = self._ranks.sum(figures)
        if steps != self._ranks.count * self.steps:
            raise RanksApart(
                f"rank {self._ranks.rank} has made {self.steps} updates, and all {self._ranks.count} together {steps:.0f}: each must "
                "make the same ones, and resume from the same checkpoint. Where they have different data, agree() says how much to use"
            )
        told = self._ranks.gather(news) if is_news else [News()]
        if not self._leads:
            self._catch_up(moments[: self._alone if self.timed else 0], told[0].events)
        ledger, spent = self._ledger, (samples, tokens, flops)
        ledger.skipped(self._skipped)
        ledger.charge([amount - mean * self._alone for amount, mean in zip(spent, self._mean, strict=True)])
        ledger.now, ledger.ahead, ledger.joules = now, ahead, ledger.joules + joules
        if updates:
            self._mean = (samples / updates, tokens / updates, flops / updates)
            pace = max((now - self._exchanged) / updates, 1e-9)
            self._interval = max(1, min(2 * self._interval, int(_INTERVAL / pace), _MOST))
        self.interrupted = self.interrupted or next((each.interrupted for each in told if each.interrupted), None)
        self._own, self._moments, self._news, self._exchanged = [0.0, 0.0, 0.0], [], News(), now
        self._alone = self._skipped = 0
        return told[0].announced

    def _have_heard(self, announced: Sequence[Any]) -> None:
        self.hearing = True
        try:
            for message in announced:
                self.hear(message)
        finally:
            self.hearing = False

    def _catch_up(self, moments: Sequence[float], events: Sequence[Event]) -> None:
        """Tell this rank's ledger what rank 0's was told since the last exchange, in the same order."""
        ledger, waiting = self._ledger, list(events)
        for k, moment in enumerate(moments):
            while waiting and waiting[0].after == k:
                waiting.pop(0).happen(ledger)
            ledger.now = moment
            ledger.update(*self._mean)
        for event in waiting:
            event.happen(ledger)

    def _take_over(self) -> None:
        """Stand where the ledger stands."""
        self.progress, self.warmup_progress = self._ledger.progress, self._ledger.warmup_progress
        self._settle()

    def _settle(self) -> None:
        """What holds until the next exchange: as the ledgers are equal, the same on all ranks."""
        ledger = self._ledger
        self.ended_by, self.timed = ledger.ended_by, ledger.timed
        self.progress = max(self.progress, ledger.progress)
        if self.warmup_progress is not None:
            ramp = ledger.warmup_progress
            self.warmup_progress = None if ramp is None else max(self.warmup_progress, ramp)
        if self.timed and ledger.update_seconds is None:
            self._interval = 1  # what an update costs is not known yet
        self._spent = ledger.spent()
        self._costs = self._cost_of_an_update()
        self._slope = (1.0 - self.progress) * self._share(ledger.remaining())
        if self.warmup_progress is not None:
            self._slope = (1.0 - self.warmup_progress) * self._share(self._remaining_of_ramp())

    def _cost_of_an_update(self) -> dict[str, float]:
        """What the next updates cost, as far as the last ones tell."""
        seconds, (samples, tokens, flops) = self._ledger.update_seconds or 0.0, self._mean
        joules = seconds * self._spent.get("joules", 0.0) / max(self._spent["seconds"], 1e-9)
        return {"steps": 1, "samples": samples, "tokens": tokens, "flops": flops, "joules": joules, "seconds": seconds}

    def _share(self, left: Mapping[str, float]) -> float:
        """Of what is left, the share c / R that an update takes of the limit that leads.

        The next exchange is made to come before any of them is reached; of steps, at the last one.
        """
        share = 0.0
        for resource, amount in left.items():
            if cost := self._costs[resource]:
                updates = max(1.0, amount / cost)
                share = max(share, 1.0 / updates)
                soon = updates if resource == "steps" else max(1.0, updates / _CAREFUL)
                self._interval = min(self._interval, int(soon))
        return share

    def _remaining_of_ramp(self) -> dict[str, float]:
        wall = self._ledger.now + self._ledger.ahead
        return {
            "seconds" if cap.resource == "clock" else cap.resource:
                cap.amount - (wall if cap.resource == "clock" else self._spent.get(cap.resource, 0.0))
            for cap in self._ramp
        }  # fmt: skip

    def _read_clocks(self) -> tuple[float, float]:
        now = self._clock()
        return now, self._wall() - now

    def _joules_spent(self) -> float:
        if self._meter is None:
            return 0.0
        before, self._joules = self._joules, self._meter()
        return max(0.0, self._joules - before)


def _ignore(message: Any) -> None:
    pass
