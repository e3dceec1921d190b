"""Schedules: frozen values that map progress through the budget to a factor of the base learning rate.

Every schedule is defined on the closed interval [0, 1] and means the same at both ends. It returns a factor,
so parameter groups keep their ratios, and it never sees steps or seconds: the ledger turns those into progress.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, final

from .errors import ScheduleError
from .text import format_number

Argument = Any  # what a schedule's text holds between its parentheses: numbers, words, pairs, schedules


class Schedule(ABC):
    """A pure function of progress: `schedule(p)` is the factor of the base rate at p in [0, 1]."""

    __slots__ = ()
    name: ClassVar[str]

    @abstractmethod
    def factor(self, p: float) -> float:
        """The formula itself, for p in [0, 1]; nothing is checked."""

    def __call__(self, p: float) -> float:
        """The factor at progress p.

        Args:
            p: progress through the budget, 0 to 1, both ends included.

        Raises:
            ScheduleError: where p lies outside [0, 1] or is NaN.
        """
        if not 0 <= p <= 1:
            raise ScheduleError(f"a schedule is defined for progress 0 to 1, and was asked at {p}")
        return self.factor(p)

    @property
    def drives(self) -> Mapping[str, Schedule]:
        """Other hyper-parameters that belong to this schedule, each a factor of its own base value over the same p."""
        return {}

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        """Build from what stands between the parentheses of the schedule's text."""
        return cls(*args, **named)

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        """What stands between the parentheses: `from_arguments` of it gives an equal schedule. Defaults are left out."""
        return [], _changed_fields(self)

    def __str__(self) -> str:
        """Text that `budgeted.schedule` reads back as an equal schedule."""
        return _text(self.name, *self.arguments())


def _changed_fields(value: Any) -> dict[str, Argument]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if getattr(value, f.name) != f.default}


def _text(name: str, positional: list[Argument], named: Mapping[str, Argument]) -> str:
    inside = [_show(value) for value in positional] + [f"{key}={_show(value)}" for key, value in named.items()]
    return f"{name}({', '.join(inside)})" if inside else name


