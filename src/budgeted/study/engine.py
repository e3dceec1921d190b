"""Where a study's work is done: one interface, and the engine that does it in this very process."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that is over.

    Args:
        ticket: what `submit` returned.
        value: what the function returned.
        error: the traceback of what it raised, or None.
        died: how its worker ended, where it did not survive the call, or None.
    """

    ticket: int
    value: Any = None
    error: str | None = None
    died: str | None = None


class Engine(ABC):
    """Calls functions elsewhere, several at once. As a context it ends its workers on leaving."""

    slots: int  # calls that are made at the same time

    @abstractmethod
    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Have a function called, and return the call's ticket; it and its arguments can be pickled."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Ended]:
        """The calls that ended, at the latest after so many seconds, then perhaps none."""

    @abstractmethod
    def interrupt(self) -> None:
        """Ask the calls under way to stop, as SIGTERM does; they end soon, and are waited for as others are."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@final
class InProcess(Engine):
    """Calls one after another, within `wait`: for a debugger, and where processes are not wanted."""

    slots = 1

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._count = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        self._count += 1
        self._waiting.append((self._count, function, arguments))
        return self._count

    def wait(self, timeout: float) -> list[Ended]:
        if not self._waiting:
            return []
        ticket, function, arguments = self._waiting.popleft()
        try:
            return [Ended(ticket, function(*arguments))]
        except Exception:
            return [Ended(ticket, error=traceback.format_exc())]

    def interrupt(self) -> None:
        self._waiting.clear()  # a call under way hears signals itself

    def close(self) -> None:
        self._waiting.clear()
