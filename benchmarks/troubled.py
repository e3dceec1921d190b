"""A task that runs into trouble on purpose, for `stress.py`: its updates sleep, and so does what is to go wrong.

The model is two linear layers on random blobs, so that several runs go side by side on one core. What goes wrong, and
when, is read from the environment; without it nothing does.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from budgeted.train.data import Batch
from budgeted.train.task import Data

VARIABLE = "BUDGETED_TROUBLE"
SLOWER = 3.0  # times as long as else take the updates of a slow-down

Span = Sequence[float]  # from and to


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in one run. Moments and lengths are shares of the budget, from the start of the process."""

    update: float = 0.02  # seconds of an undisturbed update
    start: float = 0.0  # length of the loading of data
    stalls: Sequence[Span] = ()  # when training stands still
    in_data: bool = False  # whether it does so while a batch is made, or inside an update
    slow: Span = (0.0, 0.0)  # when updates take three times as long
    evaluations: Sequence[float] = (0.0,)  # lengths of the evaluations, over and over
    save: float = 0.0  # length of every torch.save
    sync: float = 0.0  # length of every fsync
    batch_norm: bool = False  # whether there are statistics to refresh, and with them another evaluation at the end

    def standstill(self, now: float) -> float:
        """How long it goes on to stand still."""
        return max((end - now for begin, end in self.stalls if begin <= now < end), default=0.0)

    def update_seconds(self, now: float) -> float:
        """What an update takes that begins now."""
        return self.update * (SLOWER if self.slow[0] <= now < self.slow[1] else 1.0)


class Blobs:
    """Points around three centres, in ten batches of eight."""

    samples, batch_size = 80, 8

    def __init__(self, before: Callable[[], None] | None = None) -> None:
        random = torch.Generator().manual_seed(7)
        self.targets = torch.randint(0, 3, (self.samples,), generator=random)
        self.inputs = torch.randn(3, 4, generator=random)[self.targets]
        self.inputs += 0.5 * torch.randn(self.samples, 4, generator=random)
        self.before = before

    def __len__(self) -> int:
        return self.samples // self.batch_size

    def epoch(self, seed: int, epoch: int, first: int = 0):
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(1000 * seed + epoch + 1))
        for index in order.split(self.batch_size)[first:]:
            if self.before is not None:
                self.before()
            yield Batch(self.inputs[index], self.targets[index])


class Troubled:
    """The task: `budgeted train benchmarks/troubled.py:Troubled`."""

    full_budget = "20ep"
    metric = "accuracy"
    maximize = True

    def __init__(self) -> None:
        given = json.loads(os.environ.get(VARIABLE, '{"trouble": {}, "began": 0, "seconds": 1}'))
        self.trouble = Trouble(**given["trouble"])
        self.began, self.seconds = given["began"], given["seconds"]  # on the monotonic clock, and of the budget
        self.evaluations = itertools.cycle(self.trouble.evaluations)
        torch.save = self.after_sleep(torch.save, self.trouble.save)
        os.fsync = self.after_sleep(os.fsync, self.trouble.sync)

    def after_sleep(self, call: Callable[..., Any], share: float) -> Callable[..., Any]:
        def slowly(*args: Any, **options: Any) -> Any:
            time.sleep(share * self.seconds)
            return call(*args, **options)

        return slowly

    def now(self) -> float:
        return (time.monotonic() - self.began) / self.seconds

    def stand_still(self) -> None:
        time.sleep(self.trouble.standstill(self.now()) * self.seconds)

    def data(self, root: object, device: torch.device) -> Data:
        time.sleep(self.trouble.start * self.seconds)
        return Data(Blobs(self.stand_still if self.trouble.in_data else None), Blobs())

    def model(self) -> nn.Module:
        norm = nn.BatchNorm1d(8) if self.trouble.batch_norm else nn.Identity()
        return nn.Sequential(nn.Linear(4, 8), norm, nn.ReLU(), nn.Linear(8, 3))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        time.sleep(self.trouble.update_seconds(self.now()))
        if not self.trouble.in_data:
            self.stand_still()
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

    def evaluate(self, model: nn.Module, data: Blobs) -> dict[str, float]:
        time.sleep(next(self.evaluations) * self.seconds)
        logits = model(data.inputs)
        return {
            "accuracy": (logits.argmax(1) == data.targets).float().mean().item(),
            "validation_loss": nn.functional.cross_entropy(logits, data.targets).item(),
        }
