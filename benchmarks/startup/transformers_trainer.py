"""The Trainer of transformers, up to its first update; with nothing to log, save or show."""

import tempfile
import time

import torch
from torch import nn
from transformers import Trainer, TrainingArguments


class Model(nn.Module):
    """The network, and its loss as the Trainer wants it."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.cross_entropy(self.network(inputs), labels)}


model = Model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
optimizer.register_step_post_hook(lambda *_: print("first update at", time.monotonic(), flush=True))
samples = zip(torch.randn(64, 64), torch.randint(10, (64,)), strict=True)
with tempfile.TemporaryDirectory() as out:
    arguments = TrainingArguments(
        out,
        num_train_epochs=1,
        per_device_train_batch_size=64,
        use_cpu=True,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
    )
    dataset = [{"inputs": inputs, "labels": label} for inputs, label in samples]
    Trainer(model, arguments, train_dataset=dataset, optimizers=(optimizer, None)).train()
