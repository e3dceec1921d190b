"""Weights averaged beside the raw ones: they stand about where a decay would lead, at every moment of the run.

Only the parameters are averaged. Buffers are those of the model as it is, so batch norm's statistics are of the raw
weights until they are taken anew (`with_fresh_statistics`).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, final

import torch
from torch import Tensor, nn

from ..core.errors import BudgetedError
from ..core.spec import read_call
from ..core.text import format_number, nearest

_SHARE = 0.02  # of the updates so far, that Ema looks back over unless said


class Averaged(ABC):
    """The averages of one model's weights, on the model's device, and in float32 at least."""

    def __init__(self, average: Ema | Lawa, model: nn.Module) -> None:
        self._average, self._model = average, model
        # A parameter that is tied comes once; one that is frozen may be thawed on the way.
        raw = {name: p for name, p in model.named_parameters() if p.is_floating_point() or p.is_complex()}
        self._names, self._raw = list(raw), list(raw.values())

    @abstractmethod
    def update(self, progress: float) -> None:
        """Take the weights as they are now into account; to be called after every update.

        Args:
            progress: progress through the budget, 0 to 1.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from to the same bits: the tensors themselves, text, numbers and lists."""

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _means(self) -> Sequence[Tensor]:
        """The averages in the order of the parameters; empty before the first."""

    def model(self) -> nn.Module:
        """A copy of the model that carries the averaged weights; before there are any, the model's own."""
        model = copy.deepcopy(self._model)
        if means := self._means():
            parameters = dict(model.named_parameters())
            with torch.no_grad():
                torch._foreach_copy_([parameters[name] for name in self._names], list(means))
        return model

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            BudgetedError: where it is of another average or of another model.
        """
        if state.get("average") != str(self._average):
            raise BudgetedError(
                f"the state is of average '{state.get('average')}', and this run has '{self._average}'; give it that one"
            )
        self._load(state)

    def _named(self, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._names, tensors, strict=True))

    def _fill(self, tensors: list[Tensor], saved: Mapping[str, Tensor]) -> list[Tensor]:
        """The tensors, once what was saved is copied into them: device, type and layout stay theirs."""
        shapes = {name: tensor.shape for name, tensor in self._named(tensors).items()}
        if shapes != {name: tensor.shape for name, tensor in saved.items()}:
            raise BudgetedError("the averaged weights are of another model than this one; start the run anew")
        torch._foreach_copy_(tensors, [saved[name] for name in self._names])
        return tensors


@final
@dataclass(frozen=True, slots=True)
class Ema:
    """Exponential moving average: after every update, average <- average + w (weights - average).

    With a fixed decay, w = 1 - decay. With a share s, w = 1/(1 + s t) after t earlier updates, so that decay is
    1 - 1/(1 + s t): the average looks back over a share of the updates so far, and needs to know no length. Update i
    of t then weighs in proportion to i^(1/s - 1), and the weights in the average are s/(1 + s) t updates old in the
    mean. That is the polynomial-decay averaging of Shamir & Zhang (2013) with eta = 1/s - 1, the power function of Karras
    et al. (2024) with gamma = 1/s - 1; s = 1 is the mean of all. Either way the first update sets the average to the
    weights, so that the initial ones have no part in it.

    Args:
        decay: a fixed decay, between 0 and 1.
        share: above 0 and at most 1; 0.02 where no decay is given either.

    >>> Ema().weight(0), Ema().weight(50), Ema(0.75).weight(1000)
    (1.0, 0.5, 0.25)
    """

    decay: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if self.decay is not None and self.share is not None:
            raise BudgetedError("ema: give a decay or a share of the updates so far, not both")
        if self.decay is None and self.share is None:
            object.__setattr__(self, "share", _SHARE)
        if self.decay is not None and not 0 < self.decay < 1:
            raise BudgetedError(f"ema: decay is between 0 and 1, and is {self.decay}")
        if self.share is not None and not 0 < self.share <= 1:
            raise BudgetedError(f"ema: share is of the updates so far, above 0 and at most 1, and is {self.share}")

    def weight(self, updates: int) -> float:
        """What the weights count for in the average after so many earlier updates."""
        if self.share is not None:
            return 1.0 / (1.0 + self.share * updates)
        assert self.decay is not None
        return 1.0 - self.decay if updates else 1.0

    def start(self, model: nn.Module) -> Averaged:
        """The averages of a model, from its next update on."""
        return _EmaAveraged(self, model)

    def __str__(self) -> str:
        """Text that `read_average` reads back as an equal average."""
        if self.decay is not None:
            return f"ema({format_number(self.decay)})"
        return "ema" if self.share == _SHARE else f"ema(share={format_number(self.share or 0.0)})"


@final
class _EmaAveraged(Averaged):
    _average: Ema

    def __init__(self, average: Ema, model: nn.Module) -> None:
        super().__init__(average, model)
        self._updates = 0
        self._averages = _precise(self._raw)

    @torch.no_grad()
    def update(self, progress: float) -> None:
        _lerp(self._averages, self._raw, self._average.weight(self._updates))
        self._updates += 1

    def _means(self) -> Sequence[Tensor]:
        return self._averages if self._updates else ()

    def state_dict(self) -> dict[str, Any]:
        return {"average": str(self._average), "updates": self._updates, "weights": self._named(self._averages)}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._fill(self._averages, state["weights"])
        self._updates = state["updates"]


@final
@dataclass(frozen=True, slots=True)
class Lawa:
    """Latest weight averaging: the mean of the last `count` snapshots, taken at even intervals of progress (Kaddour 2022).

    Snapshots are taken by the first updates that reach p = share, 2 share, ..., and lie on the model's device.

    Args:
        count: snapshots, a whole number from 1.
        share: of the budget between two of them, above 0 and at most 1.
    """

    count: int = 5
    share: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.count < 10**6 or self.count != int(self.count):
            raise BudgetedError(f"lawa: count is a whole number of snapshots from 1, and is {self.count}")
        if not 0 < self.share <= 1:
            raise BudgetedError(
                f"lawa: share is of the budget, between two snapshots, above 0 and at most 1, and is {self.share}"
            )
        object.__setattr__(self, "count", int(self.count))

    def start(self, model: nn.Module) -> Averaged:
        """The averages of a model, from its next update on."""
        return _LawaAveraged(self, model)

    def __str__(self) -> str:
        """Text that `read_average` reads back as an equal average."""
        return "lawa" if self == Lawa() else f"lawa({self.count}, {format_number(self.share)})"


@final
class _LawaAveraged(Averaged):
    _average: Lawa

    def __init__(self, average: Lawa, model: nn.Module) -> None:
        super().__init__(average, model)
        self._passed = 0  # intervals of progress
        self._snapshots: deque[list[Tensor]] = deque(maxlen=average.count)

    def update(self, progress: float) -> None:
        point = int(progress / self._average.share + 1e-9)
        if point > self._passed:
            self._passed = point
            self._snapshots.append([p.detach().clone() for p in self._raw])

    def _means(self) -> Sequence[Tensor]:
        if not self._snapshots:
            return ()
        oldest, *later = self._snapshots
        means = _precise(oldest)
        for count, snapshot in enumerate(later, start=2):
            _lerp(means, snapshot, 1.0 / count)
        return means

    def state_dict(self) -> dict[str, Any]:
        snapshots = [self._named(snapshot) for snapshot in self._snapshots]
        return {"average": str(self._average), "passed": self._passed, "snapshots": snapshots}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._snapshots.clear()
        for saved in state["snapshots"]:
            self._snapshots.append(self._fill([torch.empty_like(p, requires_grad=False) for p in self._raw], saved))
        self._passed = state["passed"]


def _precise(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Copies that are fit to be averaged: the small changes of the many updates are lost in half precision."""
    return [t.detach().to(torch.promote_types(t.dtype, torch.float32), copy=True) for t in tensors]


