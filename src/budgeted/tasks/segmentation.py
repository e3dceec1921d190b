"""Masks as COCO stores them, polygons and run lengths, by way of pycocotools; and average precision by its evaluator."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import TaskError

_STATISTICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")  # the first of COCOeval's

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
    the highest of the last group is the sign. From the third run on it is the difference from the one before the last.
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


@dataclass(slots=True)
class Truth:
    """What the evaluator judges by: the annotations of some images, crowds among them.

    Args:
        content: of an annotation file.
        images: ids of those that are judged on.
    """

    content: Mapping[str, Any]
    images: Collection[int]
    known: Any = field(init=False)

    def __post_init__(self) -> None:
        wanted = set(self.images)
        images = [image for image in self.content["images"] if image["id"] in wanted]
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        entries = [self._coded(e, *sizes[e["image_id"]]) for e in self.content["annotations"] if e["image_id"] in sizes]
        if all(entry["iscrowd"] for entry in entries):
            raise TaskError(
                f"the {len(images)} images that are judged on have no object annotated: average precision is not defined"
            )
        self.known = _index({"images": images, "categories": self.content["categories"], "annotations": entries})
        self.content = {}

    @staticmethod
    def _coded(entry: Mapping[str, Any], height: int, width: int) -> dict[str, Any]:
        """A copy with run lengths: the evaluator writes into what it is given."""
        try:
            return {**entry, "segmentation": rle_of(entry["segmentation"], height, width)}
        except ValueError as error:
            raise TaskError(
                f"annotation {entry['id']} of image {entry['image_id']} cannot be judged by: {error}; correct the annotation file"
            ) from None


@dataclass(slots=True)
class Detections:
    """What a model finds, image by image."""

    boxes: list[dict[str, Any]] = field(default_factory=list)
    masks: list[dict[str, Any]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)

    def add(self, image: int, found: Mapping[str, Tensor]) -> None:
        """What a detector of torchvision found in an image.

        Args:
            image: its id.
            found: boxes of shape (N, 4), labels and scores (N,), masks (N, 1, H, W) from 0 to 1.
        """
        self.images.append(image)
        corners = found["boxes"].float()
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).tolist()
        labels, scores = found["labels"].tolist(), found["scores"].float().tolist()
        for box, mask, label, score in zip(boxes, encoded(found["masks"]), labels, scores, strict=True):
            shared = {"image_id": image, "category_id": label, "score": score}
            self.boxes.append({**shared, "bbox": box})
            self.masks.append({**shared, "segmentation": mask})

    def judged(self, truth: Truth) -> dict[str, float]:
        """Average precision of boxes and masks, 0 to 1, as COCOeval has it, over the images that were added.

        Sizes of which nothing is annotated are left out.
        """
        figures: dict[str, float] = {}
        for name, kind, found in (("box", "bbox", self.boxes), ("mask", "segm", self.masks)):
            statistics = _evaluated(truth.known, found, kind, self.images)
            figures |= {f"{name}_{what}": value for what, value in statistics.items() if value >= 0}
        return figures


def encoded(masks: Tensor) -> Sequence[Coded]:
    """Run lengths of masks of shape (N, 1, H, W) that are at least half."""
    solid = (masks[:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    coded: Sequence[Coded] = tools().encode(np.asfortranarray(solid))
    return coded


def _index(dataset: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    known = COCO()
    known.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        known.createIndex()
    return known


def _evaluated(known: Any, found: list[dict[str, Any]], kind: str, images: list[int]) -> dict[str, float]:
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        # It writes into what it reads, and cannot read results of which there are none.
        results = known.loadRes([dict(one) for one in found]) if found else _index({**known.dataset, "annotations": []})
        judge = COCOeval(known, results, kind)
        judge.params.imgIds = images
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return dict(zip(_STATISTICS, map(float, judge.stats), strict=False))
