"""What Cityscapes and CamVid have in common: arguments, streams of samples, optimizer, loss, test."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import TaskError
from ..train.data import Batch
from ..train.stream import Stream
from ..train.task import Data, Task
from .pretrained import SCRATCH
from .scaling import flag, linear_rule, positive
from .scenes import Augmentation, Pair, Scenes, join
from .segmentation import confusion, cross_entropy, intersection_over_union, tiled
from .sources import existing

_AUXILIARY = 0.4  # the weight of the auxiliary head's loss (Zhao et al. 2017)


class StreetScenes(Task):
    """A task whose metric is the mean intersection over union of its classes.

    Args:
        batch: images of one update, from 2; the base rate is scaled with it.
        crop: pixels of the sides of crops and tiles, one more than a multiple of 8.
        backbone: the path of a state_dict of torchvision's ResNet-50, or `scratch`.
        folder: of the data set, below the root.
        images: so many training images alone, the first ones.
        overfit: 1 for a test on the training images.
        augment: 0 for crops alone.
    """

    metric: ClassVar[str] = "miou"
    classes: ClassVar[int]
    root: ClassVar[str]  # the folder
    batch_size: int
    rate: ClassVar[float]
    head_rate: ClassVar[float]  # times that of the backbone
    pretrained: ClassVar[bool] = False  # whether a backbone's weights may be given
    augmentation: ClassVar[Augmentation]
    table: ClassVar[tuple[int, ...]]  # of each id in the label files, the class or VOID

    def __init__(
        self,
        batch: int | None = None,
        crop: int | None = None,
        backbone: str | None = None,
        folder: str | None = None,
        images: int | None = None,
        overfit: int = 0,
        augment: int = 1,
    ) -> None:
        recipe = type(self)
        self.batch_size = recipe.batch_size if batch is None else positive("batch", batch, 2)  # batch norm needs two
        self.base_rate = linear_rule(recipe.rate, recipe.batch_size, self.batch_size)
        self.crop = recipe.augmentation.crop if crop is None else _side(crop)
        if backbone not in (None, SCRATCH) and not self.pretrained:
            raise TaskError(
                f"{self.name} has a network of its own, which no weights begin: leave backbone={backbone} out"
            )
        self.backbone = backbone
        self.folder = str(folder) if folder is not None else recipe.root
        self.images = None if images is None else positive("images", images, 2)
        self.overfit = flag("overfit", overfit)
        self.augment = flag("augment", augment)
        self.origin = SCRATCH

    def data(self, root: Path | None, device: torch.device) -> Data:
        folder = existing(root, self.folder, self.name)
        train = self.pairs(folder, "train")[: self.images]
        judged = train if self.overfit else self.pairs(folder, "val")
        return Data(self._stream(train, device, whole=True), self._stream(judged, device, whole=False))

    @abstractmethod
    def pairs(self, folder: Path, part: str) -> list[Pair]:
        """The images of a part, `train` or `val`, and their labels.

        Raises:
            TaskError: where there are none, or one is without the other.
        """

    def _stream(self, pairs: Sequence[Pair], device: torch.device, whole: bool) -> Stream:
        augmentation = replace(type(self).augmentation, crop=self.crop)
        augmentation = augmentation if self.augment else augmentation.weak()
        scenes = Scenes(pairs, np.array(self.table, np.uint8), augmentation)
        return Stream(scenes, self.batch_size, join, device, whole=whole)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum; the heads, which no pretrained weights begin, at a higher rate."""
        backbone = getattr(model, "encoder", None)  # a user's own network need not have one
        encoder = list(backbone.parameters()) if isinstance(backbone, nn.Module) else []
        inside = {id(p) for p in encoder}
        heads = [p for p in model.parameters() if id(p) not in inside]
        groups = [{"params": encoder, "lr": self.base_rate}, {"params": heads, "lr": self.head_rate * self.base_rate}]
        return torch.optim.SGD([g for g in groups if g["params"]], momentum=0.9, weight_decay=1e-4, fused=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy of the pixels that are not void, and 0.4 times that of the auxiliary head, where there is one."""
        logits = model(batch.inputs)
        if isinstance(logits, tuple):
            main, auxiliary = logits
            return cross_entropy(main, batch.targets) + _AUXILIARY * cross_entropy(auxiliary, batch.targets)
        return cross_entropy(logits, batch.targets)

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

    def settings(self) -> Mapping[str, Any]:
        return {
            "batch_size": self.batch_size,
            "rate": self.base_rate,
            "head_rate": self.head_rate * self.base_rate,
            "crop": self.crop,
            "backbone": self.origin,
            "folder": self.folder,
            "images": self.images,
            "overfit": self.overfit,
            "augment": self.augment,
        }


def _side(value: object) -> int:
    side = positive("crop", value, 17)
    if side % 8 != 1:
        near = side // 8 * 8
        raise TaskError(
            f"crop is one more than a multiple of 8, so that features 8 pixels apart meet its edges, and is {side}; "
            f"{near + 1} and {near + 9} are near"
        )
    return side
