"""Budget-aware conversion: any schedule written for T0 steps or epochs, f(t), becomes p -> f(p T0) (Li et al., section 3.2).

A function is called at real-valued t, so nothing is rounded. An object of a framework (a PyTorch LRScheduler, an
optax or Keras schedule) is sampled at t = 0, 1, ..., T0, and the samples are joined so that drops stay drops and
exponentials stay exponentials.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, final

from .budget import Amount
from .compose import Warmup, With
from .errors import ScheduleError
from .schedule import Argument, Plateau, Schedule, require


@final
@dataclass(frozen=True, slots=True)
class Converted(Schedule):
    """f(p) = function(start + p (end - start)) / base, for a function of time. It has no text that reads back."""

    function: Callable[[float], float]
    end: float
    start: float = 0.0
    base: float = 1.0
    name: ClassVar[str] = "converted"

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return [
            getattr(self.function, "__qualname__", type(self.function).__name__),
            self.start,
            self.end,
            self.base,
        ], {}

    def factor(self, p: float) -> float:
        return float(self.function(self.start + p * (self.end - self.start))) / self.base


@final
@dataclass(frozen=True, slots=True)
class Sampled(Schedule):
    """A schedule given by its factors at even intervals of p, from p = 0 to p = 1.

    Between two samples the curve is held where the values jump (a step decay, a restart), geometric where their
    ratio is steady (an exponential), and a straight line elsewhere. A jump happens at the later sample, exactly.

    >>> Sampled((1, 1, 0.1, 0.1))(0.66), Sampled((1, 1, 0.1, 0.1))(2 / 3)
    (1.0, 0.1)
    """

    values: tuple[float, ...]
    name: ClassVar[str] = "sampled"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(v) for v in self.values))
        require(len(self.values) >= 2, "sampled: at least two samples are needed, at p = 0 and p = 1")
        require(all(math.isfinite(v) for v in self.values), "sampled: every factor must be finite")

    @classmethod
    def from_arguments(cls, *args: Argument, **named: Argument) -> Schedule:
        return cls(tuple(args), **named)

    def arguments(self) -> tuple[list[Argument], dict[str, Argument]]:
        return list(self.values), {}

    def factor(self, p: float) -> float:
        v, intervals = self.values, len(self.values) - 1
        # k / intervals is how update k of T computes its p, so samples are met to the last bit.
        k = min(int(p * intervals), intervals - 1)
        k += (k + 1) / intervals <= p
        if k >= intervals or k / intervals == p:
            return v[k]
        a, b, u = v[k], v[k + 1], p * intervals - k
        if self._jumps(k):
            return a
        if self._geometric(k):
            return float(a * (b / a) ** u)
        return a * (1.0 - u) + b * u

    def _jumps(self, k: int) -> bool:
        """Whether the change over interval k is out of all proportion to the changes beside it."""
        v = self.values
        beside = [abs(v[i + 1] - v[i]) for i in (k - 1, k + 1) if 0 <= i < len(v) - 1]
        change = abs(v[k + 1] - v[k])
        return bool(beside) and change > 4.0 * max(beside) and change > 1e-12 * max(abs(v[k]), abs(v[k + 1]))

    def _geometric(self, k: int) -> bool:
        v = self.values
        if min(v[k], v[k + 1]) <= 0:
            return False
        ratio = v[k + 1] / v[k]
        beside = [v[i + 1] / v[i] for i in (k - 1, k + 1) if 0 <= i < len(v) - 1 and v[i] > 0]
        return bool(beside) and all(math.isclose(r, ratio, rel_tol=1e-9) for r in beside)


def convert(source: Any, horizon: float | None = None, *, base: float | None = None, warmup: int = 0) -> Schedule:
    """Make a schedule written for a fixed horizon budget-aware.

    Args:
        source: a function of time `f(t)`; a fresh `torch.optim.lr_scheduler` object, composed ones included; an
            optax or Keras schedule; or a sequence of rates at t = 0, 1, ..., T0.
        horizon: T0 in the source's own units, steps or epochs, positive. It may be left out where the source holds
            its own: CosineAnnealingLR, OneCycleLR, LinearLR, PolynomialLR, a sequence.
        base: the base rate, by which values are divided. It may be left out for a torch scheduler, which knows it,
            and where the values are factors already, the largest being 1.
        warmup: the first so many steps stay as many at every budget; the rest is what is converted.

    Raises:
        ScheduleError: for a plateau rule, which follows the loss; for an unknown or infinite horizon; for parameter
            groups on different curves; for rates without a base.

    >>> convert(lambda epoch: 0.99**epoch, 200)(0.5) == 0.99**100
    True
    """
    if isinstance(source, Plateau) or type(source).__name__ == "ReduceLROnPlateau":
        raise ScheduleError(
            "drop-on-plateau cannot be converted: it follows the loss, not time; use schedule='plateau' as it is"
        )
    if isinstance(source, Schedule):
        raise ScheduleError(f"'{source}' is a function of progress already and needs no conversion")
    end = _horizon(source, horizon)
    require(0 <= warmup < end, f"a warm-up of {warmup} steps leaves nothing of a horizon of {end}")
    others: list[tuple[str, list[float]]] = []
    if hasattr(source, "optimizer") and hasattr(source, "step"):  # SequentialLR and ChainedScheduler have no more
        values, others = _torch_curves(source, _whole(end), base)
    elif isinstance(source, Sequence):
        values = _factors(list(source), base)
    elif not callable(source):
        raise ScheduleError(
            f"cannot convert a {type(source).__name__}: give a function of time, or a torch, optax or Keras schedule"
        )
    else:
        values = _factors([source(t) for t in range(math.ceil(end))] + [source(end)], base)
        if isinstance(source(0), float | int):  # plain arithmetic: ask it at every p, exactly
            decay = Converted(source, end, warmup, base or 1.0)
            return _after(warmup, decay, Converted(source, warmup, 0.0, base or 1.0))
        _whole(end)
    schedule = _after(warmup, Sampled(tuple(values[warmup:])), Sampled(tuple(values[: warmup + 1])) if warmup else None)
    if not others:
        return schedule
    require(not warmup, "a schedule that drives the momentum too cannot be split into a warm-up and the rest")
    return With(schedule, tuple((name, Sampled(tuple(curve))) for name, curve in others))


def _after(warmup: int, decay: Schedule, ramp: Schedule | None) -> Schedule:
    return Warmup(decay, Amount(float(warmup), "steps"), curve=ramp) if warmup else decay


def _horizon(source: Any, given: float | None) -> float:
    if isinstance(source, Sequence):
        require(
            len(source) >= 2 and given in (None, len(source) - 1),
            f"{len(source)} rates span a horizon of {len(source) - 1}, not {given}",
        )
        return len(source) - 1
    if given is None:
        own = {
            "CosineAnnealingLR": "T_max",
            "LinearLR": "total_iters",
            "PolynomialLR": "total_iters",
            "OneCycleLR": "total_steps",
        }
        kind = type(source).__name__
        require(
            kind in own,
            f"the horizon of this {kind} is unknown; pass the steps or epochs it was written for, as in convert(source, 200)",
        )
        # torch's one-cycle ends at its last update, total_steps - 1, and not after it.
        given = getattr(source, own[kind]) - (kind == "OneCycleLR")
    require(0 < given < math.inf, f"a horizon must be positive and finite, and is {given}")
    return given


def _whole(horizon: float) -> int:
    require(
        horizon == int(horizon), f"a schedule that is sampled at whole steps needs a whole horizon, and it is {horizon}"
    )
    return int(horizon)


def _factors(rates: Sequence[Any], base: float | None) -> list[float]:
    values = [float(rate) for rate in rates]
    require(all(math.isfinite(v) for v in values), "the schedule is not finite over its whole horizon")
    if base is not None:
        require(0 < base < math.inf, f"the base rate must be positive and finite, and is {base}")
        return [v / base for v in values]
    largest = max(values)
    require(
        math.isclose(largest, 1.0, rel_tol=1e-6),
        f"its largest value is {largest:.6g}, so these are rates, not factors of a base rate; "
        f"pass base={largest:.6g} and give the optimizer that rate",
    )
    return values


def _torch_curves(
    scheduler: Any, horizon: int, base: float | None
) -> tuple[list[float], list[tuple[str, list[float]]]]:
    """Factors of the rate, and of the momentum where it moves, by stepping a copy that drives a copy of the groups."""
    # A ChainedScheduler does not count; those in it do.
    taken = max(getattr(each, "last_epoch", 0) for each in (scheduler, *getattr(scheduler, "_schedulers", ())))
    require(taken == 0, f"the scheduler has taken {taken} steps already; convert a fresh one")
    groups = [{k: v for k, v in group.items() if k != "params"} for group in scheduler.optimizer.param_groups]
    stand_in = SimpleNamespace(
        param_groups=copy.deepcopy(groups), defaults=scheduler.optimizer.defaults, step=lambda: None
    )
    clone = copy.deepcopy(scheduler, {id(scheduler.optimizer): stand_in})
    rows = [_figures(stand_in.param_groups)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "lr_scheduler.step() before optimizer.step()": there is no optimizer here
        for _ in range(horizon):
            try:
                clone.step()
            except Exception as error:
                raise ScheduleError(
                    f"this {type(scheduler).__name__} cannot be stepped {horizon} times: {error}"
                ) from error
            rows.append(_figures(stand_in.param_groups))
    # The cyclic schedulers' base is the top of the cycle; their initial_lr is its bottom.
    bases = [group.get("max_lr", group["initial_lr"]) if base is None else base for group in groups]
    curves = [[rates[g] / bases[g] for rates, _ in rows] for g in range(len(groups))]
    same = all(
        math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15)
        for curve in curves
        for a, b in zip(curves[0], curve, strict=True)
    )
    require(same, "its parameter groups follow different curves; convert one scheduler a group")
    momenta = [momentum for _, momentum in rows]
    if momenta[0] is None or len(set(momenta)) == 1:
        return curves[0], []
    top = groups[0].get("max_momentum", momenta[0])
    return curves[0], [("momentum", [m / top for m in momenta])]


def _figures(groups: list[dict[str, Any]]) -> tuple[list[float], float | None]:
    first = groups[0]
    momentum = first.get("momentum", first["betas"][0] if "betas" in first else None)
    return [float(group["lr"]) for group in groups], momentum
