"""A task with parts of its recipe replaced, as a run's spec says: its model, optimizer, base rate, or data by a part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from ..core.errors import TaskError
from ..core.loading import load_object
from ..core.record import Spec
from ..core.spec import read_call
from ..core.text import nearest
from .optimizers import named_optimizer
from .task import Data, Task


def varied(task: Task, spec: Spec) -> Task:
    """The task as the spec wants it; the task itself where the spec leaves its recipe alone.

    Raises:
        BudgetedError: for a model or an optimizer that is unknown, when it is asked for.
    """
    if (spec.model, spec.optimizer, spec.lr, spec.subset) == (None, None, None, None):
        return task
    return cast(Task, _Varied(task, spec))


class _Varied:
    """Passes on whatever the spec does not replace."""

    def __init__(self, task: Task, spec: Spec) -> None:
        self._task, self._spec = task, spec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self) -> nn.Module:
        return self._task.model() if self._spec.model is None else named_model(self._spec.model, self._task)

    def optimizer(self, model: nn.Module) -> Optimizer:
        named, lr = self._spec.optimizer, self._spec.lr
        optimizer = self._task.optimizer(model) if named is None else named_optimizer(named, model)
        if lr is not None:
            _set_base(optimizer, lr)
        return optimizer

    def data(self, root: Path | None, device: torch.device) -> Data:
        data, share = self._task.data(root, device), self._spec.subset
        if share is None:
            return data
        if not hasattr(data.train, "subset"):
            raise TaskError(
                f"a subset of the training data is wanted, and that of task '{self._spec.task}' has no subset(share, seed)"
            )
        # An epoch stays one of the whole data: a budget buys as many updates on the part as on the whole.
        return Data(data.train.subset(share, self._spec.seed), data.validation, len(data.train))


def _set_base(optimizer: Optimizer, lr: float) -> None:
    """Give the first group this rate, and the others theirs in the proportion that they had to it."""
    first = float(optimizer.param_groups[0]["lr"])
    for group in optimizer.param_groups:
        group["lr"] = lr * (float(group["lr"]) / first if first else 1.0)


def named_model(text: str, task: Task) -> nn.Module:
    """A model of one of a task's `models`, such as `resnet18(width=16)`, or the user's own as `file.py:Name`.

    Raises:
        TaskError: for an unknown name or argument, with those that are known.
    """
    if ":" in text.partition("(")[0]:
        factory: Callable[..., Any] = load_object(text)
        if isinstance(factory, nn.Module):  # it would go on from where the run before left it
            raise TaskError(f"model '{text}' is an object; name a class or a function that makes one anew")
        model = factory()
    else:
        models: Mapping[str, Callable[..., nn.Module]] = getattr(task, "models", {})
        name, positional, named = read_call(text.strip(), f"model '{text}'", ("resnet18", "resnet18(width=16)"))
        if name not in models:
            known = (
                f"the models of {task.name} are {', '.join(models)}" if models else f"{task.name} has one model alone"
            )
            raise TaskError(
                f"model '{text}' is unknown{nearest(name, models) or ';'} {known}; or name your own as file.py:Name"
            )
        try:
            model = models[name](*map(whole, positional), **{key: whole(value) for key, value in named.items()})
        except TypeError as error:
            raise TaskError(f"model '{text}': {error}") from None
    if not isinstance(model, nn.Module):
        raise TaskError(f"model '{text}' is a {type(model).__name__}, and no torch.nn.Module")
    return model


def whole(value: Any) -> Any:
    """A number that is whole as such: it was read as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
