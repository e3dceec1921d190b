"""CIFAR-10 with ResNet-18: the paper's main experiment (Li et al., section 4.1)."""

from __future__ import annotations

import hashlib
import pickle
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
from .models import resnet18
from .random_models import random_resnet
from .sources import damaged, find

# The files are pickles: what they hold is known by their MD5 before one is opened.
_FILES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
}


class Cifar10(Augmented):
    """45,000 images to train on and 5,000 held out at random; the test set is left alone."""

    name: ClassVar[str] = "cifar10"
    summary: ClassVar[str] = "32x32 photographs in ten classes, ResNet-18 (the paper's)"
    full_budget: ClassVar[str] = "200ep"
    batch_size: ClassVar[int] = 128
    shifts: ClassVar[Crop] = Crop(4, flip=True)
    width: ClassVar[int] = 64
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "resnet18": partial(resnet18, 10),
        "random-resnet": partial(random_resnet, 3, 10, 1),
    }

    def data(self, root: Path | None, device: torch.device) -> Data:
        images, labels = read(root)
        train, held = hold_out(images, labels, 5000)
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        return Data(
            Images(train[0].to(device), train[1].to(device), mean, std, self.batch_size, self.crop),
            Images(held[0].to(device), held[1].to(device), mean, std, self.batch_size),
        )

    def model(self) -> nn.Module:
        return resnet18(10, self.width)


class Cifar10Narrow(Cifar10):
    """The same with a quarter of the filters: for CPUs."""

    name: ClassVar[str] = "cifar10-narrow"
    summary: ClassVar[str] = "32x32 photographs in ten classes, ResNet-18 of 16-32-64-128 filters (for CPUs)"
    width: ClassVar[int] = 16
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        **Cifar10.models,
        "random-resnet": partial(random_resnet, 3, 10, 1, width=16),
    }
    full_budget: ClassVar[str] = "20ep"  # hours on a CPU, where 200 would take days


def read(root: Path | None) -> tuple[Tensor, Tensor]:
    """The training images, uint8 of shape (50000, 32, 32, 3), and their labels.

    Raises:
        TaskError: where a file is missing or is not the original.
    """
    folder = find(root, "cifar-10-batches-py", list(_FILES), _download, "CIFAR-10")
    images, labels = [], []
    for name, digest in _FILES.items():
        path = folder / name
        content = path.read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise damaged(path, "its MD5 is not the original's")
        batch = pickle.loads(content, encoding="bytes")
        images.append(np.asarray(batch[b"data"]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels += batch[b"labels"]
    return torch.from_numpy(np.ascontiguousarray(np.concatenate(images))), torch.tensor(labels)


def _download(root: str) -> None:
    import torchvision

    torchvision.datasets.CIFAR10(root, download=True)
