"""COCO object detection and instance segmentation with Mask R-CNN (Li et al., section 4.2)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import BudgetWarning, TaskError
from ..train.data import Batch
from ..train.stream import Stream
from ..train.task import Data, Task
from .annotations import Annotations
from .detection import Detections, Truth
from .instances import Instances, join
from .mask_rcnn import SIDE, anchors, longest, resnet18_fpn, resnet50_fpn
from .masks import tools
from .pretrained import RESNETS, Backbone
from .scaling import flag, linear_rule, positive
from .sources import home

_BATCH, _STEPS, _RATE = 16, 90_000, 0.02  # the recipe's


class Coco(Task):
    """Box and mask average precision on val2017.

    Args:
        batch: images of one update. The base rate is in proportion to it, and the full budget's updates in inverse proportion
            (Detectron's rule).
        size: pixels of the shorter side, the longer one and the anchors in proportion.
        backbone: a file with weights for a ResNet-50, or `scratch`; torchvision's where it is in its cache.
        folder: below the root of the data sets; it holds train2017, val2017 and annotations.
        warmup: updates, at every budget; 0 for none.
        images: the first so many training images only, by their ids.
        overfit: 1 to evaluate on the training images.
    """

    name: ClassVar[str] = "coco"
    summary: ClassVar[str] = "objects and their masks in photographs, Mask R-CNN with ResNet-50 FPN (the paper's)"
    off_the_shelf: ClassVar[str] = "step(2/3, 8/9)"
    step_decay: ClassVar[str] = off_the_shelf
    metric: ClassVar[str] = "box_ap"
    judged_by: ClassVar[str] = "final"
    also: ClassVar[tuple[str, ...]] = ("mask_ap",)
    full_budget: str  # type: ignore[misc]  # with the batch
    warmup: str | None  # type: ignore[misc]
    models: Mapping[str, Callable[..., nn.Module]]  # type: ignore[misc]

    def __init__(
        self,
        batch: int = _BATCH,
        size: int = SIDE,
        backbone: str | None = None,
        folder: str = "coco",
        warmup: int = 500,
        images: int | None = None,
        overfit: int = 0,
    ) -> None:
        self.batch_size = positive("batch", batch)
        self.size = positive("size", size, 32)
        self.backbone, self.folder = backbone, folder
        self.images = None if images is None else positive("images", images)
        self.overfit = flag("overfit", overfit)
        self.rate = linear_rule(_RATE, _BATCH, self.batch_size)
        self.full_budget = f"{round(_STEPS * _BATCH / self.batch_size)} steps"
        self.warmup = f"{positive('warmup', warmup, 0)} steps" if warmup else None
        self.models = {"resnet18-fpn": partial(resnet18_fpn, self.size)}
        self._found: dict[str, Any] = {}

    def settings(self) -> Mapping[str, Any]:
        return {
            "batch_size": self.batch_size,
            "base_rate": self.rate,
            "full_budget": self.full_budget,
            "warmup": self.warmup,
            "shorter_side": self.size,
            "longer_side_at_most": longest(self.size),
            "anchors": list(anchors(self.size)),
            **self._found,
        }

    def data(self, root: Path | None, device: torch.device) -> Data:
        """Training images that have an object to train on, and all of val2017's.

        Raises:
            TaskError: where a file is missing, or annotations do not go with the images.
        """
        tools()
        train = self._read(root, "train2017")
        usable = [photograph for photograph in train.photographs if photograph.objects]
        chosen = usable[: self.images]
        if not chosen:
            raise TaskError(f"no image of '{self.folder}/train2017' has an object to train on")
        if train.degenerate:
            warnings.warn(
                f"{train.degenerate} of {len(train.content['annotations']):,} annotations to train on have a box without area in "
                "its image, and are left out",
                BudgetWarning,
                stacklevel=2,
            )
        judged, numbers = train, [photograph.number for photograph in chosen]
        if not self.overfit:
            judged = self._read(root, "val2017")
            numbers = [photograph.number for photograph in judged.photographs]
        wanted = set(numbers)
        held = Instances([one for one in judged.photographs if one.number in wanted], Truth.of(judged.content, numbers))
        self._found |= {
            "training_images": len(chosen),
            "training_images_without_objects": len(train.photographs) - len(usable),
            "training_crowds_left_out": train.crowds,
            "training_boxes_without_area": train.degenerate,
            "validation_images": len(held),
            "validation": "the training images" if self.overfit else "val2017",
        }
        source = Instances(chosen)
        return Data(
            Stream(source, self.batch_size, join, device, groups=source.wide(), whole=True),
            # One by one, as the reference does: padding to a neighbour's size changes what is found.
            Stream(held, 1, join, device),
        )

    def _read(self, root: Path | None, part: str) -> Annotations:
        folder = home(root) / self.folder
        file = folder / "annotations" / f"instances_{part}.json"
        for needed, there in ((file, file.is_file()), (folder / part, (folder / part).is_dir())):
            if not there:
                raise TaskError(
                    f"COCO is not whole: there is no '{needed}'. Unpack train2017.zip, val2017.zip and "
                    f"annotations_trainval2017.zip into '{folder}'; or name the folder that "
                    f"holds '{self.folder}' with --data or BUDGETED_DATA, or another name as coco(folder=NAME)"
                )
        return Annotations.read(file, folder / part)

    def model(self) -> nn.Module:
        found = Backbone.find(self.backbone, RESNETS[50], self.name)
        frozen = found.weights is not None
        self._found |= {
            "backbone": found.origin,
            "backbone_batch_norm": "frozen" if frozen else "trained",
            "backbone_frozen": "stem and first stage" if frozen else "nothing",
        }
        return resnet50_fpn(self.size, found)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum; weight decay on every parameter that is trained."""
        return torch.optim.SGD(model.parameters(), lr=self.rate, momentum=0.9, weight_decay=1e-4, fused=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum of Mask R-CNN's five losses."""
        losses: Mapping[str, Tensor] = model(batch.inputs, batch.targets)
        return torch.stack([value.float() for value in losses.values()]).sum()

    def evaluate(self, model: nn.Module, data: Stream) -> dict[str, float]:
        """Average precision of boxes and masks, 0 to 1, by COCO's own evaluator."""
        found = Detections()
        for images, targets in data.in_order():
            for target, output in zip(targets, model(images), strict=True):
                found.add(target["image_id"], output)
        source = data.source
        assert isinstance(source, Instances)
        assert source.truth is not None
        return found.judged(source.truth)
