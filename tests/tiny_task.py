"""A user's own task, in a file of their own: two linear layers on random blobs. It trains in milliseconds."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch
from torch import nn

from budgeted.train.data import Batch
from budgeted.train.stream import Stream, Unreadable
from budgeted.train.task import Data


@dataclass
class Blobs:
    """Points around three centres, in ten batches of eight."""

    samples = 80
    batch_size = 8

    def __post_init__(self):
        random = torch.Generator().manual_seed(7)
        centres = torch.randn(3, 4, generator=random)
        self.targets = torch.randint(0, 3, (self.samples,), generator=random)
        self.inputs = centres[self.targets] + 0.5 * torch.randn(self.samples, 4, generator=random)

    def __len__(self):
        return self.samples // self.batch_size

    def epoch(self, seed, epoch, first=0):
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(1000 * seed + epoch + 1))
        for index in order.split(self.batch_size)[first:]:
            yield Batch(self.inputs[index], self.targets[index])


class Tiny:
    """Nothing but what a task needs: no base class, no name, no summary."""

    full_budget = "20ep"
    metric = "accuracy"
    maximize = True
    slow = float(os.environ.get("TINY_SECONDS", "0"))  # that an update takes longer

    def data(self, root, device):
        return Data(Blobs(), Blobs())

    def model(self):
        # Dropout: the random state has to survive a resume.
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    def optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def loss(self, model, batch):
        time.sleep(self.slow)
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

    def evaluate(self, model, data):
        logits = model(data.inputs)
        return {
            "accuracy": (logits.argmax(1) == data.targets).float().mean().item(),
            "validation_loss": nn.functional.cross_entropy(logits, data.targets).item(),
        }


class Downhill(Tiny):
    """Judged by its loss: less is better."""

    metric = "validation_loss"
    maximize = False


class Explodes(Tiny):
    """The loss is NaN at update 25."""

    def __init__(self):
        self.updates = 0

    def loss(self, model, batch):
        if model.training and torch.is_grad_enabled():
            self.updates += 1
        return super().loss(model, batch) * (float("nan") if self.updates == 25 else 1.0)


class Wider(Tiny):
    """Another model under the same name of a run."""

    def model(self):
        return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))


class Plain(Tiny):
    """Without dropout and batch norm, so that it does not matter how a batch is split over processes."""

    def model(self):
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


class Read:
    """The points read one by one as from files, one of them damaged; each rank notes in a file of its own what it read."""

    damaged = 13

    def __init__(self):
        self.points = Blobs()

    def __len__(self):
        return self.points.samples

    def read(self, index, random):
        if index == self.damaged:
            raise Unreadable(f"'{index}.jpg': truncated")
        with open(f"read-{os.environ.get('RANK', '0')}.txt", "a", encoding="utf-8") as file:
            file.write(f"{index}\n")
        return self.points.inputs[index], self.points.targets[index]


def join(samples, device):
    return Batch(*map(torch.stack, zip(*samples, strict=True)))


class FromFiles(Plain):
    """Trains on points that are read from files."""

    def data(self, root, device):
        source = Read()
        return Data(Stream(source, 8, join, device), Blobs())


class Incomplete:
    full_budget = "1ep"
    metric = "accuracy"
    maximize = True


class Demanding(Tiny):
    def __init__(self, size):
        self.size = size


READY = Tiny()
