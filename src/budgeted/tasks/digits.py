"""Handwritten digits, 8x8, embedded in scikit-learn: the default task, trained in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from ..train.data import Images
from ..train.task import Data
from .classification import Classification, hold_out


class Digits(Classification):
    """1,437 images to train on and 360 to validate; a small convolutional network."""

    name: ClassVar[str] = "digits"
    summary: ClassVar[str] = "8x8 handwritten digits of scikit-learn, small conv net (embedded)"
    full_budget: ClassVar[str] = "100ep"
    batch_size: ClassVar[int] = 64

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
        def layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]

        return nn.Sequential(*layer(1, 16, 1), *layer(16, 32, 2), *layer(32, 64, 2), nn.Flatten(), nn.Linear(256, 10))
