"""Optimizers by name: `sgd(momentum=0.9)`, `adamw(lr=1e-3, betas=0.9:0.95)`, `muon`, `schedule-free-adamw`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..core.errors import BudgetedError
from ..core.spec import read_call
from ..core.text import nearest
from .muon import Muon

_TORCHS: dict[str, type[Optimizer]] = {
    kind.__name__.lower(): kind
    for kind in vars(torch.optim).values()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and kind not in (Optimizer, torch.optim.LBFGS)
} | {"muon": Muon}  # in place of PyTorch's, which takes matrices alone
_SCHEDULE_FREE = {"schedule-free-sgd": "SGDScheduleFree", "schedule-free-adamw": "AdamWScheduleFree"}
# AMSGrad with the paper's hyper-parameters (Li et al., appendix C): a base rate of 0.001, and 0.9 and 0.99.
_AMSGRAD = {"lr": 1e-3, "betas": (0.9, 0.99), "amsgrad": True}
NAMES = (*sorted(_TORCHS), "amsgrad", *_SCHEDULE_FREE)


def named_optimizer(text: str, model: nn.Module) -> Optimizer:
    """The optimizer that a text names, over a model's parameters.

    PyTorch's have their class's name and arguments in lower case; pairs are written `0.9:0.99`, truths `true` or `false`.
    Where a fused implementation exists, it is used.

    Args:
        text: a name of `NAMES`, alone or with arguments.
        model: what is to be optimized.

    Raises:
        BudgetedError: for an unknown name or argument, with those that are known.

    >>> named_optimizer("sgd(momentum=0.9, lr=0.1)", nn.Linear(1, 1)).defaults["momentum"]
    0.9
    """
    where = f"optimizer '{text}'"
    name, positional, given = read_call(text.strip(), where, ("sgd", "adamw(lr=0.001)"))
    name = name.lower().replace("_", "-")
    arguments: dict[str, Any] = {key: {"true": True, "false": False}.get(str(v).lower(), v) for key, v in given.items()}
    kind, defaults = _kind(name, where)
    known = list(inspect.signature(kind).parameters)[1:]
    if positional or (strange := sorted(arguments.keys() - set(known))):
        what = (
            f"'{positional[0]}' has no name" if positional else f"it has no '{strange[0]}'{nearest(strange[0], known)}"
        )
        raise BudgetedError(f"{where}: {what}; its arguments are {', '.join(known)}, written name=value")
    if "fused" in known and not {"fused", "foreach", "differentiable"} & arguments.keys():
        defaults["fused"] = True
    try:
        return kind(model if kind is Muon else model.parameters(), **{**defaults, **arguments})
    except (TypeError, ValueError) as error:
        raise BudgetedError(f"{where}: {error}") from None


def _kind(name: str, where: str) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    if name == "amsgrad":
        return torch.optim.Adam, dict(_AMSGRAD)
    if name in _SCHEDULE_FREE:
        try:
            import schedulefree
        except ModuleNotFoundError:
            raise BudgetedError(
                f"{where} needs schedulefree, which is not installed: pip install schedulefree"
            ) from None

        return getattr(schedulefree, _SCHEDULE_FREE[name]), {}
    if name not in _TORCHS:
        raise BudgetedError(
            f"{where}: '{name}' is unknown{nearest(name, NAMES) or ';'} the names are {', '.join(NAMES)}"
        )
    return _TORCHS[name], {}
