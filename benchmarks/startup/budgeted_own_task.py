"""The network of the other scripts as a task of one's own for `budgeted train`; it says when an update was made."""

import time

import torch
from torch import nn

from budgeted.train.data import Batch
from budgeted.train.task import Data, Task


class OneBatch:
    """An epoch of one batch, in memory."""

    def __init__(self):
        self.batch = Batch(torch.randn(64, 64), torch.randint(10, (64,)))

    def __len__(self):
        return 1

    def epoch(self, seed, epoch, first=0):
        yield self.batch


class Own(Task):
    """No more than a task needs."""

    name, summary, full_budget = "mlp", "an MLP on a batch in memory", "30ep"

    def data(self, root, device):
        train = OneBatch()
        return Data(train, train.batch)

    def model(self):
        return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def optimizer(self, model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        optimizer.register_step_post_hook(lambda *_: print("first update at", time.monotonic(), flush=True))
        return optimizer

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

    def evaluate(self, model, data):
        return {"accuracy": (model(data.inputs).argmax(1) == data.targets).float().mean().item()}
