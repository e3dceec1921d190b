"""A schedule driven by a ledger: the factor now, and the factors of a whole run before it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from .budget import Budget, Cap, Terms
from .compose import Over, absolute_warmup
from .errors import ScheduleError
from .ledger import Ledger
from .schedule import Plateau, Schedule


class Driving(Protocol):
    """What is asked of a ledger."""

    progress: float
    warmup_progress: float | None

    def spent_of(self, cap: Cap) -> float: ...


def phase_caps(schedule: Schedule | Plateau, terms: Terms) -> tuple[Cap, ...]:
    """The caps of a warm-up of absolute length, or of the horizon that a schedule has of its own."""
    if isinstance(schedule, Over):
        return schedule.horizon.caps(terms)
    ramp = absolute_warmup(schedule)
    return ramp.length.caps(terms) if ramp else ()


def position(schedule: object, ledger: Driving, phases: Sequence[Cap]) -> float:
    """Progress through what a schedule spans: the budget, or a horizon of its own.

    Args:
        schedule: what is driven.
        ledger: what drives it.
        phases: what `phase_caps` says of it.
    """
    if not isinstance(schedule, Over):
        return ledger.progress
    horizon = phases[0]
    return min(1.0, ledger.spent_of(horizon) / horizon.amount)


def driver(schedule: Schedule, ledger: Driving, phases: Sequence[Cap]) -> Callable[[], float]:
    """The function that gives the factor of an update now, a pure function of the ledger; arguments as of `position`."""
    formula, ramp = schedule.factor, absolute_warmup(schedule)
    if isinstance(schedule, Over):
        return lambda: formula(position(schedule, ledger, phases))
    if ramp is None:
        return lambda: formula(ledger.progress)

    def warming() -> float:
        w = ledger.warmup_progress
        return formula(ledger.progress) if w is None else ramp.ramp(w)

    return warming


def factors(schedule: Schedule, budget: Budget, terms: Terms) -> Iterator[float]:
    """The factor of each update that a budget in steps or epochs buys, to the last bit.

    Args:
        schedule, budget, terms: as a run has them.

    Raises:
        BudgetError: for an epoch of unknown length, or a share of an unknown budget.
        ScheduleError: where the updates cannot be foreseen: the budget or a phase is counted in something else.

    >>> from .schedule import Linear
    >>> list(factors(Linear(), Budget.parse("4 steps"), Terms()))
    [1.0, 0.75, 0.5, 0.25]
    """
    caps, phases = budget.caps(terms), phase_caps(schedule, terms)
    if strange := next((cap for cap in (*caps, *phases) if cap.resource != "steps"), None):
        raise ScheduleError(
            f"what '{schedule}' does under '{budget}' is not known before: '{strange.limit}' counts no updates"
        )
    ledger = Ledger(caps, warmup=() if isinstance(schedule, Over) else phases)
    now = driver(schedule, ledger, phases)
    while not ledger.done:
        yield now()
        ledger.update()
