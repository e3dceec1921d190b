"""Street scenes: Cityscapes with PSPNet (Li et al., section 4.5), and CamVid, small enough for CPUs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..core.errors import TaskError
from ..train.stream import Stream
from ..train.task import Data
from .images import Stored
from .pretrained import Backbone
from .pspnet import RESNET50, pspnet, pspnet50
from .scaling import linear_rule, positive
from .scenes import VOID, Augmentation, Pair, Scenes, join
from .segmentation import Segmentation

# The train ids of the official label ids 0 to 33 (cityscapesScripts, helpers/labels.py).
_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class StreetScenes(Segmentation):
    """What both have in common.

    Args:
        batch: images of one update, from 2; the base rate is scaled with it.
        crop: pixels of the sides of crops and tiles, one more than a multiple of 8.
        backbone: the path of a state_dict of torchvision's ResNet-50, or `scratch`.
        folder: of the data set, below the root.
        images: so many training images alone, the first ones.
        overfit: 1 for a test on the training images.
        augment: 0 for crops alone.
    """

    root: ClassVar[str]  # the folder
    batch_size: int
    rate: ClassVar[float]
    head_rate: ClassVar[float]  # times that of the backbone
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
        self.backbone = backbone
        self.folder = str(folder) if folder is not None else recipe.root
        self.images = None if images is None else positive("images", images, 2)
        self.overfit = _flag("overfit", overfit)
        self.augment = _flag("augment", augment)
        self.origin = "scratch"

    def data(self, root: Path | None, device: torch.device) -> Data:
        folder = (root or Path.home() / ".cache" / "budgeted") / self.folder
        if not folder.is_dir():
            raise TaskError(
                f"there is no folder '{folder}'; --data or BUDGETED_DATA names the folder that holds '{self.folder}', and "
                f"{self.name}(folder=NAME) another one in it"
            )
        train = self.pairs(folder, "train")[: self.images]
        return Data(
            self._stream(train, device), self._stream(train if self.overfit else self.pairs(folder, "val"), device)
        )

    @abstractmethod
    def pairs(self, folder: Path, part: str) -> list[Pair]:
        """The images of a part, `train` or `val`, and their labels.

        Raises:
            TaskError: where there are none, or one is without the other.
        """

    def _stream(self, pairs: Sequence[Pair], device: torch.device) -> Stream:
        augmentation = replace(type(self).augmentation, crop=self.crop)
        augmentation = augmentation if self.augment else augmentation.weak()
        scenes = Scenes(pairs, np.array(self.table, np.uint8), augmentation)
        return Stream(scenes, self.batch_size, join, device, whole=True)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum; the heads, which no pretrained weights begin, at a higher rate."""
        backbone = getattr(model, "encoder", None)  # a user's own network need not have one
        encoder = list(backbone.parameters()) if isinstance(backbone, nn.Module) else []
        inside = {id(p) for p in encoder}
        heads = [p for p in model.parameters() if id(p) not in inside]
        groups = [{"params": encoder, "lr": self.base_rate}, {"params": heads, "lr": self.head_rate * self.base_rate}]
        return torch.optim.SGD([g for g in groups if g["params"]], momentum=0.9, weight_decay=1e-4, fused=True)

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


class Cityscapes(StreetScenes):
    """2,975 images of 2048 x 1024 to train on and the 500 of `val` to validate; 19 classes."""

    name: ClassVar[str] = "cityscapes"
    summary: ClassVar[str] = "2048x1024 street scenes in 19 classes, PSPNet with a dilated ResNet-50 (the paper's)"
    full_budget: ClassVar[str] = "400ep"
    off_the_shelf: ClassVar[str] = "poly"
    root: ClassVar[str] = "cityscapes"
    classes: ClassVar[int] = 19
    batch_size: int = 12
    rate: ClassVar[float] = 0.01
    head_rate: ClassVar[float] = 10.0
    augmentation: ClassVar[Augmentation] = Augmentation(713)
    table: ClassVar[tuple[int, ...]] = tuple(_TRAINED.index(k) if k in _TRAINED else VOID for k in range(34))
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "pspnet50": partial(pspnet50, 19),
        "pspnet": partial(pspnet, 19),
    }

    def model(self) -> nn.Module:
        backbone = Backbone.find(self.backbone, RESNET50, self.name)
        self.origin = backbone.origin
        return pspnet50(self.classes, backbone)

    def pairs(self, folder: Path, part: str) -> list[Pair]:
        """The official folders: leftImg8bit and gtFine, in each train and val, in each a folder of every city."""
        images = sorted((folder / "leftImg8bit" / part).glob("*/*_leftImg8bit.png"))
        if not images:
            raise TaskError(
                f"'{folder / 'leftImg8bit' / part}' has no CITY/*_leftImg8bit.png; unpack leftImg8bit_trainvaltest.zip and "
                f"gtFine_trainvaltest.zip into '{folder}'"
            )
        pairs = []
        for image in images:
            name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
            pairs.append((image, folder / "gtFine" / part / image.parent.name / name))
        return _there(pairs, f"unpack gtFine_trainvaltest.zip into '{folder}'")


class CamVid(StreetScenes):
    """367 images of 240 x 180 to train on and the 101 of `val` to validate; 11 classes."""

    name: ClassVar[str] = "camvid"
    summary: ClassVar[str] = "240x180 street scenes in 11 classes, PSPNet of 16-32-64-128 filters (for CPUs)"
    full_budget: ClassVar[str] = "30ep"
    off_the_shelf: ClassVar[str] = "poly"
    root: ClassVar[str] = "camvid"
    classes: ClassVar[int] = 11
    batch_size: int = 8
    rate: ClassVar[float] = 0.05
    head_rate: ClassVar[float] = 1.0  # all is from scratch
    augmentation: ClassVar[Augmentation] = Augmentation(161, scale=(0.75, 2.0), blur=0.0)
    table: ClassVar[tuple[int, ...]] = (*range(11), VOID)
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "pspnet": partial(pspnet, 11),
        "pspnet50": partial(pspnet50, 11),
    }

    def model(self) -> nn.Module:
        return pspnet(self.classes)

    def pairs(self, folder: Path, part: str) -> list[Pair]:
        """Lists train.txt and val.txt: on each line an image and its labels, below the folder."""
        path = folder / f"{part}.txt"
        try:
            lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise TaskError(f"cannot read the list '{path}' ({error}); each of its lines is IMAGE LABELS") from None
        if not lines:
            raise TaskError(f"the list '{path}' is empty; each of its lines is IMAGE LABELS")
        for number, names in enumerate(lines, 1):
            if len(names) != 2:
                raise TaskError(f"line {number} of '{path}' is '{' '.join(names)}'; each line is IMAGE LABELS")
        return _there([(folder / image, folder / labels) for image, labels in lines], f"correct '{path}'")


def _there(pairs: Sequence[tuple[Path, Path]], otherwise: str) -> list[Pair]:
    missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing:
        raise TaskError(
            f"there is no '{missing[0]}' ({len(missing)} files are missing in all); put it there, or {otherwise}"
        )
    return [Pair(Stored(str(image)), Stored(str(labels))) for image, labels in pairs]


def _side(value: object) -> int:
    side = positive("crop", value, 17)
    if side % 8 != 1:
        near = side // 8 * 8
        raise TaskError(
            f"crop is one more than a multiple of 8, so that features 8 pixels apart meet its edges, and is {side}; "
            f"{near + 1} and {near + 9} are near"
        )
    return side


def _flag(what: str, value: object) -> bool:
    if value not in (0, 1):
        raise TaskError(f"{what} is 0 or 1, and is {value}")
    return bool(value)
