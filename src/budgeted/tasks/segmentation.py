"""Semantic segmentation: its loss, its test in overlapping tiles, its metric from one confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import TaskError
from ..train.data import Batch
from ..train.stream import Stream
from ..train.task import Task
from .scenes import VOID

_AUXILIARY = 0.4  # the weight of the auxiliary head's loss (Zhao et al. 2017)


class Segmentation(Task):
    """A task whose metric is the mean intersection over union of its classes, for networks such as PSPNet."""

    metric: ClassVar[str] = "miou"
    classes: ClassVar[int]
    crop: int
    batch_size: int

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the pixels that are not void, and 0.4 times that of the auxiliary head, where there is one."""
        logits = model(batch.inputs)
        if isinstance(logits, tuple):
            main, auxiliary = logits
            return _cross_entropy(main, batch.targets) + _AUXILIARY * _cross_entropy(auxiliary, batch.targets)
        return _cross_entropy(logits, batch.targets)

    def evaluate(self, model: nn.Module, data: Stream) -> dict[str, float]:
        """Mean intersection over union, and the share of pixels that are right, over all images."""
        matrix = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=data.device)
        for inputs, targets in data.in_order(1):
            matrix += confusion(tiled(model, inputs, self.crop, self.batch_size).argmax(1), targets, self.classes)
        if not matrix.any():
            raise TaskError(f"the validation images of {self.name} have no pixel with a class, only void")
        iou = intersection_over_union(matrix)
        return {
            "miou": iou[~iou.isnan()].mean().item(),
            "pixel_accuracy": (matrix.trace() / matrix.sum()).item(),
        }


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """A mean over pixels; 0, and no gradient, where all are void."""
    total = nn.functional.cross_entropy(logits.float(), targets, ignore_index=VOID, reduction="sum")
    return total / (targets != VOID).sum().clamp(min=1)


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Pixels by their class and by what was predicted for them: int64 (classes, classes); void ones are left out.

    Args:
        predicted: classes, int64, any shape.
        targets: classes or VOID, int64, the same shape.
        classes: how many there are.

    >>> confusion(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]), 2)
    tensor([[1, 1],
            [0, 0]])
    """
    judged = targets != VOID
    places = targets[judged] * classes + predicted[judged]
    return torch.bincount(places, minlength=classes * classes).reshape(classes, classes)


def intersection_over_union(matrix: Tensor) -> Tensor:
    """Of each class, (classes,): right pixels over those that are of it, or were taken for it; nan where there are none."""
    right = matrix.diagonal()
    return right / (matrix.sum(0) + matrix.sum(1) - right)


def tiled(model: nn.Module, images: Tensor, crop: int, at_once: int) -> Tensor:
    """Probabilities (N, classes, H, W): the mean of those in square tiles, as large as in training, a third of which overlaps.

    Tiles are spread as in the reference implementation (hszhao/semseg): two thirds of their side apart, the last one at the
    edge. Images smaller than a tile are padded with zeros, the mean of normalised images.

    Args:
        model: in evaluation mode.
        images: normalised, (N, 3, H, W).
        crop: the tiles' side in pixels.
        at_once: tiles of a forward pass.
    """
    height, width = images.shape[2:]
    top, left = max(0, crop - height) // 2, max(0, crop - width) // 2
    bottom, right = max(0, crop - height) - top, max(0, crop - width) - left
    padded = nn.functional.pad(images, (left, right, top, bottom))
    places = [(y, x) for y in starts(padded.shape[2], crop) for x in starts(padded.shape[3], crop)]
    tiles = torch.cat([padded[:, :, y : y + crop, x : x + crop] for y, x in places])
    total: Tensor | None = None
    counts = padded.new_zeros(1, 1, *padded.shape[2:])
    for (y, x), found in zip(places, _probabilities(model, tiles, at_once, len(images)), strict=True):
        if total is None:
            total = found.new_zeros(len(images), found.shape[1], *padded.shape[2:])
        total[:, :, y : y + crop, x : x + crop] += found
        counts[:, :, y : y + crop, x : x + crop] += 1
    assert total is not None
    return (total / counts)[:, :, top : top + height, left : left + width]


def _probabilities(model: nn.Module, tiles: Tensor, at_once: int, images: int) -> Iterator[Tensor]:
    """Of each place, those of all images."""
    found = torch.cat([model(part).float().softmax(1) for part in tiles.split(at_once)])
    yield from found.split(images)


def starts(length: int, crop: int) -> list[int]:
    """Where tiles begin on a side of so many pixels, at least a tile's.

    >>> starts(2048, 713)
    [0, 476, 952, 1335]
    """
    step = math.ceil(crop * 2 / 3)
    count = math.ceil((length - crop) / step) + 1
    return [min(place * step, length - crop) for place in range(count)]
