"""The hyper-parameters that schedules turn in an optimizer's parameter groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from ..core.errors import ScheduleError
from ..core.schedule import Schedule


class Knobs:
    """The hyper-parameters of one optimizer that schedules turn, and their base values by group."""

    def __init__(self, optimizer: Optimizer, curves: Mapping[str, Schedule]) -> None:
        if getattr(optimizer, "_budgeted", False):
            raise ScheduleError("this optimizer is attached to a budget already; call close() on that run first")
        if any("initial_lr" in group for group in optimizer.param_groups):
            raise ScheduleError(
                "a torch scheduler drives this optimizer already; construct the optimizer anew, or pass the scheduler to budgeted.convert"
            )
        self.optimizer, self.curves = optimizer, dict(curves)
        self.bases = [self._read(group) for group in optimizer.param_groups]
        if not any(self.rates):
            raise ScheduleError(
                "the base learning rate must be positive, and is 0 in every parameter group; construct the optimizer anew "
                "if an ended budget left it there"
            )

    @property
    def bases(self) -> list[dict[str, float]]:
        return self._bases

    @bases.setter
    def bases(self, bases: list[dict[str, float]]) -> None:
        self._bases = bases
        self.rates = [base["lr"] for base in bases]
        self._places: dict[str, list[tuple[str, int | None]]] = {}  # by group, of each hyper-parameter that was turned

    def _read(self, group: Mapping[str, Any]) -> dict[str, float]:
        base = {"lr": float(group["lr"])}
        if not (math.isfinite(base["lr"]) and base["lr"] >= 0):  # 0 is a frozen group's
            raise ScheduleError(f"the base learning rate must be positive and finite, and is {base['lr']}")
        for name in self.curves:
            key, place = _place(group, name)
            base[name] = float(group[key] if place is None else group[key][place])
        return base

    def learn_new_groups(self) -> list[float]:
        """Parameter groups added since: their rate as they came is their base."""
        old = self.optimizer.param_groups[: len(self.bases)]
        new = self.optimizer.param_groups[len(self.bases) :]
        # A tensor that is the optimizer's default is one for all groups that have it, and stands decayed already.
        shared = {
            id(g["lr"]): rate for g, rate in zip(old, self.rates, strict=False) if isinstance(g["lr"], torch.Tensor)
        }
        self.bases = self.bases + [self._read(g) | {"lr": shared.get(id(g["lr"]), float(g["lr"]))} for g in new]
        return self.rates

    def turn(self, factor: float, progress: float) -> None:
        for group, base in zip(self.optimizer.param_groups, self.rates, strict=False):
            put(group, "lr", base * factor)
        self.turn_others(progress)

    def turn_others(self, progress: float) -> None:
        groups = self.optimizer.param_groups
        for name, curve in self.curves.items():
            factor = curve.factor(progress)
            if (places := self._places.get(name)) is None:
                places = self._places[name] = [_place(group, name) for group in groups]
            for group, base, (key, place) in zip(groups, self._bases, places, strict=False):
                value = base[name] * factor
                if place is not None:
                    betas = list(group[key])
                    betas[place] = value
                    group[key] = tuple(betas)
                else:
                    put(group, key, value)

    def claim(self) -> None:
        self.optimizer._budgeted = True  # type: ignore[attr-defined]

    def release(self) -> None:
        self.optimizer._budgeted = False  # type: ignore[attr-defined]


def _place(group: Mapping[str, Any], name: str) -> tuple[str, int | None]:
    """Where a group keeps a hyper-parameter: its key, and its index where that is the pair of betas."""
    if name == "momentum" and "momentum" not in group and "betas" in group:
        name = "beta1"
    if name in ("beta1", "beta2") and "betas" in group:
        return "betas", int(name[-1]) - 1
    if not isinstance(group.get(name), float | int | torch.Tensor):
        numbers = ", ".join(k for k, v in group.items() if isinstance(v, float | int) and not isinstance(v, bool))
        raise ScheduleError(f"the schedule drives '{name}', which this optimizer does not have; it has {numbers}")
    return name, None


def put(group: dict[str, Any], key: str, value: float) -> None:
    if isinstance(group[key], torch.Tensor):
        group[key].fill_(value)  # in place: a captured or compiled step holds this very tensor
    else:
        group[key] = value
