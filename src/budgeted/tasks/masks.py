"""Masks as COCO stores them, polygons and run lengths, by way of pycocotools."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import TaskError

Coded = dict[str, Any]  # run lengths, compressed


def tools() -> Any:
    """pycocotools.mask.

    Raises:
        TaskError: where it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise TaskError('coco needs pycocotools: pip install "budgeted[vision]"') from None
    return mask


def rle_of(segmentation: Any, height: int, width: int) -> Coded:
    """The run lengths of a mask, as pycocotools compresses them.

    Args:
        segmentation: a list of polygons, or run lengths, compressed or not.
        height, width: of the image, in pixels.

    Raises:
        ValueError: where it is neither, or for another size.
    """
    if isinstance(segmentation, list):
        if not segmentation or not all(map(_is_polygon, segmentation)):
            raise ValueError(f"it is no list of polygons, each at least two corners: {str(segmentation)[:100]}")
        return dict(tools().merge(tools().frPyObjects(segmentation, height, width)))
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise ValueError(f"its size is {size}, and the image's [{height}, {width}]")
    if isinstance(counts, list):
        if not all(isinstance(n, int) and n >= 0 for n in counts) or sum(counts) != height * width:
            raise ValueError(f"its run lengths do not add up to the image's {height * width:,} pixels")
        return dict(tools().frPyObjects(segmentation, height, width))
    if not isinstance(counts, str) or _pixels(counts) != height * width:
        raise ValueError(f"its compressed run lengths are not those of the image's {height * width:,} pixels")
    return {"size": size, "counts": counts}


def _is_polygon(polygon: Any) -> bool:
    return (
        isinstance(polygon, list)
        and len(polygon) >= 4  # pycocotools takes four for a box
        and len(polygon) % 2 == 0
        and all(isinstance(v, int | float) and math.isfinite(v) for v in polygon)
    )


def _pixels(counts: str) -> int:
    """The sum of compressed run lengths, or -1 where they are none: pycocotools leaves pixels beyond them uninitialised.

    A number is groups of five bits, the lowest first, in characters from '0' on; the sixth bit says that there are more, and
    the highest of the last group is the sign. From the fourth run on it is the difference from the one before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << shift - 4 if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return -1 if shift or min(runs, default=-1) < 0 else sum(runs)


def encoded(masks: Tensor) -> Sequence[Coded]:
    """Run lengths of masks of shape (N, 1, H, W), of what is above a half."""
    solid = (masks[:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    coded: Sequence[Coded] = tools().encode(np.asfortranarray(solid))
    return coded
