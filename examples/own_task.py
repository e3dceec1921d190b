"""A task of one's own: budgeted train examples/own_task.py:BreastCancer --budget 20s."""

import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

from budgeted.train.data import Batch
from budgeted.train.task import Data, Task


class Rows:
    """Inputs and targets in memory, drawn in an order that depends on (seed, epoch) alone."""

    def __init__(self, inputs, targets, batch_size=32):
        self.inputs, self.targets, self.batch_size = inputs, targets, batch_size

    def __len__(self):
        return -(-len(self.targets) // self.batch_size)  # batches in an epoch

    def epoch(self, seed, epoch, first=0):
        order = torch.randperm(len(self.targets), generator=torch.Generator().manual_seed(1_000_003 * seed + epoch + 1))
        for index in order.split(self.batch_size)[first:]:
            yield Batch(self.inputs[index], self.targets[index])


class BreastCancer(Task):
    """Benign or malignant, from thirty measurements."""

    name = "breast-cancer"
    summary = "thirty measurements, two classes, a small MLP"
    full_budget = "30ep"
    metric, maximize = "accuracy", True

    def data(self, root, device):
        found = load_breast_cancer()
        inputs = torch.tensor(found.data, dtype=torch.float32, device=device)
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        targets = torch.tensor(found.target, device=device)
        held = torch.arange(len(targets), device=device) % 5 == 0
        return Data(train=Rows(inputs[~held], targets[~held]), validation=(inputs[held], targets[held]))

    def model(self):
        return nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))

    def optimizer(self, model):
        return torch.optim.AdamW(model.parameters(), lr=3e-3)

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

    def evaluate(self, model, data):
        inputs, targets = data
        return {"accuracy": (model(inputs).argmax(1) == targets).float().mean().item()}
