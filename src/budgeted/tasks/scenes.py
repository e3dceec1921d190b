"""Photographs with a label for each pixel: read from two files, and augmented by one affine transform of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ..core.errors import TaskError
from ..train.data import Batch
from .images import Stored, decode, opened
from .photographs import MEAN, normalised

VOID = 255  # the label of pixels that are neither trained nor judged on
_FILL = tuple(round(255 * channel) for channel in MEAN)
_BLUR = 1.1  # pixels: OpenCV's standard deviation for the 5 x 5 filter of the reference implementation

Sample = tuple[Tensor, Tensor]  # the image, uint8 (H, W, 3), and its labels, uint8 (H, W)


class Pair(NamedTuple):
    """Where an image and its labels are."""

    image: Stored
    labels: Stored


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is drawn anew for each sample: a crop of the scaled, rotated and mirrored image, blurred or not.

    Args:
        crop: pixels of its sides.
        scale: the least and the greatest, of which each is as likely.
        rotation: degrees to either side, for every second sample.
        flip: whether every second sample is mirrored.
        blur: the share of samples that are blurred.
    """

    crop: int
    scale: tuple[float, float] = (0.5, 2.0)
    rotation: float = 10.0
    flip: bool = True
    blur: float = 0.5

    def weak(self) -> Augmentation:
        """The crop alone."""
        return Augmentation(self.crop, (1.0, 1.0), 0.0, flip=False, blur=0.0)

    def draw(self, random: Random, size: tuple[int, int]) -> tuple[Affine, bool]:
        """A transform for an image of so many pixels in width and height, and whether it is to be blurred."""
        scale = random.uniform(*self.scale)
        angle = random.uniform(-self.rotation, self.rotation) if random.random() < 0.5 else 0.0
        blurred, mirrored = random.random() < self.blur, self.flip and random.random() < 0.5
        # Where it is smaller than the crop, it lies somewhere in it.
        spare = [round(side * scale) - self.crop for side in size]
        left, top = (random.randint(min(0, pixels), max(0, pixels)) for pixels in spare)
        return affine(size, scale, angle, mirrored, (left, top)), blurred

    def __call__(self, random: Random, image: Image.Image, labels: Image.Image) -> tuple[Image.Image, Image.Image]:
        """Both, cropped: only the pixels of the crop are computed."""
        place, blurred = self.draw(random, image.size)
        size, method = (self.crop, self.crop), Image.Transform.AFFINE
        image = image.transform(size, method, place, Image.Resampling.BILINEAR, fillcolor=_FILL)
        labels = labels.transform(size, method, place, Image.Resampling.NEAREST, fillcolor=VOID)
        return image.filter(ImageFilter.GaussianBlur(_BLUR)) if blurred else image, labels


Affine = tuple[float, float, float, float, float, float]


def affine(size: tuple[int, int], scale: float, angle: float, mirrored: bool, corner: tuple[int, int]) -> Affine:
    """From the pixels of a crop to those of the image: (x, y) comes from (a x + b y + c, d x + e y + f).

    The image is scaled about its upper left corner, turned about its middle, mirrored, then cropped.

    Args:
        size: the image's width and height.
        scale: of the sides.
        angle: degrees, anticlockwise.
        mirrored: left to right.
        corner: the crop's upper left, in pixels of the scaled image.

    >>> affine((100, 80), 2.0, 0.0, False, (10, 20)) == (0.5, 0.0, 5.0, 0.0, 0.5, 10.0)
    True
    """
    middle_x, middle_y = size[0] / 2, size[1] / 2
    cos, sin = math.cos(math.radians(angle)) / scale, math.sin(math.radians(angle)) / scale
    side = -1 if mirrored else 1
    # The crop's corner as seen from the middle of the scaled image; mirrored, its x counts leftwards.
    x, y = side * (corner[0] - middle_x * scale), corner[1] - middle_y * scale
    a, b, d, e = side * cos, -sin, side * sin, cos
    return a, b, cos * x - sin * y + middle_x, d, e, sin * x + cos * y + middle_y


@dataclass(frozen=True, slots=True)
class Scenes:
    """A source of images with labels for a `Stream`.

    Args:
        pairs: where they are.
        table: uint8; of each id in the label files, the class from 0, or VOID.
        augmentation: of training samples.
    """

    pairs: Sequence[Pair]
    table: np.ndarray[Any, np.dtype[np.uint8]]
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int, random: Random | None) -> Sample:
        """A sample: a crop, or the whole.

        Raises:
            Unreadable: where a file is truncated.
            TaskError: where the labels are not those of the image, or of other classes.
        """
        pair = self.pairs[index]
        image, ids = decode(pair.image), _ids(pair.labels)
        if ids.shape != (image.height, image.width):
            raise TaskError(
                f"'{pair.labels}' has {ids.shape[1]} x {ids.shape[0]} labels, and '{pair.image}' has {image.width} x "
                f"{image.height} pixels; each pixel is to have one label"
            )
        if not 0 <= ids.min() <= ids.max() < len(self.table):
            wrong = next(label for label in np.unique(ids) if not 0 <= label < len(self.table))
            raise TaskError(f"'{pair.labels}' has the label {wrong}; labels are from 0 to {len(self.table) - 1}")
        labels = Image.fromarray(self.table[ids])
        if random is not None:
            image, labels = self.augmentation(random, image, labels)
        return torch.from_numpy(np.array(image)), torch.from_numpy(np.array(labels))


def _ids(stored: Stored) -> np.ndarray[Any, Any]:
    """The label image as it is, in any number of bits."""
    with opened(stored) as image:
        image.load()
    if len(image.getbands()) != 1:
        raise TaskError(
            f"label image '{stored}' has {len(image.getbands())} channels ({image.mode}); it is to have one, with the number "
            "of each pixel's class, and no colours"
        )
    return np.asarray(image, np.uint8 if image.mode == "1" else None)


def join(samples: list[Sample], device: torch.device) -> Batch:
    """Images of one size, normalised: floats (N, 3, H, W) in channels_last memory, and labels, int64 (N, H, W)."""
    images = torch.stack([image for image, _ in samples]).to(device)
    labels = torch.stack([labels for _, labels in samples]).to(device)
    return Batch(normalised(images).permute(0, 3, 1, 2), labels.long())
