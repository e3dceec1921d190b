"""The networks of the small image tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016); the shortcut is a 1x1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu_(y + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network for small images: a 3x3 stem without pooling, stages that halve the size, mean, linear.

    Args:
        channels: of the images.
        classes: of the labels.
        widths: filters of each stage.
        blocks: in each stage.
        stem_stride: 2 halves the images at once, for a quarter of the work.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int], blocks: int, stem_stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, widths[0], 3, stem_stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(Block(inputs, width, 2 if stage and not block else 1))
                inputs = width
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu_(self.bn(self.stem(x)))
        return self.head(self.layers(x).mean((2, 3)))  # type: ignore[no-any-return]


def resnet18(classes: int, width: int = 64) -> ResNet:
    """The paper's ResNet-18 for 32x32 images: 64-128-256-512 at width 64, two blocks a stage."""
    return ResNet(3, classes, (width, 2 * width, 4 * width, 8 * width), 2)
