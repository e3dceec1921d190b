"""The ledger that each rank has of its own, and what it is told so that all stay equal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..core.budget import Cap
from ..core.errors import BudgetError
from ..core.ledger import FLOPS, SAMPLES, TOKENS, Ledger


@dataclass(frozen=True, slots=True)
class Start:
    """What a rank begins with: its limits, which must be the same on all, and what counts of rank 0 only."""

    caps: Sequence[Cap]
    warmup: Sequence[Cap]
    elapsed: float
    reserve: float
    now: float
    ahead: float  # by which the wall clock is ahead of the monotonic one
    meters: bool


class Copy(Ledger):
    """A ledger whose clocks and meter stand where rank 0's stood when it was last told something."""

    def __init__(self, start: Start) -> None:
        self.now, self.ahead, self.joules = start.now, start.ahead, 0.0
        super().__init__(
            start.caps,
            warmup=start.warmup,
            elapsed=start.elapsed,
            reserve=start.reserve,
            clock=lambda: self.now,
            wall=lambda: self.now + self.ahead,
            meter=(lambda: self.joules) if start.meters else None,
        )

    def charge(self, amounts: Sequence[float]) -> None:
        """Add samples, tokens and FLOPs without an update."""
        for resource, amount in zip((SAMPLES, TOKENS, FLOPS), amounts, strict=True):
            self._spent[resource] += amount

    def measured(self, name: str, more: int | None, began: float, ended: float, whole: bool) -> None:
        """Charge an activity that is over."""
        self.now = began
        with suppress(_BrokenOff), self.measure(name, more):
            self.now = ended
            if not whole:
                raise _BrokenOff


class _BrokenOff(Exception):
    """An activity did not come to its end."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that rank 0's ledger was told beside updates: after how many since the last exchange, and when."""

    after: int
    now: float
    method: str
    arguments: tuple[Any, ...]

    def happen(self, ledger: Copy) -> None:
        ledger.now = self.now
        getattr(ledger, self.method)(*self.arguments)


@dataclass(slots=True)
class News:
    """What one rank has to tell beside figures."""

    interrupted: str | None = None
    events: list[Event] = field(default_factory=list)
    announced: list[Any] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.interrupted or self.events or self.announced)


def require_same(starts: Sequence[Start]) -> None:
    """A deadline may differ, and rank 0's counts, as its clock does; every other limit must be the same."""

    def limits(start: Start) -> list[tuple[str, float]]:
        caps = (*start.caps, *start.warmup)
        return [(cap.resource, 0.0 if cap.resource == "clock" else cap.amount) for cap in caps]

    for rank, start in enumerate(starts):
        if limits(start) != limits(starts[0]):
            raise BudgetError(
                f"rank {rank} has the limits {_said(start)}, and rank 0 {_said(starts[0])}; give all the same budget, warm-up, "
                "steps_per_epoch and devices"
            )


def _said(start: Start) -> str:
    caps = (*start.caps, *start.warmup)
    return ", ".join(f"'{cap.limit}' ({cap.amount:.10g} {cap.resource})" for cap in caps)
