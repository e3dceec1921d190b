"""As many threads as updates are fastest with, while other processes come and go.

The parallel parts of an update last micro- to milliseconds, and each waits for its slowest thread. When a neighbour takes one
core away, all threads together are several times slower than one alone, which loses next to nothing. So the number of
threads follows the speed that is measured: fewer are tried when updates become slow, and all again from time to time.
"""

from __future__ import annotations

import os
import statistics
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

_READING = 0.02  # seconds of updates at least, of which the mean is one reading: single short ones say little
_READINGS = 5  # of which the median is the speed
_TRIAL = 3  # readings of another number of threads, after one that warms up
_SLOW = 1.3  # times its best speed, from which all threads are suspected
_BETTER = 0.95  # of the time before, from which another number is kept
_HOPELESS = 1.5  # times the time before: no more than one reading of this is tried
_SHARE = 0.05  # of the time that trials may cost
_SOONEST, _LATEST = 1.0, 60.0  # seconds of updates from one trial to the next


class Threads:
    """Chooses between all threads, half of them, a quarter, and so on down to one, update by update.

    Args:
        most: all of them.
        now: how many are used to begin with.
        use: makes PyTorch use so many.
    """

    def __init__(self, most: int, now: int, use: Callable[[int], None] = torch.set_num_threads) -> None:
        self.most, self.now, self._use = most, now, use
        self.changes = 0
        self._sum, self._count = 0.0, 0  # of the reading under way
        self._recent: deque[float] = deque(maxlen=_READINGS)
        self._best: dict[int, float] = {}  # seconds of an update, by the number of threads
        self._downwards = False  # whether fewer are tried next, where both ways are open
        self._trial: _Trial | None = None
        self._waited, self._wait = 0.0, _SOONEST

    @classmethod
    def following(cls, most: int) -> Threads | None:
        """From the number in use now; None where there is nothing to choose, or a person has chosen."""
        return cls(most, torch.get_num_threads()) if are_free(most) else None

    def took(self, seconds: float) -> None:
        """Take note of an update, and choose for the next one."""
        self._sum += seconds
        self._count += 1
        if self._sum < _READING:
            return
        reading, spent = self._sum / self._count, self._sum
        self._sum, self._count = 0.0, 0
        if self._trial is not None:
            self._tried(self._trial, reading, spent)
            return
        self._recent.append(reading)
        self._waited += spent
        if len(self._recent) == _READINGS and self._waited >= self._wait:
            other = self._promising()
            if other != self.now:
                self._trial = _Trial(self.now, statistics.median(self._recent))
                self._turn(other)

    def _promising(self) -> int:
        """The number that is worth a trial; the present one where none is.

        Fewer where these have become slow. All are left alone else; of others, both neighbours are tried, first on the way
        that was gone last.
        """
        speed = statistics.median(self._recent)
        best = self._best[self.now] = min(self._best.get(self.now, speed), speed)
        slow = speed > _SLOW * best
        if self.now == self.most and not slow:
            return self.now
        if self.now > 1 and (slow or self._downwards):
            return self.now // 2
        return min(self.most, 2 * self.now)

    def _tried(self, trial: _Trial, reading: float, spent: float) -> None:
        trial.readings.append(reading)
        trial.cost += max(0.0, spent * (1 - trial.before / reading))
        hopeless = reading > _HOPELESS * trial.before
        if len(trial.readings) <= _TRIAL and not hopeless:
            return
        if not hopeless and statistics.median(trial.readings[1:]) < _BETTER * trial.before:
            self._downwards = self.now < trial.threads
            self.changes += 1
            self._wait = _SOONEST
        else:
            self._downwards = self.now > trial.threads  # the other way is next
            self._turn(trial.threads)
            self._wait = max(min(2 * self._wait, _LATEST), trial.cost / _SHARE)
        self._trial, self._waited = None, 0.0
        self._recent.clear()

    def _turn(self, threads: int) -> None:
        self.now = threads
        self._use(threads)


def are_free(most: int) -> bool:
    """Whether the number of threads is for the loop to choose: there are several, and no person has said how many."""
    return most > 1 and "OMP_NUM_THREADS" not in os.environ


@dataclass(slots=True)
class _Trial:
    """Of another number of threads."""

    threads: int  # that were used before
    before: float  # seconds of an update with those
    readings: list[float] = field(default_factory=list)
    cost: float = 0.0  # seconds that were lost by it
