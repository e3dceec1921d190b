"""Signals that ask a run to stop: kept until the work under way is whole, or taken at once where it can be dropped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_ASK = ("SIGINT", "SIGTERM", "SIGUSR1")  # Ctrl-C, a machine that is taken away, SLURM's warning


class Caught(BaseException):
    """A signal came where the work under way can be dropped; not an `Exception`, so that nothing swallows it."""


class Signals:
    """SIGINT, SIGTERM and SIGUSR1 become `caught`, the signal's name. A second SIGINT interrupts whatever is under way.

    What must be whole, such as an update, simply runs; what can be dropped and done again, such as waiting for data, runs
    within `at_once`, which raises `Caught` as soon as a signal comes, or on entry where one has come before.

    Args:
        tell: called with the first signal's name, within its handler.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self.caught: str | None = None
        self._tell = tell
        self.at_once = _AtOnce(self)
        self._before: dict[int, Any] = {}
        self._process = 0

    def only_tell(self, tell: Callable[[str], None]) -> None:
        """From now on have a signal told and nothing raised: where several processes stop together, none may leave alone."""
        self._tell, self.at_once.raises = tell, False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread handle signals
            self._process = os.getpid()
            for name in _ASK:
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._catch)
        return self

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker that was forked from the run, and to which the terminal or SLURM sent the signal too: it goes on
            # until the run ends it, for the run would take its death for a failure.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.caught is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.caught is not None:  # what the first one led to, such as the last checkpoint, is not broken off
            return
        self.caught = signal.Signals(number).name
        # PyTorch raises wherever the run is when a loader's worker has died; asked to stop, it needs none any more.
        self._before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda *_: None))
        if self._tell is not None:
            self._tell(self.caught)
        if self.at_once.depth and self.at_once.raises:
            raise Caught(self.caught)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class _AtOnce:
    """The context in which a signal raises `Caught`. It is entered at each update, so it is no generator."""

    __slots__ = ("_signals", "depth", "raises")

    def __init__(self, signals: Signals) -> None:
        self._signals, self.depth, self.raises = signals, 0, True

    def __enter__(self) -> None:
        self.depth += 1
        if self._signals.caught is not None and self.raises:
            self.depth -= 1
            raise Caught(self._signals.caught)

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
