"""Which runs share so much of their first part that they had better train it once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from ..core.budget import Budget, Terms
from ..core.drive import factors
from ..core.errors import BudgetedError
from ..core.record import Spec
from ..core.refine import is_refined
from ..core.schedule import Plateau, Schedule
from ..core.spec import schedule as read_schedule

_WORTH = 0.02  # of a run's updates that must be shared, and
_LEAST = 16  # updates: what it costs to part


def length(spec: Spec, terms: Terms) -> int | None:
    """The updates that a run makes, or None where that is not known before."""
    caps = Budget.parse(spec.budget).caps(terms)
    return None if any(cap.resource != "steps" for cap in caps) else int(min(cap.amount for cap in caps))


def shared(one: Spec, other: Spec, terms: Terms) -> int:
    """Updates that two runs make alike from the first on: at the same rate to the last bit, on the same batches.

    0 for runs that differ in anything but budget and schedule, or whose updates are not known before.

    >>> shared(Spec("t", "100 steps", "const"), Spec("t", "60 steps", "step-d1"), Terms())
    30
    """
    if one.family != other.family or not (_foreseen(one) and _foreseen(other)):
        return 0
    try:
        pairs = zip(_factors(one, terms), _factors(other, terms), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    except BudgetedError:
        return 0


def groups(specs: Sequence[Spec], terms: Mapping[str, Terms]) -> list[list[Spec]]:
    """The runs in the groups in which they begin, the longest first; most are alone in theirs.

    Args:
        specs: the runs.
        terms: of each task, by its name.
    """
    lengths = {spec: length(spec, terms[spec.task]) or 0 for spec in specs}
    waiting, found = sorted(specs, key=lambda spec: -lengths[spec]), []
    while waiting:
        trunk = waiting.pop(0)
        group = [trunk]
        for spec in list(waiting):
            if shared(trunk, spec, terms[spec.task]) >= max(_LEAST, _WORTH * lengths[spec]):
                group.append(spec)
                waiting.remove(spec)
        found.append(group)
    return found


def saved(specs: Sequence[Spec], terms: Mapping[str, Terms]) -> int:
    """Updates that need not be made since another of these runs makes them; arguments as of `groups`."""
    return sum(shared(group[0], spec, terms[spec.task]) for group in groups(specs, terms) for spec in group[1:])


def _factors(spec: Spec, terms: Terms) -> Iterator[float]:
    schedule = read_schedule(spec.schedule)
    assert isinstance(schedule, Schedule)
    return factors(schedule, Budget.parse(spec.budget), terms)


def _foreseen(spec: Spec) -> bool:
    """Whether nothing but the rate looks at progress."""
    if is_refined(spec.schedule):
        return False
    schedule = read_schedule(spec.schedule)
    free = spec.optimizer is not None and spec.optimizer.startswith("schedule-free")
    return not (isinstance(schedule, Plateau) or schedule.drives or spec.average or spec.replay or spec.probes or free)