def _show(value: Argument) -> str:
    if isinstance(value, tuple):
        return ":".join(_show(part) for part in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    decimal, fraction = format_number(value), Fraction(value).limit_denominator(99)
    return str(fraction) if len(decimal) > 8 and float(fraction) == value else decimal


def require(condition: bool, sentence: str) -> None:
    """Raise a ScheduleError with the sentence unless the condition holds."""
    if not condition:
        raise ScheduleError(sentence)


def _require_floor(name: str, eta: float) -> None:
    require(0 <= eta <= 1, f"{name}: eta is the lowest factor, 0 to 1, and is {eta}")


@final
@dataclass(frozen=True, slots=True)
class Const(Schedule):
    """f(p) = 1: no decay."""

    name: ClassVar[str] = "const"

    def factor(self, p: float) -> float:
        return 1.0


@final
@dataclass(frozen=True, slots=True)
class Linear(Schedule):
    """f(p) = 1 - p. No parameter; the default (Li et al., equation 4).

    >>> Linear()(0.25)
    0.75
    """

    name: ClassVar[str] = "linear"

    def factor(self, p: float) -> float:
        return 1.0 - p


@final
@dataclass(frozen=True, slots=True)
class Poly(Schedule):
    """f(p) = (1 - p)^power (Li et al., section 3.2; power 0.9 in all published work)."""

    power: float = 0.9
    name: ClassVar[str] = "poly"

    def __post_init__(self) -> None:
        require(0 < self.power < math.inf, f"poly: power must be positive and finite, and is {self.power}")

    def factor(self, p: float) -> float:
        return float((1.0 - p) ** self.power)


@final
@dataclass(frozen=True, slots=True)
class Cosine(Schedule):
    """f(p) = eta + (1 - eta)(1 + cos(pi p))/2 (Loshchilov & Hutter 2017; Li et al., section 3.2).

    >>> Cosine()(0.0), Cosine()(1.0), Cosine(eta=0.1)(1.0)
    (1.0, 0.0, 0.1)
    """

    eta: float = 0.0
    name: ClassVar[str] = "cosine"

    def __post_init__(self) -> None:
        _require_floor("cosine", self.eta)

    def factor(self, p: float) -> float:
        return self.eta + (1.0 - self.eta) * (1.0 + math.cos(math.pi * p)) / 2.0


@final
@dataclass(frozen=True, slots=True)
class HTD(Schedule):
    """f(p) = eta + (1 - eta)(1 - tanh(lower + (upper - lower) p))/2 (Hsueh et al. 2019; best at -6, 3)."""

    lower: float = -6.0
    upper: float = 3.0
    eta: float = 0.0
    name: ClassVar[str] = "htd"

    def __post_init__(self) -> None:
        _require_floor("htd", self.eta)
        require(
            -math.inf < self.lower < self.upper < math.inf,
            f"htd: lower must be below upper, both finite, and they are {self.lower} and {self.upper}",
        )

    def factor(self, p: float) -> float:
        return self.eta + (1.0 - self.eta) * (1.0 - math.tanh(self.lower + (self.upper - self.lower) * p)) / 2.0


@final
@dataclass(frozen=True, slots=True)
class Step(Schedule):
    """f(p) = gamma^(number of milestones <= p): the rate drops at each milestone, an exact share of the budget.

    >>> Step.even(2).milestones == (1 / 3, 2 / 3), str(Step.even(2)), str(Step((2 / 3, 8 / 9)))
    (True, 'step-d2', 'step(2/3, 8/9)')
    """

    milestones: tuple[float, ...]
    gamma: float = 0.1
    name: ClassVar[str] = "step"

    def __post_init__(self) -> None:
        ordered = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        require(
            bool(self.milestones) and ordered and all(0 < m < 1 for m in self.milestones),
            f"step: milestones are shares of the budget between 0 and 1, rising, and are {self.milestones}",
        )
        require(0 < self.gamma < math.inf, f"step: gamma must be positive and finite, and is {self.gamma}")

    @classmethod
    def even(cls, drops: int, gamma: float = 0.1) -> Step:
        """Drops at even intervals: one at 1/2; two at 1/3 and 2/3 (Li et al., table 2's step-d1, -d2, -d3)."""
        return cls(tuple(k / (drops + 1) for k in range(1, drops + 1)), gamma)

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        return cls(tuple(args), **named)

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return list(self.milestones), {} if self.gamma == 0.1 else {"gamma": self.gamma}

    def __str__(self) -> str:
        drops = len(self.milestones)
        return f"step-d{drops}" if self == Step.even(drops) else Schedule.__str__(self)

    def factor(self, p: float) -> float:
        return self.gamma ** sum(m <= p for m in self.milestones)


@final
@dataclass(frozen=True, slots=True)
class Exp(Schedule):
    """f(p) = (gamma^epochs)^p: gamma per epoch over so many epochs, converted (Li et al., section 3.2)."""

    gamma: float
    epochs: float = 200.0
    name: ClassVar[str] = "exp"

    def __post_init__(self) -> None:
        require(
            0 < self.gamma <= 1, f"exp: gamma is the factor of one epoch, above 0 and at most 1, and is {self.gamma}"
        )
        require(0 < self.epochs < math.inf, f"exp: epochs must be positive and finite, and is {self.epochs}")

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return [self.gamma], {} if self.epochs == 200.0 else {"epochs": self.epochs}

    def __str__(self) -> str:
        digits = format_number(self.gamma)
        return f"exp{digits[1:]}" if self.epochs == 200.0 and digits.startswith("0.") else Schedule.__str__(self)

    def factor(self, p: float) -> float:
        return float(self.gamma ** (p * self.epochs))


@final
@dataclass(frozen=True, slots=True)
class SGDR(Schedule):
    """Cosine periods of `first`, `first * mult`, `first * mult^2`, ... epochs (Loshchilov & Hutter 2017; Li et al., appendix D).

    With first = 10 and mult = 2 the periods end at epochs 10, 30, 70 and 150. `sgdr over 200ep` is the schedule
    as it is; `sgdr` alone is the same curve scaled to the budget. Restarts at even intervals are `sgdr-r1`, `sgdr-r2`.
    """

    first: float = 10.0
    mult: float = 2.0
    epochs: float = 200.0
    name: ClassVar[str] = "sgdr"

    def __post_init__(self) -> None:
        require(
            self.first > 0 and self.mult >= 1,
            f"sgdr: first must be positive and mult at least 1: {self.first}, {self.mult}",
        )
        require(0 < self.epochs < math.inf, f"sgdr: epochs must be positive and finite, and is {self.epochs}")

    def factor(self, p: float) -> float:
        into, period = p * self.epochs, self.first
        while into >= period:
            into, period = into - period, period * self.mult
        return (1.0 + math.cos(math.pi * into / period)) / 2.0


@final
@dataclass(frozen=True, slots=True)
class OneCycle(Schedule):
    """Cosine up from 1/div to 1 at `peak`, cosine down to 1/(div * final_div) at p = 1 (Smith & Topin 2018).

    The momentum (or Adam's beta1) follows the mirrored curve from 1 down to `momentum` at the peak and back, as a
    factor of its base value: 0.85 / 0.95 with a base of 0.95. `momentum=1` leaves it alone.
    """

    peak: float = 0.3
    div: float = 25.0
    final_div: float = 1e4
    momentum: float = 0.85 / 0.95
    name: ClassVar[str] = "one-cycle"

    def __post_init__(self) -> None:
        require(0 < self.peak < 1, f"one-cycle: peak is a share of the budget between 0 and 1, and is {self.peak}")
        require(
            self.div >= 1 and self.final_div >= 1,
            f"one-cycle: div and final_div must be at least 1: {self.div}, {self.final_div}",
        )
        require(
            0 < self.momentum <= 1, f"one-cycle: momentum is a factor above 0 and at most 1, and is {self.momentum}"
        )

    @property
    def drives(self) -> Mapping[str, Schedule]:
        return {} if self.momentum == 1 else {"momentum": _Hump(self.peak, 1.0, self.momentum, 1.0)}

    def factor(self, p: float) -> float:
        return _hump(p, self.peak, 1 / self.div, 1.0, 1 / (self.div * self.final_div))


@final
@dataclass(frozen=True, slots=True)
class _Hump(Schedule):
    """Half a cosine from `start` to `top` at `peak`, and half a cosine on to `end`."""

    peak: float
    start: float
    top: float
    end: float
    name: ClassVar[str] = "hump"

    def factor(self, p: float) -> float:
        return _hump(p, self.peak, self.start, self.top, self.end)


def _hump(p: float, peak: float, start: float, top: float, end: float) -> float:
    a, b, u = (start, top, p / peak) if p < peak else (top, end, (p - peak) / (1 - peak))
    w = (1.0 + math.cos(math.pi * u)) / 2.0
    return a * w + b * (1.0 - w)


@final
@dataclass(frozen=True, slots=True)
class WSD(Schedule):
    """Warmup-stable-decay's last two: 1 until the last `decay` of the budget, then to 0 (Hu et al. 2024; Haegele et al. 2024).

    `shape` is linear, f = u, or 1-sqrt, f = 1 - sqrt(1 - u), where u falls from 1 to 0 over the decay.
    """

    decay: float = 0.2
    shape: str = "linear"
    name: ClassVar[str] = "wsd"

    def __post_init__(self) -> None:
        require(0 < self.decay <= 1, f"wsd: decay is a share of the budget above 0 and at most 1, and is {self.decay}")
        require(self.shape in ("linear", "1-sqrt"), f"wsd: shape is linear or 1-sqrt, and is '{self.shape}'")

    def factor(self, p: float) -> float:
        u = min((1.0 - p) / self.decay, 1.0)
        return u if self.shape == "linear" else 1.0 - math.sqrt(1.0 - u)


@final
@dataclass(frozen=True, slots=True)
class InverseSqrt(Schedule):
    """f(p) = 1/sqrt(1 + p/timescale): the inverse square root of time, with a timescale in shares of the budget.

    It ends at 1/sqrt(1 + 1/timescale), not at 0 (Vaswani et al. 2017; Zhai et al. 2022).
    """

    timescale: float = 0.05
    name: ClassVar[str] = "inverse-sqrt"

    def __post_init__(self) -> None:
        require(
            0 < self.timescale < math.inf,
            f"inverse-sqrt: timescale must be positive and finite, and is {self.timescale}",
        )

    def factor(self, p: float) -> float:
        return 1.0 / math.sqrt(1.0 + p / self.timescale)


@final
@dataclass(frozen=True, slots=True)
class REX(Schedule):
    """f(p) = (1 - p)/(1/2 + (1 - p)/2): reflected exponential (Chen et al. 2022, "REX: Revisiting budgeted training")."""

    name: ClassVar[str] = "rex"

    def factor(self, p: float) -> float:
        return (1.0 - p) / (0.5 + 0.5 * (1.0 - p))


@final
@dataclass(frozen=True, slots=True)
class Points(Schedule):
    """Straight lines through (p, factor) points, from p = 0 to p = 1.

    >>> Points(((0, 1), (0.5, 0.2), (1, 0)))(0.25)
    0.6
    """

    points: tuple[tuple[float, float], ...]
    name: ClassVar[str] = "points"

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple((float(p), float(f)) for p, f in self.points))
        ps = [p for p, _ in self.points]
        rising = len(ps) >= 2 and all(a < b for a, b in itertools.pairwise(ps)) and (ps[0], ps[-1]) == (0, 1)
        require(
            rising, f"points: progress must rise from 0 to 1, and is {ps}; write for example points(0:1, 0.5:0.2, 1:0)"
        )
        require(all(0 <= f < math.inf for _, f in self.points), "points: factors must be at least zero and finite")

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        pairs = all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in args)
        require(
            bool(args) and pairs and not named,
            "points: write progress:factor pairs, for example points(0:1, 0.5:0.2, 1:0)",
        )
        return cls(tuple(tuple(pair) for pair in args))

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return list(self.points), {}

    def factor(self, p: float) -> float:
        for (p0, a), (p1, b) in zip(self.points, self.points[1:], strict=False):
            if p <= p1:
                u = (p - p0) / (p1 - p0)
                return a * (1.0 - u) + b * u
        raise AssertionError("p is at most 1, and so is the last point")


