"""Objects in photographs: images with boxes, labels and masks, read one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..train.data import Batch
from ..train.stream import Unreadable
from .annotations import Photograph, corners
from .detection import Truth
from .images import Stored, decode
from .masks import rle_of, tools

Target = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instances:
    """Photographs in the order of their ids, read one by one.

    Args:
        photographs: those that are read.
        truth: what the evaluator judges by, where it does.
    """

    photographs: Sequence[Photograph]
    truth: Truth | None = None

    def __len__(self) -> int:
        return len(self.photographs)

    def read(self, index: int, random: Random | None) -> tuple[Tensor, Target]:
        """An image, uint8 of shape (3, H, W), and its target: mirrored at random, with boxes, labels and masks to train on; else its id.

        Raises:
            Unreadable: where the image or a mask is damaged, or the image is not of the size that its annotations are for.
        """
        photograph = self.photographs[index]
        image = decode(Stored(photograph.path))
        if image.size != (photograph.width, photograph.height):
            raise Unreadable(
                f"'{photograph.path}': it has {image.size[0]} x {image.size[1]} pixels, and its annotations are for "
                f"{photograph.width} x {photograph.height}"
            )
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        if random is None:
            return pixels, {"image_id": photograph.number}
        target = _target(photograph)
        return _mirrored(pixels, target) if random.random() < 0.5 else (pixels, target)

    def wide(self) -> list[int]:
        """Of each photograph, 1 where it is wider than high, and 0 elsewhere: batches of one kind need less padding."""
        return [int(photograph.width > photograph.height) for photograph in self.photographs]


def join(samples: list[tuple[Tensor, Target]], device: torch.device) -> Batch:
    """Images with values from 0 to 1 and their targets, in lists: torchvision's detectors make batches of them."""
    images = [pixels.to(device).float().div_(255) for pixels, _ in samples]
    targets = [{name: _to(value, device) for name, value in target.items()} for _, target in samples]
    return Batch(images, targets)


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _target(photograph: Photograph) -> Target:
    try:
        coded = [rle_of(entry["segmentation"], photograph.height, photograph.width) for entry in photograph.objects]
    except ValueError as error:
        raise Unreadable(f"a mask in '{photograph.path}': {error}") from None
    masks = np.ascontiguousarray(tools().decode(coded).transpose(2, 0, 1))
    return {
        "boxes": torch.tensor([corners(entry, photograph.height, photograph.width) for entry in photograph.objects]),
        "labels": torch.tensor([entry["category_id"] for entry in photograph.objects]),
        "masks": torch.from_numpy(masks),
    }


def _mirrored(pixels: Tensor, target: Target) -> tuple[Tensor, Target]:
    left, top, right, bottom = target["boxes"].unbind(1)
    width = pixels.shape[2]
    boxes = torch.stack([width - right, top, width - left, bottom], 1)
    return pixels.flip(2), {**target, "boxes": boxes, "masks": target["masks"].flip(2)}
