"""Average precision of detected boxes and masks, by COCO's own evaluator."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.errors import TaskError
from .masks import encoded, rle_of

_STATISTICS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")  # the first of COCOeval's


@dataclass(frozen=True, slots=True)
class Truth:
    """What is judged by: the annotations of some images, crowds among them.

    Args:
        known: pycocotools' index of them.
    """

    known: Any

    @classmethod
    def of(cls, content: Mapping[str, Any], numbers: Collection[int]) -> Truth:
        """The part of an annotation file that is of some images.

        Args:
            content: of the file.
            numbers: the images' ids.

        Raises:
            TaskError: where there is no object in them, or a mask is damaged.
        """
        wanted = set(numbers)
        images = [image for image in content["images"] if image["id"] in wanted]
        sizes = {image["id"]: (image["height"], image["width"]) for image in images}
        entries = [_coded(e, *sizes[e["image_id"]]) for e in content["annotations"] if e["image_id"] in sizes]
        if all(entry["iscrowd"] for entry in entries):
            raise TaskError(
                f"the {len(images)} images that are judged on have no object annotated: average precision is not defined"
            )
        return cls(_index({"images": images, "categories": content["categories"], "annotations": entries}))


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