@final
@dataclass(frozen=True, slots=True)
class PlateauState:
    """What drop-on-plateau remembers: the factor now, the best figure so far, reports without a better one."""

    factor: float = 1.0
    best: float | None = None
    waited: int = 0


@final
@dataclass(frozen=True, slots=True)
class Plateau:
    """Drop-on-plateau: the factor times `gamma` after more than `patience` reports without a better figure.

    It follows the metric, not progress, so it is no `Schedule` and cannot be converted. A figure is better when it
    beats the best by the relative `threshold`. Semantics of torch's ReduceLROnPlateau without its cooldown.

    Args:
        gamma: factor of one drop, above 0 and below 1.
        patience: reports to wait, at least 0.
        threshold: relative improvement that counts, at least 0.
        mode: `max` for an accuracy, `min` for a loss.
    """

    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    mode: str = "max"
    name: ClassVar[str] = "plateau"

    def __post_init__(self) -> None:
        require(0 < self.gamma < 1, f"plateau: gamma is a factor between 0 and 1, and is {self.gamma}")
        require(
            0 <= self.patience < math.inf and self.patience == int(self.patience),
            f"plateau: patience is a whole number, and is {self.patience}",
        )
        require(0 <= self.threshold < 1, f"plateau: threshold is a share from 0 to below 1, and is {self.threshold}")
        require(self.mode in ("max", "min"), f"plateau: mode is max or min, and is '{self.mode}'")

    def report(self, state: PlateauState, figure: float) -> PlateauState:
        """The state after one more figure; NaN and infinity count as no improvement, also as the first."""
        if math.isfinite(figure) and (state.best is None or self._better(figure, state.best)):
            return PlateauState(state.factor, figure, 0)
        if state.waited + 1 > self.patience:
            return PlateauState(state.factor * self.gamma, state.best, 0)
        return PlateauState(state.factor, state.best, state.waited + 1)

    def _better(self, figure: float, best: float) -> bool:
        # The margin is a share of the size of the best figure, so that it also works below zero.
        margin = self.threshold * abs(best)
        return figure > best + margin if self.mode == "max" else figure < best - margin

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        """As `Schedule.arguments`."""
        return [], _changed_fields(self)

    def __str__(self) -> str:
        """Text that `budgeted.schedule` reads back as an equal rule."""
        return _text(self.name, *self.arguments())
