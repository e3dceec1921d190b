"""A loop with accelerate, up to its first update."""

import time

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

accelerator = Accelerator(cpu=True)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
loader = DataLoader(TensorDataset(torch.randn(64, 64), torch.randint(10, (64,))), batch_size=64, shuffle=True)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
for inputs, targets in loader:
    accelerator.backward(nn.functional.cross_entropy(model(inputs), targets))
    optimizer.step()
    print("first update at", time.monotonic(), flush=True)
    optimizer.zero_grad()
