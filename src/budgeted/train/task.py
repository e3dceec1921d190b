"""What a task is: the few attributes that the loop asks of it. A user's own task has the same ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .data import Batch, TrainingData


@dataclass(frozen=True, slots=True)
class Data:
    """What a task trains on, and what its metric is taken on.

    Args:
        train, validation: the two sets.
        batches: in an epoch, where `train` is a part of a larger set whose epochs budgets count.
    """

    train: TrainingData
    validation: Any
    batches: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Updates in what a budget takes for an epoch."""
        return len(self.train) if self.batches is None else self.batches


class Task(ABC):
    """A model, its data, a recipe, a metric and a full budget.

    Subclass it, or write any class with these attributes; `budgeted train path/to/file.py:Name` trains it.
    """

    name: ClassVar[str]
    summary: ClassVar[str]  # one line for `budgeted tasks`
    full_budget: ClassVar[str]  # what 100 % is, for instance 200ep
    off_the_shelf: ClassVar[str] = "step-d2"  # the schedule that people use for it
    step_decay: ClassVar[str] = "step-d2"  # the step decay that it is compared with
    warmup: ClassVar[str | None] = None  # an absolute length, kept at every budget
    metric: ClassVar[str] = "accuracy"
    judged_by: ClassVar[str] = "best"  # evaluation in the tables of a study; or `final`, that of the final model
    also: ClassVar[tuple[str, ...]] = ()  # other metrics of the final model that have tables of their own
    maximize: ClassVar[bool] = True
    chance: ClassVar[float | None] = None  # the metric of a guess, which a model that cannot be trained stays near
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {}  # others than its own, by name

    @abstractmethod
    def data(self, root: Path | None, device: torch.device) -> Data:
        """The data, on the device where it fits there.

        Args:
            root: the folder with the data sets; None where none was given.

        Raises:
            TaskError: where the data is missing or damaged, with what to do.
        """

    @abstractmethod
    def model(self) -> nn.Module:
        """A freshly initialised model, on the CPU."""

    @abstractmethod
    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The recipe's optimizer at its base learning rate."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar training loss of a batch."""

    def settings(self) -> Mapping[str, Any]:
        """What was scaled or found for this machine, by name: kept with each run."""
        return {}

    def tokens(self, batch: Batch) -> float:
        """The tokens in a batch, for budgets that count them; left as it is, there are none."""
        return 0.0

    @abstractmethod
    def evaluate(self, model: nn.Module, data: Any) -> dict[str, float]:
        """The figures of a model in evaluation mode; the one named `metric` chooses the best checkpoint."""
