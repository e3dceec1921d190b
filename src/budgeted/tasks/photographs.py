"""Photographs for classification: cropped at random, or in the middle, while they are decoded; mirrored and normalised in batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..train.data import Batch
from .images import Labelled, opened

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's weights want them
_TRIES = 10
_LOG_RATIO = math.log(4 / 3)
Box = tuple[float, float, float, float]  # left, upper, right, lower


class Sample(NamedTuple):
    """A crop, uint8 of shape (H, W, 3), its class, and whether it is to be mirrored."""

    pixels: Tensor
    label: int
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Photographs:
    """Crops of image files; a `Source`.

    Args:
        data: the images and their classes.
        crop: pixels of a side of what comes out.
        least_area: of a random crop, as a share of the image's.
        centre: the side of the crop in the middle, as a share of the shorter side.
        scaled: whether a JPEG may be decoded at an eighth, a quarter or half of its size where the crop needs no more.
    """

    data: Labelled
    crop: int
    least_area: float
    centre: float
    scaled: bool

    def __len__(self) -> int:
        return len(self.data.images)

    def read(self, index: int, random: Random | None) -> Sample:
        """A random crop, or the middle, scaled to the size wanted with the pixels between averaged."""
        with opened(self.data.images[index]) as image:
            size = image.size
            box = middle(size, self.centre) if random is None else random_box(size, self.least_area, random)
            if self.scaled:
                enough = self.crop / min(box[2] - box[0], box[3] - box[1])
                image.draft("RGB", (math.ceil(size[0] * enough), math.ceil(size[1] * enough)))
                across, down = image.size[0] / size[0], image.size[1] / size[1]
                box = box[0] * across, box[1] * down, box[2] * across, box[3] * down
            resized = image.convert("RGB").resize((self.crop, self.crop), Image.Resampling.BILINEAR, box)
        pixels = torch.from_numpy(np.array(resized))
        return Sample(pixels, self.data.labels[index], random is not None and random.random() < 0.5)


def random_box(size: tuple[int, int], least_area: float, random: Random) -> Box:
    """A box of random area and of a ratio from 3/4 to 4/3 (Szegedy et al. 2015), as torchvision's RandomResizedCrop draws it.

    Args:
        size: width and height of the image.
        least_area: as a share of the image's.
        random: what it is drawn from.
    """
    width, height = size
    for _ in range(_TRIES):
        area = width * height * random.uniform(least_area, 1.0)
        ratio = math.exp(random.uniform(-_LOG_RATIO, _LOG_RATIO))
        across, down = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < across <= width and 0 < down <= height:
            left, upper = random.randint(0, width - across), random.randint(0, height - down)
            return left, upper, left + across, upper + down
    # The image is too long for it: the largest box in the middle whose ratio is allowed.
    across, down = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, upper = (width - across) // 2, (height - down) // 2
    return left, upper, left + across, upper + down


def middle(size: tuple[int, int], share: float) -> Box:
    """The square in the middle whose side is a share of the shorter side."""
    width, height = size
    side = share * min(size)
    left, upper = (width - side) / 2, (height - side) / 2
    return left, upper, left + side, upper + side


def collate(samples: list[Sample], device: torch.device) -> Batch:
    """Normalised images of shape (N, 3, H, W), channels last in memory, and labels, on the device."""
    pixels = torch.stack([sample.pixels for sample in samples])
    labels = torch.tensor([sample.label for sample in samples])
    mirrored = torch.tensor([sample.mirrored for sample in samples])
    if device.type == "cuda":
        pixels, labels, mirrored = (t.pin_memory().to(device, non_blocking=True) for t in (pixels, labels, mirrored))
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(2), pixels)
    return Batch(normalised(pixels).permute(0, 3, 1, 2), labels)


def normalised(pixels: Tensor) -> Tensor:
    """Bytes of shape (..., 3) as floats, by ImageNet's mean and deviation of each channel."""
    scale = torch.tensor([1 / (255 * s) for s in STD], device=pixels.device)
    shift = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)], device=pixels.device)
    return torch.addcmul(shift, pixels.float(), scale)
