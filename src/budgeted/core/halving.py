"""Who goes on in a successive halving (Jamieson & Talwalkar 2016)."""

from __future__ import annotations

from collections.abc import Mapping


def promote(figures: Mapping[str, float | None], eta: float, *, maximize: bool) -> tuple[str, ...]:
    """The best 1/eta, at least one, the best first; of equal ones the first. What came to nothing never goes on.

    Args:
        figures: by name; None for what came to nothing, which counts among those that a share is taken of.
        eta: one in so many goes on.
        maximize: which way is better.

    >>> promote({"a": 0.5, "b": None, "c": 0.9, "d": 0.9}, 2, maximize=True)
    ('c', 'd')
    """
    sign = -1.0 if maximize else 1.0
    there = [(sign * figure, place, name) for place, (name, figure) in enumerate(figures.items()) if figure is not None]
    return tuple(name for _, _, name in sorted(there)[: max(1, int(len(figures) / eta))])
