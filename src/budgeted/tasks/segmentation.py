"""Semantic segmentation: its loss, its metric from one confusion matrix, its test in overlapping tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .scenes import VOID


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
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
