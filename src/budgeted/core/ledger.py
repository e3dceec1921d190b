"""The ledger: what has been spent of each resource, and the progress through a budget that follows from it.

Progress obeys one rule, the receding horizon. Let R be what remains for training: limit - spent - reserve. An update
that costs c moves progress by

    p  <-  p + (1 - p) c / R

and of several limits the one with the largest c / R decides. While nothing is planned anew the rule has a closed form
from its last anchor, p = p0 + (1 - p0)(x - x0) / R0, which is t / T to the last bit for a limit in steps.

For limits in time c is what an update costs when nothing disturbs it. A stall, an evaluation or a slow start only
shrinks R: the rest of the decay runs faster, and nothing jumps. Energy is read off the device's counter a few times a
second; what evaluations will still take of it follows from their seconds and the mean power so far.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from .activity import Activity
from .budget import Cap
from .errors import BudgetError

STEPS, SAMPLES, TOKENS, FLOPS, JOULES, SECONDS = range(6)
RESOURCES = ("steps", "samples", "tokens", "flops", "joules", "seconds")
_FLOWING = JOULES  # this resource and the next are spent between updates too

_RECENT = 32  # updates whose durations say what an update costs
_STALL = 2.0  # an update that took so many times the longest recent one was held up by something else
_REVIEW = 0.005  # seconds between two reviews, at least: one takes as long as ten updates of the ledger
_READING = 0.05  # seconds between two looks at the counter of energy
_ROUNDING = 1e-9  # by what share two limits must differ for one of them to decide for sure


def _index(cap: Cap) -> int:
    return SECONDS if cap.resource == "clock" else RESOURCES.index(cap.resource)


class _Track:
    """One cap and the anchor from which progress towards it is counted in closed form."""

    __slots__ = ("cap", "index", "p", "p0", "q0", "r0", "stop", "x", "x0")

    def __init__(self, cap: Cap) -> None:
        self.cap = cap
        self.index = _index(cap)
        self.anchor(0.0, 0.0, math.inf)
        self.x = self.p = 0.0  # what was spent, and progress by this cap alone, when last looked at
        self.stop = math.inf  # the amount spent at which training ends

    def anchor(self, p: float, spent: float, remaining: float) -> None:
        self.p0, self.q0, self.x0, self.r0 = p, 1.0 - p, spent, remaining

    def remaining(self, spent: float) -> float:
        return self.r0 - (spent - self.x0)


class _Course:
    """The way towards the first of several caps."""

    __slots__ = ("binding", "reached", "tracks")

    def __init__(self, caps: Sequence[Cap]) -> None:
        self.tracks = [_Track(cap) for cap in caps]
        self.binding = self.tracks[0]  # the one that decided last
        self.reached = False  # whether `advance` found a cap to be reached

    def advance(self, spent: list[float], progress: float) -> float:
        """Progress at what is spent now: the furthest of the tracks; the others are anchored where it stands."""
        best, binding, reached = progress, None, False
        for track in self.tracks:
            x = track.x = spent[track.index]
            p = track.p = track.p0 + track.q0 * (x - track.x0) / track.r0
            if p > best:
                best, binding = p, track
            if x >= track.stop:
                reached = True
        self.reached = reached
        if binding is None:
            return best
        self.binding = binding
        if best > 1.0:  # by hand: min() takes as long as a track
            best = 1.0
        for track in self.tracks:
            if track.p < best:
                x = track.x
                remaining = track.r0 - (x - track.x0)
                if remaining > 0:
                    track.p0, track.q0, track.x0, track.r0 = best, 1.0 - best, x, remaining
        return best

    def over(self, spent: list[float]) -> bool:
        """Whether a cap is reached."""
        for track in self.tracks:  # noqa: SIM110 any() takes three times as long
            if spent[track.index] >= track.stop:
                return True
        return False


class Ledger:
    """What a run has spent, and the progress, the stop and the time left that follow from it.

    Args:
        caps: the limits of the budget, as amounts of resources; the first that is reached ends the run.
        warmup: caps of a first phase in absolute units; progress stays 0 while it lasts.
        elapsed: seconds spent before now, since the run's anchor.
        reserve: seconds kept for what comes after the last measured activity.
        clock, wall: the monotonic clock, and the wall clock that deadlines are read from, in seconds.
        meter: the counter of energy in joules, where energy is a limit.

    >>> ledger = Ledger([Cap("steps", 4, None)])
    >>> for _ in range(3): ledger.update()
    >>> ledger.progress, ledger.done
    (0.75, False)
    """

    __slots__ = (
        "_clock", "_course", "_first", "_held", "_last", "_least", "_line", "_longest_normal", "_measuring", "_meter",
        "_meter_origin", "_most", "_next_look", "_next_reading", "_only", "_origin", "_recent", "_reserve", "_set_up",
        "_spent", "_stalls", "_stop_at", "_timed", "_wall", "_warmup", "activities", "ended_by", "interrupted",
        "progress", "warmup_progress", "within_warmup",
    )  # fmt: skip

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
    ) -> None:
        self._clock, self._wall, self._reserve = clock, wall, reserve
        self._meter = meter
        self._meter_origin = meter() if meter else 0.0  # its reading when no joule was spent
        self._next_reading = 0.0
        self._held: Callable[[], float] | None = None  # the clock, while it is held
        self._last = clock()
        self._set_up = elapsed  # seconds before there could be an update
        self._origin = self._last - elapsed  # the moment at which no second was spent
        self._spent = [0.0, 0.0, 0.0, 0.0, 0.0, elapsed]
        self.progress = 0.0  # through the budget; 0 while a warm-up of absolute length lasts
        self.warmup_progress: float | None = 0.0 if warmup else None  # through that warm-up
        self._course, self._warmup = _Course(caps), _Course(warmup) if warmup else None
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._longest_normal = 0.0  # an update longer than this is looked at: it may be a stall
        self._only: _Track | None = None  # the limit that alone decides, while no update is
        self._least, self._most = -math.inf, 0.0  # shorter or longer than these
        self._first: float | None = None  # seconds of this process's first update, start-up included
        self._next_look = 0.0
        self._stop_at = math.inf  # on the clock, the moment at which a limit in seconds ends training
        self._line: tuple[float, float] | None = None
        self._measuring = False
        self._stalls = Activity(more=None)
        self.activities: dict[str, Activity] = {}
        self.ended_by: Cap | None = None
        self.interrupted: str | None = None  # why training is to stop before the budget ends
        self.within_warmup = False  # whether it ended there
        self._plan()

    # What follows from the ledger

    @property
    def timed(self) -> bool:
        """Whether seconds, a deadline or energy are among the limits: what evaluations take is missing in training."""
        return self._timed

    @property
    def has_deadline(self) -> bool:
        """Whether a moment on the wall clock is among the limits."""
        return any(track.cap.resource == "clock" for track in self._course.tracks)

    @property
    def meters(self) -> bool:
        """Whether there is a counter of energy."""
        return self._meter is not None

    @property
    def done(self) -> bool:
        """Whether the budget for training is spent. Time spent outside updates counts: the clock is read."""
        if self.ended_by is None and self._timed and not self._measuring:
            now = self._clock()
            if self._meter is not None and now >= self._next_reading:
                self._read_meter()
            elif now < self._stop_at:
                return False
            self._spent[SECONDS] = now - self._origin
            if self._course.over(self._spent):
                self._end()
        return self.ended_by is not None

    @property
    def steps(self) -> int:
        return int(self._spent[STEPS])

    @property
    def seconds(self) -> float:
        return self._clock() - self._origin

    def spent(self) -> dict[str, float]:
        """What is spent of each resource that was counted; steps, samples and seconds always."""
        amounts = [*self._spent[:SECONDS], self.seconds]
        counted = {
            name: amount
            for name, amount in zip(RESOURCES, amounts, strict=True)
            if amount or name in ("samples", "seconds")
        }
        return {"steps": self.steps, **{k: v for k, v in counted.items() if k != "steps"}}

    def spent_of(self, cap: Cap) -> float:
        """What is spent of one cap's resource; for a deadline, seconds of this run."""
        index = _index(cap)
        if index == JOULES and self._clock() >= self._next_reading:
            self._read_meter()
        return self.seconds if index == SECONDS else self._spent[index]

    def remaining(self) -> dict[str, float]:
        """What is left for training, by resource: limit - spent - reserve, never below 0."""
        self._spent[SECONDS] = self.seconds
        left: dict[str, float] = {}
        for track in self._course.tracks:
            amount = self._for_training(track, self._spent[track.index])
            name = RESOURCES[track.index]
            left[name] = max(0.0, min(amount, left.get(name, math.inf)))
        return left

    def spent_share(self) -> float:
        """The share of the budget that is spent, 0 to 1, of the limit that is nearest to its end."""
        shares = []
        for track in self._course.tracks:
            limit = self._limit(track)
            shares.append(min(1.0, (self.seconds if track.index == SECONDS else self._spent[track.index]) / limit))
        return max(shares)

    def seconds_left(self) -> float | None:
        """Seconds until training ends: by the clock, or at the pace so far where the budget counts; None before there is one."""
        left = self.remaining()
        seconds = [left["seconds"]] if "seconds" in left else []
        for track in self._course.tracks:
            done = self._spent[track.index]
            if track.index != SECONDS and done:
                seconds.append(left[RESOURCES[track.index]] / done * max(0.0, self._training_seconds() - self._set_up))
        return min(seconds) if seconds else None

    def seconds_to_end(self) -> float:
        """Seconds until a limit in time is reached itself, nothing being kept in reserve but what the caller asked for."""
        ends = [self._limit(track) - self.seconds for track in self._course.tracks if track.index == SECONDS]
        return min(ends, default=math.inf) - self._reserve

    @property
    def update_seconds(self) -> float | None:
        """What one update costs when nothing disturbs it: the median of the recent ones, or None before there are any."""
        if not self._recent:
            return None
        return sorted(self._recent)[len(self._recent) // 2]

    # Spending

    def update(self, samples: float = 0.0, tokens: float = 0.0, flops: float = 0.0) -> None:
        """Charge one optimizer update that happened, and whatever else it spent."""
        spent = self._spent
        spent[STEPS] += 1.0
        if samples or tokens or flops:
            spent[SAMPLES] += samples
            spent[TOKENS] += tokens
            spent[FLOPS] += flops
        if self._timed:
            now = self._clock()
            duration = now - self._last
            self._last = now
            if self._least <= duration <= self._most:
                self._recent.append(duration)
            else:
                self._reconsider(duration)
            if now >= self._next_look:
                self._look()
            if self._line is not None:  # seconds decide: the closed form as a straight line over the clock
                a, b = self._line
                p = a + b * now
                if p > self.progress:  # a line drawn anew may lie lower by a rounding
                    self.progress = p
                return
        track = self._only
        if track is None:
            self._advance()
            return
        x = spent[track.index]
        p = track.p0 + track.q0 * (x - track.x0) / track.r0  # as in _Course.advance
        if p > self.progress:
            self.progress = p
        if x >= track.stop:
            self._end()

    def _reconsider(self, duration: float) -> None:
        """An update that took longer than usual, or after which it is open again which limit decides."""
        self._depose(updates=1, seconds=duration)
        if duration > self._longest_normal:
            self._settle(duration)
        else:
            self._recent.append(duration)

    def _look(self) -> None:
        """A review, from where this update has led; and the stop, where seconds decide."""
        if self._meter is not None and self._last >= self._next_reading:
            self._read_meter()
        if self._line is None or len(self._course.tracks) > 1:
            self._advance()
        else:
            self._spent[SECONDS] = self._last - self._origin
            a, b = self._line
            self.progress = max(self.progress, min(a + b * self._last, 1.0))
        self._review()
        if self._line is not None and self._course.over(self._spent):
            self._end()

    def _advance(self) -> None:
        if self.ended_by is not None:
            return  # what is spent after the end changes nothing
        self._spent[SECONDS] = self._last - self._origin
        if self._warmup is not None:
            self.warmup_progress = self._warmup.advance(self._spent, self.warmup_progress or 0.0)
            if self._warmup.over(self._spent):
                self._end_warmup()
        else:
            course = self._course
            self.progress = course.advance(self._spent, self.progress)
            if course.reached:
                self._end()
            return
        if self._course.over(self._spent):
            self._end()

    def _read_meter(self) -> None:
        if self._meter is not None:
            self._spent[JOULES] = max(self._spent[JOULES], self._meter() - self._meter_origin)
            self._next_reading = self._clock() + _READING

    def interrupt(self, reason: str) -> None:
        """Have training stop before its budget ends; what remains stays for a resume."""
        self.interrupted = self.interrupted or reason

    def skipped(self, updates: int) -> None:
        """Take back updates that mixed precision turned out to have skipped; progress waits for them."""
        self._depose()
        self._spent[STEPS] -= updates

    @contextmanager
    def measure(self, name: str, more: int | None = None) -> Iterator[None]:
        """Charge what happens inside to an activity instead of an update, and keep its cost in reserve from then on.

        Args:
            name: what it is, such as `evaluation`.
            more: how often it will come again after this time, if that is known; else its rhythm so far is
                expected to go on, and one more at the very end.
        """
        if self._measuring:  # inside another activity, which is charged for it
            yield
            return
        began = self._clock()
        self._measuring, whole = True, False
        try:
            yield
            whole = True
        finally:
            self._measuring = False
            seconds = self._clock() - began
            self._last += seconds
            self._read_meter()
            if not whole:  # it says nothing of what a whole one costs
                name, more = f"{name}, broken off", 0
            activity = self.activities.setdefault(name, Activity())
            activity.add(seconds, self._training_seconds() - seconds, more)
            self._doubt(activity)

    @contextmanager
    def uncharged(self) -> Iterator[None]:
        """Count no second and no joule of what happens inside; only a deadline comes nearer."""
        if self._measuring:  # inside an activity, which is charged for it
            yield
            return
        began, joules = self._clock(), self._meter() if self._meter else 0.0
        self._measuring = True
        try:
            yield
        finally:
            self._measuring = False
            seconds = self._clock() - began
            self._last += seconds
            self._origin += seconds
            if self._meter:
                self._meter_origin += self._meter() - joules
            self._plan()

    def expect(self, name: str, seconds: float, more: int = 1) -> None:
        """Keep an estimate in reserve for an activity that was not measured here: not yet, or not on this thread."""
        activity = self.activities.setdefault(name, Activity())
        activity.recent, activity.more = [*activity.recent[-2:], seconds], more
        self._doubt(activity)

    def _doubt(self, activity: Activity) -> None:
        """Have an activity keep a spare, out of what is left for training without it, and plan anew."""
        activity.spare = 0.0
        self._spent[SECONDS] = self._last - self._origin
        free = [
            self._for_training(track, self._spent[track.index]) / unit
            for track in self._course.tracks
            if (unit := self._per_second(track))
        ]
        activity.doubt(min(free, default=0.0))
        self._plan()

    def forgo(self, name: str) -> None:
        """Keep nothing more in reserve for an activity: it will not come again."""
        self.activities[name].more = 0
        self._plan()

    def overrun(self) -> float:
        """Seconds by which the limit that ended the run is exceeded now; 0 where it is none of time."""
        cap = self.ended_by
        if cap is None or cap.resource not in ("seconds", "clock"):
            return 0.0
        return max(0.0, self.seconds - cap.amount if cap.resource == "seconds" else self._wall() - cap.amount)

    def extend(self, caps: Sequence[Cap]) -> None:
        """Go on under other limits: progress stays where it is, and the rest of the decay takes what remains.

        Raises:
            BudgetError: where the run has ended, so that there is no decay left to stretch, or where the new
                limits are spent already.
        """
        if self.progress >= 1.0 or self.ended_by is not None:
            raise BudgetError(
                "the budget has ended and the rate has reached its end: a longer one would train at that rate; start a new run"
            )
        course = _Course(caps)
        spent = [*self._spent[:SECONDS], self.seconds]
        for track in course.tracks:
            if self._limit(track) <= spent[track.index]:
                raise BudgetError(f"the new budget '{track.cap.limit}' is spent already")
            if self._for_training(track, spent[track.index]) <= 0:
                raise BudgetError(
                    f"the new budget '{track.cap.limit}' leaves nothing to train in: what the last evaluation and checkpoint "
                    "are expected to take is more than is left of it; give a longer one"
                )
        self._course = course
        self._plan()

    # The receding horizon

    def _plan(self) -> None:
        """Anchor progress here, with what remains for training now."""
        self._timed = any(t.index >= _FLOWING for c in (self._course, self._warmup) if c for t in c.tracks)
        self._depose()
        self._spent[SECONDS] = self._last - self._origin
        for track in self._warmup.tracks if self._warmup else ():
            if track.index >= _FLOWING or track.r0 == math.inf:
                self._anchor(track, self.warmup_progress or 0.0, self._limit(track) - self._spent[track.index])
        for track in self._course.tracks:
            if track.index >= _FLOWING or track.r0 == math.inf:
                self._anchor(track, self.progress, self._for_training(track, self._spent[track.index]))
        self._review()

    def _anchor(self, track: _Track, progress: float, remaining: float) -> None:
        spent = self._spent[track.index]
        track.stop = spent + remaining if track.index >= _FLOWING else track.cap.amount
        track.anchor(progress, spent, max(remaining, 1e-12))

    def _review(self) -> None:
        """Look again at what changes slowly: an update's cost, what is kept back, and a deadline on the wall clock."""
        recent = sorted(self._recent)
        # The next update must fit in what remains, also when it is one of the slower ones.
        next_update = recent[(3 * len(recent)) // 4] if recent else 0.0
        self._longest_normal = _STALL * recent[-1] if recent else 0.0
        self._next_look = self._last
        if len(recent) == _RECENT:  # else the next update may say something new
            self._next_look += max(_REVIEW, 2.0 * _RECENT * next_update)
        self._stop_at = math.inf
        for track in self._course.tracks:
            if track.index >= _FLOWING:
                spent = self._spent[track.index]
                remaining = self._for_training(track, spent)
                if abs(remaining - track.remaining(spent)) > 1e-3 * max(remaining, 1e-3):
                    self._anchor(track, self.progress, remaining)
                track.stop = spent + remaining - next_update * self._per_second(track)
                if track.index == SECONDS:
                    self._stop_at = min(self._stop_at, self._origin + track.stop)
        self._next_look = min(self._next_look, self._stop_at)
        if self._meter is not None:
            self._next_look = min(self._next_look, self._next_reading)
        self._appoint(recent)
        self._draw_line()

    def _appoint(self, recent: Sequence[float]) -> None:
        """Name the limit that alone decides, and for updates of which durations it is sure to.

        Of seconds and steps, seconds decide as long as no update is shorter than what remains of them over what remains
        of the steps: that quotient only falls while none is. The other way round for steps.
        """
        self._only, self._least, self._most = None, -math.inf, self._longest_normal
        if self._warmup is not None or self.ended_by is not None:
            return
        tracks = sorted(self._course.tracks, key=lambda t: t.index)
        if len(tracks) == 1:
            self._only = tracks[0]
        elif recent and [t.index for t in tracks] == [STEPS, SECONDS]:
            left = [track.remaining(self._spent[track.index]) for track in tracks]
            if min(left) <= 0:
                return
            even = left[1] / left[0]
            least, most = even * (1 + _ROUNDING), even * (1 - _ROUNDING)
            if recent[0] >= least:
                self._only, self._least = tracks[1], least
            elif recent[-1] <= most:
                self._only, self._most = tracks[0], min(self._most, most)

    def _depose(self, updates: int = 0, seconds: float = 0.0) -> None:
        """Let all limits decide again: one that did not is anchored where progress stood so many updates and seconds ago."""
        if self._only is None or len(self._course.tracks) == 1:
            return
        for track in self._course.tracks:
            if track is not self._only:
                spent = self._spent[STEPS] - updates if track.index == STEPS else self._last - self._origin - seconds
                if (remaining := track.remaining(spent)) > 0:
                    track.anchor(self.progress, spent, remaining)
        self._only = self._line = None
        self._least, self._most = -math.inf, self._longest_normal

    def _draw_line(self) -> None:
        track = self._only
        if track is None or track.index != SECONDS:
            self._line = None
        else:
            slope = track.q0 / track.r0
            self._line = track.p0 - slope * (track.x0 + self._origin), slope

    def _limit(self, track: _Track) -> float:
        """The cap in the ledger's own count; a deadline is where the wall clock puts it on the run's own seconds."""
        if track.cap.resource != "clock":
            return track.cap.amount
        return self.seconds + (track.cap.amount - self._wall())

    def _for_training(self, track: _Track, spent: float) -> float:
        """R: what remains of a limit, less what evaluations, checkpoints and the like will still cost."""
        left = self._limit(track) - spent
        unit = self._per_second(track)
        if not unit:
            return left
        at = self._training_seconds()
        free = left / unit - self._reserve - sum(a.certain for a in self.activities.values())
        free -= max((a.spare for a in self.activities.values()), default=0.0)  # not all of them will be dearer at once
        if free <= 0:
            return free * unit
        rate = 1.0 + sum(a.rate(at) for a in self.activities.values())
        if track.index == JOULES:
            return free / rate * unit
        # A burst of stalls, such as compilation, says little of the rest: expect at most as many seconds again as so far.
        return max(free / (rate + self._stalls.rate(at)), (free - self._stalls.seconds) / rate)

    def _per_second(self, track: _Track) -> float:
        """What a second spends of a flowing resource, at the mean so far; 0 for those that only updates spend."""
        if track.index == SECONDS:
            return 1.0
        seconds = self._last - self._origin - self._set_up  # before there was a counter, and then at little power
        return self._spent[JOULES] / seconds if track.index == JOULES and seconds > 0 else 0.0

    def _training_seconds(self) -> float:
        now = self._last if self._timed else self._clock()
        return now - self._origin - self._stalls.seconds - sum(a.seconds for a in self.activities.values())

    def _settle(self, duration: float) -> None:
        """Decide what an unusually long update cost, and let the rest of its duration shrink what remains."""
        if self._first is None:
            # Start-up and update cannot be told apart until a second update has run: it pays for both.
            self._first, cost = duration, 0.0
        elif not (usual := self.update_seconds):  # the second update, or updates shorter than a tick of the clock
            cost = duration if self._recent else duration + min(duration, self._first)
            self._recent.append(duration)
        else:
            cost = usual
            self._stalls.add(duration - cost, self._training_seconds() - (duration - cost))
            # What recurs becomes normal within a few times; what happens once does not.
            self._recent.append(self._longest_normal)
        self._spent[SECONDS] = self._last - self._origin
        x0 = self._spent[SECONDS] - cost
        for track in self._warmup.tracks if self._warmup else ():
            if track.index == SECONDS:
                track.anchor(self.warmup_progress or 0.0, x0, max(self._limit(track) - x0, 1e-12))
        for track in self._course.tracks:
            if track.index == SECONDS:
                track.anchor(self.progress, x0, max(self._for_training(track, x0), 1e-12))
        self._next_look = 0.0
        self._draw_line()

    def _end_warmup(self) -> None:
        self._warmup = self.warmup_progress = None
        for track in self._course.tracks:
            track.r0 = math.inf  # progress starts here, whatever the unit
        self._plan()

    def _end(self) -> None:
        self.within_warmup = self._warmup is not None
        self._course.binding = next(t for t in self._course.tracks if self._spent[t.index] >= t.stop)
        self.ended_by = self._course.binding.cap
        self.progress, self._warmup, self.warmup_progress = 1.0, None, None
        self._only = None
        self._line = (1.0, 0.0) if self._timed and self._meter is None else None

    # State

    def rebase(self, caps: Sequence[Cap]) -> None:
        """Take other limits before anything is spent; a state is loaded next."""
        self._course = _Course(caps)
        self._plan()

    def hold_clock(self) -> None:
        """Count no seconds until `start_clock`."""
        self._held, now = self._clock, self._clock()
        self._clock = lambda: now

    def start_clock(self) -> None:
        """Count seconds from now on, where the clock was held."""
        if self._held is not None:
            seconds, self._clock, self._held = self.seconds, self._held, None
            self._last = self._clock()
            self._origin = self._last - seconds
            self._plan()

    def state_dict(self) -> dict[str, Any]:
        """All of it as numbers, lists and dicts; a ledger with the same caps goes on from it to the last bit."""
        self._depose()
        self._spent[SECONDS] = self.seconds

        def anchors(course: _Course) -> list[list[float]]:
            return [[t.p0, t.x0, t.r0] for t in course.tracks]

        return {
            "spent": dict(zip(RESOURCES, self._spent, strict=True)),
            "progress": self.progress,
            "anchors": anchors(self._course),
            "binding": self._course.tracks.index(self._course.binding),
            "warmup_progress": self.warmup_progress,
            "warmup_anchors": self._warmup and anchors(self._warmup),
            "stalls": asdict(self._stalls),
            "activities": {name: asdict(activity) for name, activity in self.activities.items()},
            "set_up": self._set_up,
            "done": self.ended_by is not None,
        }

    def load_state_dict(self, state: Mapping[str, Any], lost: float = 0.0) -> None:
        """Go on from a state. Seconds that this process has spent already, its set-up, stay charged.

        Args:
            state: what `state_dict` returned.
            lost: seconds that were spent after the state was taken, on updates that a kill undid.
        """
        seconds = state["spent"]["seconds"] + lost + self.seconds
        self._spent = [float(state["spent"][name]) for name in RESOURCES]
        self._last = self._clock()
        self._origin = self._last - seconds
        self._set_up = state["set_up"] + lost + self._set_up
        self._meter_origin -= self._spent[JOULES]
        self._read_meter()
        self.progress = state["progress"]
        self._restore(self._course, state["anchors"])
        self._course.binding = self._course.tracks[state["binding"]]
        self.warmup_progress = state["warmup_progress"]
        if self._warmup and state["warmup_anchors"]:
            self._restore(self._warmup, state["warmup_anchors"])
        else:
            self._warmup = None
        self._stalls = Activity(**state["stalls"])
        self.activities = {name: Activity(**kept) for name, kept in state["activities"].items()}
        self._recent.clear()
        self._first, self._longest_normal = None, 0.0
        self._plan()
        if state["done"]:
            self.ended_by, self.progress = self._course.binding.cap, 1.0

    @staticmethod
    def _restore(course: _Course, anchors: Sequence[Sequence[float]]) -> None:
        for track, (p0, x0, r0) in zip(course.tracks, anchors, strict=True):
            track.anchor(p0, x0, r0)
            # Counted limits end at the cap itself; x0 + r0 would differ from it in the last bit.
            track.stop = x0 + r0 if track.index >= _FLOWING else track.cap.amount
