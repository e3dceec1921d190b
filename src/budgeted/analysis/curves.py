"""Families of learning curves, and how one is fitted to a few points.

A curve is that of the gap: what a metric lacks to the best value that it could have (1 - accuracy; a loss itself). The gap
falls with the budget and is never negative, so no asymptote lies outside the metric's range. It is fitted by its logarithm.
With u the budget as a multiple of the least one, t = log u, and the gap as a multiple of the least gap measured:

    gap(u) = floor + (first - floor) g(u),    g(1) = 1, g falls,    0 <= floor <= 1 <= first

The families are the g: a power law (Cortes et al., "Learning Curves: Asymptotic Values and Rate of Convergence", NIPS 1994),
and those which Domhan et al. (IJCAI 2015) and Viering and Loog ("The Shape of Learning Curves: a Review", 2021) found to hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy import optimize

Array = np.ndarray[Any, Any]
LEAST_NOISE = 0.01  # of a logarithm of a gap: so near no two medians are the same
_STEP = 1e-5
_LEAST_GAP = 0.01  # of a straight line, which would cross zero, as a share of the least gap measured


@final
@dataclass(frozen=True, slots=True)
class Family:
    """One form of curve.

    Args:
        name, formula: as they are shown.
        shape: from t = log u and the shape's parameters, g.
        centres: of the logarithms of these parameters; each is kept near by a weak normal prior, one unit of e wide, so
            that forms with more parameters than points still have one best fit.
        floor: whether the curve has a floor above the metric's bound.
    """

    name: str
    formula: str
    shape: Callable[..., Array]
    centres: tuple[float, ...]
    floor: bool = True

    def __call__(self, t: Array, parameters: Array) -> Array:
        """The logarithm of the gap, as a multiple of the least one measured."""
        first, floor = np.exp(parameters[0]), parameters[1] if self.floor else 0.0
        share = self.shape(t, *np.exp(parameters[2 if self.floor else 1 :]))
        gap: Array = np.maximum(floor + (first - floor) * share, _LEAST_GAP)
        return np.log(gap)


def _power(t: Array, c: Array) -> Array:
    return np.asarray(np.exp(-c * t))


def _inverse(t: Array, k: Array) -> Array:
    return 1.0 / (1.0 + k * t)


def _line(t: Array, k: Array) -> Array:
    return 1.0 - k * t


def _hill(t: Array, k: Array, c: Array) -> Array:
    return np.asarray((1.0 + k) / (1.0 + k * np.exp(np.minimum(c * t, 100.0))))


def _janoschek(t: Array, k: Array, c: Array) -> Array:
    return np.asarray(np.exp(-k * np.expm1(np.minimum(c * t, 100.0))))


FAMILIES = (
    Family("power", "a u^-c", _power, (math.log(0.4),), floor=False),
    Family("power-floor", "f + a u^-c", _power, (math.log(0.6),)),
    Family("inverse-log", "f + a / (1 + k log u)", _inverse, (math.log(0.6),)),
    Family("log-linear", "a - b log u", _line, (math.log(0.2),), floor=False),
    Family("hill", "f + a / (1 + k u^c)", _hill, (0.0, math.log(0.6))),
    Family("janoschek", "f + a exp(-k u^c)", _janoschek, (0.0, math.log(0.3))),
)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A family fitted to points.

    Args:
        family: which.
        parameters: its own.
        origin: (log budget, log gap) that t and the gap are counted from.
        response: how far each parameter moves for each unit by which a point's log gap moves (parameters x points).
    """

    family: Family
    parameters: Array
    origin: tuple[float, float]
    response: Array

    def __call__(self, log_budget: Array) -> Array:
        """The logarithm of the gap at some budgets."""
        return self.family(log_budget - self.origin[0], self.parameters) + self.origin[1]

    def sensitivity(self, log_budget: Array) -> Array:
        """How far the fitted log gap moves with that of each point (budgets x points)."""
        return _slopes(self.family, log_budget - self.origin[0], self.parameters) @ self.response


def fit(family: Family, log_budgets: Array, log_gaps: Array, noise: float) -> Fit:
    """The curve of a family that is nearest to some points, each counting the same.

    Least squares with the soft L1 loss, within bounds; a point that lies far off counts by its distance, not by its square.

    Args:
        family: which.
        log_budgets, log_gaps: the points, by rising budget.
        noise: how far a point lies off by chance.
    """
    origin = (float(log_budgets[0]), float(log_gaps.min()))
    t, gaps = log_budgets - origin[0], log_gaps - origin[1]
    floors = [0.5] if family.floor else []
    centre = np.array([gaps[0], *floors, *family.centres])
    width = np.array([0.5, *(0.5 for _ in floors), *(1.0 for _ in family.centres)])
    low = np.array([-1e-6, *(0.0 for _ in floors), *(c - 4.0 for c in family.centres)])
    high = np.array([centre[0] + 2.0, *(1.0 - 1e-5 for _ in floors), *(c + 3.0 for c in family.centres)])

    def residuals(parameters: Array) -> Array:
        return np.concatenate([(family(t, parameters) - gaps) / noise, (parameters - centre) / width])

    found = optimize.least_squares(residuals, centre, bounds=(low, high), loss="soft_l1", x_scale=width, max_nfev=100)
    return Fit(family, found.x, origin, _response(family, t, found, width, noise))


def _response(family: Family, t: Array, found: Any, width: Array, noise: float) -> Array:
    """Of one step of Newton's method without the curve's own bend; parameters at a bound stay there."""
    free = found.active_mask == 0
    bend = (1.0 + found.fun**2) ** -1.5  # the second derivative of the soft L1 loss
    slopes = _slopes(family, t, found.x)[:, free] / noise
    of_points = slopes.T * bend[: len(t)]
    of_priors = np.diag(bend[len(t) :][free] / width[free] ** 2)
    response = np.zeros((len(found.x), len(t)))
    response[free] = np.linalg.solve(of_points @ slopes + of_priors, of_points / noise)
    return response


def _slopes(family: Family, t: Array, parameters: Array) -> Array:
    """Of the log gap by each parameter (budgets x parameters)."""
    steps = _STEP * np.eye(len(parameters))
    return np.stack([(family(t, parameters + s) - family(t, parameters - s)) / (2 * _STEP) for s in steps], axis=1)
