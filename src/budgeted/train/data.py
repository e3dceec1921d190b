"""Data that lives in device memory, drawn and augmented in whole batches.

Order and augmentation of an epoch are a pure function of (seed, epoch), so a resumed run meets the very batches
that an uninterrupted one would have met, and needs nothing but its count of updates for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Inputs and targets of one update, on the device: tensors, or lists of what each sample has where sizes differ."""

    inputs: Any
    targets: Any


class TrainingData(Protocol):
    """What the loop asks of training data."""

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch in the order that (seed, epoch) gives, from the `first` on."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Random crops of the original size from images padded by `padding` zeros, and random mirroring."""

    padding: int
    flip: bool


@dataclass(frozen=True, slots=True)
class Images:
    """Images and labels in device memory.

    Args:
        images: uint8, shape (N, H, W, C).
        labels: int64, shape (N,).
        mean, std: of each channel, on the scale of 0 to 1.
        batch_size: samples of one update.
        crop: augmentation, or None.
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch_size: int
    crop: Crop | None = None

    def __post_init__(self) -> None:
        if self.crop is not None:
            p = self.crop.padding
            object.__setattr__(self, "images", torch.nn.functional.pad(self.images, (0, 0, p, p, p, p)))

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    @property
    def samples(self) -> int:
        return len(self.labels)

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The shuffled, augmented batches of an epoch."""
        # On the CPU whatever the device: the same order everywhere.
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)
        device, count = self.images.device, self.samples
        order = torch.randperm(count, generator=random).to(device)
        if self.crop is None:
            for start in range(first * self.batch_size, count, self.batch_size):
                index = order[start : start + self.batch_size]
                yield Batch(self._normalized(self.images[index]), self.labels[index])
            return
        shifts = torch.randint(0, 2 * self.crop.padding + 1, (2, count), generator=random).to(device)
        flips = (torch.rand(count, generator=random) < 0.5 * self.crop.flip).to(device)
        windows = self._windows(self.crop.padding)
        for start in range(first * self.batch_size, count, self.batch_size):
            part = slice(start, start + self.batch_size)
            index, mirrored = order[part], flips[part]
            images = windows[index, shifts[0, part], shifts[1, part]]
            if self.crop.flip:
                images[mirrored] = images[mirrored].flip(2)
            yield Batch(self._normalized(images), self.labels[index])

    def subset(self, share: float, seed: int) -> Images:
        """A random part of the images, the same one for the same share and seed; at least one.

        Args:
            share: of the images, above 0 and at most 1.
            seed: of the draw.
        """
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 - 2)  # that of no epoch: -1 is for refreshing
        chosen = torch.randperm(self.samples, generator=random)[: max(1, round(share * self.samples))]
        chosen = chosen.to(self.images.device)
        p = self.crop.padding if self.crop is not None else 0
        images = self.images[chosen]
        images = images[:, p : images.shape[1] - p, p : images.shape[2] - p]  # padded anew
        return replace(self, images=images.contiguous(), labels=self.labels[chosen])

    def in_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        """The images as they are, for evaluation; left out, in batches that are quick on their device."""
        # What a network makes of more images than that leaves a processor's caches.
        size = batch_size or (128 if self.images.device.type == "cpu" else 1000)
        for start in range(0, self.samples, size):
            yield self._plain(slice(start, start + size))

    def unaugmented(self, share: float | None, seed: int) -> Iterator[Batch]:
        """The images as they are in batches of an update's size: all of them, or a random part, the same for the same seed."""
        if share is None:
            yield from self.in_order(self.batch_size)
            return
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 - 3)  # of no epoch, and of no subset
        chosen = torch.randperm(self.samples, generator=random)[: max(1, round(share * self.samples))]
        for part in chosen.to(self.images.device).split(self.batch_size):
            yield self._plain(part)

    def _plain(self, part: slice | Tensor) -> Batch:
        p = self.crop.padding if self.crop is not None else 0
        images = self.images[part]
        images = images[:, p : images.shape[1] - p, p : images.shape[2] - p]
        return Batch(self._normalized(images), self.labels[part])

    def _windows(self, padding: int) -> Tensor:
        """A view of shape (N, shifts, shifts, H, W, C): cropping is one gather of whole rows."""
        n, height, width, channels = self.images.shape
        shifts = 2 * padding + 1
        s = self.images.stride()
        size = (n, shifts, shifts, height - 2 * padding, width - 2 * padding, channels)
        return self.images.as_strided(size, (s[0], s[1], s[2], s[1], s[2], s[3]))

    def _normalized(self, images: Tensor) -> Tensor:
        """Floats of shape (N, C, H, W), in channels_last memory, as the images were stored."""
        scale = torch.tensor([1 / (255 * s) for s in self.std], device=images.device)
        shift = torch.tensor([-m / s for m, s in zip(self.mean, self.std, strict=True)], device=images.device)
        return torch.addcmul(shift, images.float(), scale).permute(0, 3, 1, 2)