def _lerp(averages: list[Tensor], latest: Sequence[Tensor], weight: float) -> None:
    # Not `to` for each: on small models that costs more than the averaging.
    same = [t if t.dtype == a.dtype else t.to(a.dtype) for a, t in zip(averages, latest, strict=True)]
    torch._foreach_lerp_(averages, same, weight)


_KINDS: dict[str, type[Ema] | type[Lawa]] = {"ema": Ema, "lawa": Lawa}


def read_average(text: str) -> Ema | Lawa:
    """An average from its text: `ema`, `ema(0.999)`, `ema(share=0.02)`, `lawa`, `lawa(5, 0.05)`.

    Raises:
        BudgetedError: with what was given and what is known.

    >>> read_average("ema(0.999)"), read_average("lawa")
    (Ema(decay=0.999, share=None), Lawa(count=5, share=0.05))
    """
    where = f"average '{text}'"
    name, args, named = read_call(text.strip(), where, ("ema", "lawa(5, 0.05)"))
    kind = _KINDS.get(name.lower())
    if kind is None:
        raise BudgetedError(
            f"{where}: '{name}' is unknown{nearest(name, _KINDS) or ';'} the names are {', '.join(_KINDS)}"
        )
    try:
        return kind(*args, **named)
    except TypeError:
        known = ", ".join(field.name for field in fields(kind))
        raise BudgetedError(f"{where}: these are not the arguments of {name.lower()}; it has {known}") from None
    except BudgetedError as error:
        raise BudgetedError(f"{where}: {error}") from None
