"""A plain PyTorch loop, up to its first update."""

import time

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
loader = DataLoader(TensorDataset(torch.randn(64, 64), torch.randint(10, (64,))), batch_size=64, shuffle=True)
for inputs, targets in loader:
    nn.functional.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    print("first update at", time.monotonic(), flush=True)
    optimizer.zero_grad()
