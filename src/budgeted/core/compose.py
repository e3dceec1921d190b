"""Schedules made of schedules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, final

from .budget import Amount, Budget, Limit
from .errors import ScheduleError
from .schedule import Argument, Linear, Points, Schedule, require

_LOW = 0.05  # of the highest factor: what counts as decayed
_JUMP = 1e-4  # by which a shape may miss 1 at its start, as htd does


@final
@dataclass(frozen=True, slots=True)
class Warmup(Schedule):
    """A ramp up to where `inner` starts, then `inner` over the rest of the budget.

    The length is a share of the budget (`5%`), and then part of p, or absolute (`500 steps`, `30s`): a first phase
    with a limit of its own, the same at every budget (Li et al., section 4.2, COCO). p starts at 0 when an absolute
    warm-up ends, so the schedule as a function of p is `inner`, and `ramp` is asked while it lasts.

    Args:
        inner: the schedule after the warm-up.
        length: a `Limit`, such as `Amount(500, "steps")` or `Amount(5, "%")`.
        start: factor of `inner(0)` at the first update, 0 to 1.
        curve: the whole ramp as a schedule of its own, for conversions; replaces `start`.

    >>> schedule = Warmup(Linear(), Amount(10, "%"))
    >>> schedule(0.05), schedule(0.1), schedule(1.0)
    (0.5, 1.0, 0.0)
    """

    inner: Schedule
    length: Limit
    start: float = 0.0
    curve: Schedule | None = None
    name: ClassVar[str] = "warmup"

    def __post_init__(self) -> None:
        require(
            isinstance(self.length, Limit),
            f"warmup: the length is a limit such as 5% or 500 steps, and is {self.length!r}",
        )
        require(0 <= self.start <= 1, f"warmup: start is a factor from 0 to 1, and is {self.start}")
        require(
            self.share is None or 0 < self.share < 1,
            f"warmup: {self.length} of the budget leaves nothing to decay over",
        )
        require(
            self.absolute is None or isinstance(self.length, Amount),
            f"warmup: '{self.length}' is no length; write 500 steps, 30s or 5%",
        )
        _require_pure("warmup", self.inner)

    @property
    def share(self) -> float | None:
        """The length as a share of the budget, or None where it is absolute."""
        if isinstance(self.length, Amount) and self.length.unit == "%":
            return self.length.amount / 100
        return None

    @property
    def absolute(self) -> Limit | None:
        """The length as a limit, or None where it is a share."""
        return None if self.share is not None else self.length

    @property
    def drives(self) -> Mapping[str, Schedule]:
        """Those of `inner`, held at their start while the warm-up lasts."""
        if self.share is None:
            return self.inner.drives  # an absolute warm-up is over before p moves
        return {name: Join((_hold(curve), curve), (self.share,)) for name, curve in self.inner.drives.items()}

    def ramp(self, w: float) -> float:
        """The factor at share w of the warm-up, 0 to 1."""
        if self.curve is not None:
            return self.curve.factor(w)
        return (self.start * (1.0 - w) + w) * self.inner.factor(0.0)

    def factor(self, p: float) -> float:
        share = self.share
        if share is None:
            return self.inner.factor(p)
        return self.ramp(p / share) if p < share else self.inner.factor((p - share) / (1.0 - share))

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        require(len(args) == 2, "warmup: write a length and a schedule, for example warmup(500 steps, linear)")
        length, inner = args
        if isinstance(length, str):
            limits = Budget.parse(length).limits
            require(len(limits) == 1, f"warmup: '{length}' is more than one limit; give one")
            length = limits[0]
        require(
            isinstance(inner, Schedule),
            f"warmup: '{inner}' is not a schedule; write for example warmup(500 steps, linear)",
        )
        return cls(inner, length, **named)

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        named: dict[str, Argument] = {"start": self.start} if self.start else {}
        return [str(self.length), self.inner], named | ({"curve": self.curve} if self.curve else {})


def _hold(curve: Schedule) -> Schedule:
    start = curve.factor(0.0)
    return Points(((0.0, start), (1.0, start)))


def absolute_warmup(schedule: object) -> Warmup | None:
    """The warm-up of absolute length that a schedule begins with, or None."""
    if isinstance(schedule, Cooldown):
        return absolute_warmup(schedule.inner)
    return schedule if isinstance(schedule, Warmup) and schedule.absolute is not None else None


def _require_pure(name: str, *inner: object) -> None:
    for schedule in inner:
        require(isinstance(schedule, Schedule), f"{name}: '{schedule}' is not a schedule; see `budgeted schedule`")
        require(
            absolute_warmup(schedule) is None and not isinstance(schedule, Over),
            f"{name}: '{schedule}' is measured in absolute units and can only stand outermost",
        )


@final
@dataclass(frozen=True, slots=True)
class Join(Schedule):
    """Schedules one after another, each over its own part of the budget as if it were a whole one.

    >>> str(Join((Const(), Linear()), (0.8,))), Join((Const(), Linear()), (0.8,))(0.9)
    ('join(const, 0.8, linear)', 0.5)
    """

    schedules: tuple[Schedule, ...]
    boundaries: tuple[float, ...]
    name: ClassVar[str] = "join"

    def __post_init__(self) -> None:
        _require_pure("join", *self.schedules)
        for schedule in self.schedules:
            driven = ", ".join(schedule.drives)
            require(not driven, f"join: '{schedule}' drives {driven} too, which the others do not; drive it by with()")
        edges = (0.0, *self.boundaries, 1.0)
        require(
            len(self.schedules) == len(self.boundaries) + 1 and all(a < b for a, b in itertools.pairwise(edges)),
            f"join: between each two schedules stands one boundary, rising from 0 to 1, and they are {self.boundaries}",
        )

    def factor(self, p: float) -> float:
        part = sum(p >= b for b in self.boundaries)
        start, end = (0.0, *self.boundaries, 1.0)[part : part + 2]
        return self.schedules[part].factor((p - start) / (end - start))

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        require(
            not named and len(args) % 2 == 1,
            "join: write schedules with boundaries between, for example join(const, 0.8, linear)",
        )
        return cls(tuple(args[::2]), tuple(args[1::2]))

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        together: list[Argument] = [self.schedules[0]]
        for boundary, schedule in zip(self.boundaries, self.schedules[1:], strict=True):
            together += [boundary, schedule]
        return together, {}


@final
@dataclass(frozen=True, slots=True)
class Floor(Schedule):
    """f(p) = eta + (1 - eta) inner(p): the same curve, ending at eta where it ended at 0.

    >>> Floor(Linear(), 0.1)(1.0)
    0.1
    """

    inner: Schedule
    eta: float
    name: ClassVar[str] = "floor"

    def __post_init__(self) -> None:
        _require_pure("floor", self.inner)
        require(0 <= self.eta <= 1, f"floor: eta is the lowest factor, 0 to 1, and is {self.eta}")

    @property
    def drives(self) -> Mapping[str, Schedule]:
        return self.inner.drives

    def factor(self, p: float) -> float:
        return self.eta + (1.0 - self.eta) * self.inner.factor(p)

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return [self.inner, self.eta], {}


@final
@dataclass(frozen=True, slots=True)
class Cooldown(Schedule):
    """`inner` up to `start`, and from the factor that it has there down along `shape` over the rest.

    f(p) = inner(p) up to p = start, and inner(start) shape((p - start)/(1 - start)) beyond. It ends a run early that
    was not made to end there: a constant trunk can be cooled down at any moment (Hu et al. 2024; Haegele et al. 2024,
    whose 1 - sqrt is the shape `wsd(decay=1, shape=1-sqrt)`). What `inner` drives beside the rate goes its own way
    to p = 1. A warm-up of absolute length that `inner` begins with stays a first phase.

    Args:
        inner: the schedule up to `start`.
        start: the progress at which it is left, at least 0 and below 1.
        shape: a schedule that starts at 1; its whole curve is the way down.

    Raises:
        ScheduleError: for a shape that starts elsewhere than at 1, or an `inner` with a horizon of its own.

    >>> schedule = Cooldown(Floor(Linear(), 0.5), 0.5)
    >>> str(schedule), schedule(0.5), schedule(0.75), schedule(1.0)
    ('cooldown(floor(linear, 0.5), 0.5, linear)', 0.75, 0.375, 0.0)
    """

    inner: Schedule
    start: float
    shape: Schedule = field(default_factory=Linear)
    name: ClassVar[str] = "cooldown"

    def __post_init__(self) -> None:
        _require_pure("cooldown", self.shape, *([] if absolute_warmup(self.inner) else [self.inner]))
        require(
            0 <= self.start < 1,
            f"cooldown: start is the progress at which it begins, from 0 to below 1, and is {self.start}",
        )
        driven, first = ", ".join(self.shape.drives), self.shape.factor(0.0)
        require(not driven, f"cooldown: the shape '{self.shape}' drives {driven} too; a shape is one of the rate alone")
        require(
            abs(first - 1.0) <= _JUMP,
            f"cooldown: the shape '{self.shape}' starts at {first:.4g}, and the rate would jump there; give one that "
            "starts at 1, such as linear or cosine",
        )

    @property
    def drives(self) -> Mapping[str, Schedule]:
        return self.inner.drives

    def factor(self, p: float) -> float:
        if p <= self.start:
            return self.inner.factor(p)
        return self.inner.factor(self.start) * self.shape.factor((p - self.start) / (1.0 - self.start))

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return [self.inner, self.start, self.shape], {}


def ends_low(schedule: Schedule) -> bool:
    """Whether the rate at p = 1 is at most a twentieth of its highest over the curve, so that the end needs no cooldown.

    The highest is that of 1,001 points at even intervals. A schedule over a horizon of its own never ends low: where
    it stands when the budget ends is not its p = 1.

    >>> ends_low(Linear()), ends_low(Floor(Linear(), 0.1)), ends_low(Cooldown(Floor(Linear(), 0.1), 0.3))
    (True, False, True)
    """
    if isinstance(schedule, Over):
        return False
    return schedule.factor(1.0) <= _LOW * max(schedule.factor(k / 1000) for k in range(1001))


@final
@dataclass(frozen=True, slots=True)
class Repeat(Schedule):
    """The inner schedule so many times over the budget; at p = 1 it stands at its end, not at a new start.

    `sgdr-r1` is `repeat(cosine, 2)`: one restart, at the middle (Li et al., table 10).

    >>> Repeat(Linear(), 2)(0.5), Repeat(Linear(), 2)(1.0)
    (1.0, 0.0)
    """

    inner: Schedule
    times: int
    name: ClassVar[str] = "repeat"

    def __post_init__(self) -> None:
        _require_pure("repeat", self.inner)
        require(
            1 <= self.times < math.inf and self.times == int(self.times),
            f"repeat: times is a whole number from 1, and is {self.times}",
        )
        object.__setattr__(self, "times", int(self.times))

    @property
    def drives(self) -> Mapping[str, Schedule]:
        return {name: Repeat(curve, self.times) for name, curve in self.inner.drives.items()}

    def factor(self, p: float) -> float:
        through = p * self.times
        return self.inner.factor(1.0 if p == 1.0 else through - math.floor(through))

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return [self.inner, self.times], {}

    def __str__(self) -> str:
        return f"sgdr-r{self.times - 1}" if str(self.inner) == "cosine" and self.times > 1 else Schedule.__str__(self)


@final
@dataclass(frozen=True, slots=True)
class Over(Schedule):
    """A schedule driven by a horizon of its own instead of the budget: `exp.97 over 200ep`, the early-stopped form.

    As a function of p, p is the share of the horizon that is spent; past the horizon it holds inner(1).
    """

    inner: Schedule
    horizon: Limit
    name: ClassVar[str] = "over"

    def __post_init__(self) -> None:
        _require_pure("over", self.inner)
        allowed = isinstance(self.horizon, Amount) and self.horizon.unit != "%"
        require(allowed, f"over: '{self.horizon}' is no horizon; write an amount, for example exp.97 over 200ep")

    @property
    def drives(self) -> Mapping[str, Schedule]:
        return self.inner.drives

    def factor(self, p: float) -> float:
        return self.inner.factor(p)

    def __str__(self) -> str:
        return f"{self.inner} over {self.horizon}"

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        raise ScheduleError("over: write the schedule first, for example exp.97 over 200ep")


@final
@dataclass(frozen=True, slots=True)
class With(Schedule):
    """A schedule that drives other hyper-parameters too, each by a curve of its own over the same p.

    A curve is a factor of the hyper-parameter's own base value. `momentum` means beta1 for an optimizer that has
    betas; `beta1` and `beta2` name them; any other name is that of a number in the optimizer's parameter groups.

    >>> str(With(Linear(), (("weight_decay", Cosine()),)))
    'with(linear, weight_decay=cosine)'
    """

    inner: Schedule
    others: tuple[tuple[str, Schedule], ...]
    name: ClassVar[str] = "with"

    def __post_init__(self) -> None:
        require(bool(self.others), "with: name what is driven too, for example with(linear, weight_decay=cosine)")
        _require_pure("with", self.inner, *(curve for _, curve in self.others))
        require("lr" not in dict(self.others), "with: the rate is driven by the first schedule already")

    @property
    def drives(self) -> Mapping[str, Schedule]:
        return {**self.inner.drives, **dict(self.others)}

    def factor(self, p: float) -> float:
        return self.inner.factor(p)

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        require(
            len(args) == 1,
            "with: write one schedule and what is driven too, for example with(linear, weight_decay=cosine)",
        )
        return cls(args[0], tuple(named.items()))

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return [self.inner], dict(self.others)
