"""Fashion-MNIST (Xiao et al. 2017): 28x28 greyscale clothes in ten classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..train.data import Crop, Images
from ..train.task import Data
from .classification import Augmented, hold_out
from .models import ResNet
from .random_models import random_resnet
from .sources import damaged, find


class FashionMNIST(Augmented):
    """55,000 of the 60,000 training images to train on, 5,000 to validate; the test set is left alone."""

    name: ClassVar[str] = "fashion-mnist"
    summary: ClassVar[str] = "28x28 clothes in ten classes, ResNet-8 of 16-32-64 filters on halved images"
    full_budget: ClassVar[str] = "20ep"
    batch_size: ClassVar[int] = 128
    shifts: ClassVar[Crop] = Crop(2, flip=True)
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "random-resnet": partial(random_resnet, 1, 10, 2, width=8)
    }

    def data(self, root: Path | None, device: torch.device) -> Data:
        images, labels = read(root)
        train, held = hold_out(images, labels, 5000)
        mean, std = (0.2860,), (0.3530,)
        return Data(
            Images(train[0].to(device), train[1].to(device), mean, std, self.batch_size, self.crop),
            Images(held[0].to(device), held[1].to(device), mean, std, self.batch_size),
        )

    def model(self) -> nn.Module:
        return ResNet(1, 10, (16, 32, 64), 1, stem_stride=2)


def read(root: Path | None) -> tuple[Tensor, Tensor]:
    """The training images, uint8 of shape (60000, 28, 28, 1), and their labels.

    Raises:
        TaskError: where a file is missing or damaged.
    """
    files = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    folder = find(root, "FashionMNIST/raw", files, _download, "Fashion-MNIST")
    images, labels = _idx(folder / files[0], (60000, 28, 28)), _idx(folder / files[1], (60000,))
    return images.unsqueeze(3), labels.long()


def _download(root: str) -> None:
    import torchvision

    torchvision.datasets.FashionMNIST(root, download=True)


def _idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """An IDX file: two zeros, the type 8 (uint8), the number of dimensions, the dimensions, the bytes."""
    content = path.read_bytes()
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    size = int(np.prod(shape))
    if not content.startswith(head) or len(content) != len(head) + size:
        raise damaged(path, f"it has {len(content)} bytes, and the original {len(head) + size}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, size, len(head)).reshape(shape).copy())
