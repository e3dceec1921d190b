"""Recipes scaled to the machine: another batch, and the base rate with it."""

from __future__ import annotations

import math

from ..core.errors import TaskError


def linear_rule(rate: float, batch: int, wanted: int) -> float:
    """The base rate for another batch: in proportion to it (Goyal et al. 2017).

    Args:
        rate: of the recipe.
        batch: samples of one update in the recipe.
        wanted: samples of one update here.

    >>> linear_rule(0.1, 128, 32)
    0.025
    """
    return rate * wanted / batch


def flag(what: str, value: object) -> bool:
    """An argument that is on or off.

    Raises:
        TaskError: for anything but 0 and 1.
    """
    if value not in (0, 1):
        raise TaskError(f"{what} is 0 or 1, and is {value}")
    return bool(value)


def positive(what: str, value: object, least: int = 1) -> int:
    """A whole number from `least` on.

    Raises:
        TaskError: for anything else.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or value != int(value)
        or value < least
    ):
        raise TaskError(f"{what} is a whole number from {least}, and is {value}")
    return int(value)
