"""Street scenes: Cityscapes with PSPNet (Li et al. 2020), and CamVid, small enough for CPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from torch import nn

from ..core.errors import TaskError
from .images import Stored
from .pretrained import RESNETS, Backbone
from .pspnet import pspnet, pspnet50
from .scenes import VOID, Augmentation, Pair
from .street_scenes import StreetScenes

# The train ids of the official label ids 0 to 33 (cityscapesScripts, helpers/labels.py).
_TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


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
    head_rate: ClassVar[float] = 10.0  # as in the reference implementation, hszhao/semseg
    pretrained: ClassVar[bool] = True
    augmentation: ClassVar[Augmentation] = Augmentation(713)
    table: ClassVar[tuple[int, ...]] = tuple(_TRAINED.index(k) if k in _TRAINED else VOID for k in range(34))
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {
        "pspnet50": partial(pspnet50, 19),
        "pspnet": partial(pspnet, 19),
    }

    def model(self) -> nn.Module:
        backbone = Backbone.find(self.backbone, RESNETS[50], self.name)
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
    full_budget: ClassVar[str] = "20ep"
    off_the_shelf: ClassVar[str] = "poly"
    root: ClassVar[str] = "camvid"
    classes: ClassVar[int] = 11
    batch_size: int = 8
    rate: ClassVar[float] = 0.03  # 0.015 and 0.05 do as well in 5 epochs, 0.2 worse
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
