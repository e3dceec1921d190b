"""Handwritten digits, 8x8, embedded in scikit-learn: the default task, trained in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from ..train.data import Images
from ..train.task import Data
from .classification import Classification, hold_out
from .random_models import random_resnet


def conv_net(width: int = 16) -> nn.Module:
    """Three convolutions with batch norm, of so many filters and two and four times as many, and a linear layer."""

    def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]

    layers = [*layer(1, width, 1), *layer(width, 2 * width, 2), *layer(2 * width, 4 * width, 2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, 10))


def mlp(width: int = 64) -> nn.Module:
    """One hidden layer of so many units."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(inplace=True), nn.Linear(width, 10))


class Digits(Classification):
    """1,437 images to train on and 360 to validate; a small convolutional network."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "8x8 handwritten digits of scikit-learn, small conv net (embedded)"
    full_budget: ClassVar[str] = "30ep"
    batch_size: ClassVar[int] = 64
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "conv-net": conv_net,
        "mlp": mlp,
        "random-resnet": partial(random_resnet, 1, 10, 1, width=4),
    }

    def data(self, root: Path | None, device: torch.device) -> Data:
        from sklearn.datasets import load_digits

        found = load_digits()
        pixels = torch.from_numpy(found.images / 16 * 255).round().to(torch.uint8).unsqueeze(3)
        train, held = hold_out(pixels, torch.from_numpy(found.target).long(), 360)
        mean, std = (0.305,), (0.376,)
        return Data(
            Images(train[0].to(device), train[1].to(device), mean, std, self.batch_size),
            Images(held[0].to(device), held[1].to(device), mean, std, self.batch_size),
        )

    def model(self) -> nn.Module:
        return conv_net()
