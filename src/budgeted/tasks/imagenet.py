"""ImageNet with ResNet-18 (Li et al., section 4.2), from class folders or from the official tar files; and a tenth of it at 64 pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ..core.errors import TaskError
from ..train.stream import Stream
from ..train.task import Data
from . import ilsvrc
from .classification import Classification, figures
from .images import Labelled, class_folders
from .models import ResNet
from .photographs import Photographs, collate
from .scaling import flag, linear_rule, positive
from .sources import home


class ImageNet(Classification):
    """1.28 million photographs of 1,000 classes, and 50,000 to validate.

    Args:
        batch: samples of one update; the base rate goes with it.
        crop: pixels of a side that the network sees.
        decode: `full`; or `scaled`, a JPEG at an eighth, a quarter or half of its size where that is enough for the crop: faster.
        folder: below the root; with `train` and `val` in it, or the official tar files.
        images: so many to train on, at even distances; None for all.
        overfit: validate on the images that are trained on.
    """

    name: ClassVar[str] = "imagenet"
    summary: ClassVar[str] = "photographs in 1,000 classes, torchvision's ResNet-18 (the paper's)"
    full_budget: ClassVar[str] = "100ep"
    classes: ClassVar[int] = 1000
    batch_size: int = 128
    crop: int = 224
    least_area: ClassVar[float] = 0.08  # of a random crop, as a share of the photograph's
    centre: ClassVar[float] = 224 / 256  # the side of the crop that is judged, as a share of the shorter side

    def __init__(
        self,
        batch: int | None = None,
        crop: int | None = None,
        decode: str = "full",
        folder: str | None = None,
        images: int | None = None,
        overfit: int = 0,
    ) -> None:
        recipe = type(self)
        self.batch_size = recipe.batch_size if batch is None else positive("batch", batch, 2)
        self.rate = linear_rule(recipe.rate, recipe.batch_size, self.batch_size)
        self.crop = recipe.crop if crop is None else positive("crop", crop, 32)
        if decode not in ("full", "scaled"):
            raise TaskError(f"decode is full or scaled, and is '{decode}'")
        self.decode, self.overfit = decode, flag("overfit", overfit)
        self.folder = recipe.name if folder is None else str(folder)
        self.images = None if images is None else positive("images", images)

    @property
    def models(self) -> Mapping[str, Callable[..., nn.Module]]:  # type: ignore[override]
        """Torchvision's residual networks."""
        return {f"resnet{depth}": partial(_resnet, depth, self.classes) for depth in (18, 34, 50)}

    def data(self, root: Path | None, device: torch.device) -> Data:
        train, held = _read(root, self.folder, self.name)
        if len(train.classes) != self.classes:
            raise TaskError(
                f"'{self.folder}' has {len(train.classes)} classes, and {self.name} has {self.classes}; name another folder"
            )
        if self.images is not None:
            train = _spread(train, self.images)
        seen = Photographs(train, self.crop, self.least_area, self.centre, scaled=self.decode == "scaled")
        judged = Photographs(train if self.overfit else held, self.crop, self.least_area, self.centre, scaled=False)
        # Batch norm needs more than the one sample that an epoch may leave over.
        whole = len(train.images) % self.batch_size == 1
        return Data(
            Stream(seen, self.batch_size, collate, device, whole=whole),
            Stream(judged, 256, collate, device),
        )

    def model(self) -> nn.Module:
        return _resnet(18, self.classes)

    def evaluate(self, model: nn.Module, data: Stream) -> dict[str, float]:  # type: ignore[override]
        """Over the centres of the images."""
        judged = ((model(inputs).float().log_softmax(1), targets) for inputs, targets in data.in_order())
        return figures(judged, "photograph")

    @property
    def chance(self) -> float | None:  # type: ignore[override]
        return 1 / self.classes

    def settings(self) -> Mapping[str, Any]:
        return {
            "batch_size": self.batch_size,
            "base_rate": self.rate,
            "crop": self.crop,
            "decode": self.decode,
            "folder": self.folder,
        }


class Imagenette64(ImageNet):
    """Ten classes of ImageNet, 9,469 photographs to train on and 3,925 to validate, 64 pixels on the shorter side."""

    name: ClassVar[str] = "imagenette64"
    summary: ClassVar[str] = "ten classes of ImageNet at 64 pixels, ResNet-18 of 16-32-64-128 filters (for CPUs)"
    full_budget: ClassVar[str] = "20ep"
    classes: ClassVar[int] = 10
    batch_size: int = 64
    rate: float = 0.05
    crop: int = 48
    least_area: ClassVar[float] = 0.25
    centre: ClassVar[float] = 1.0

    @property
    def models(self) -> Mapping[str, Callable[..., nn.Module]]:  # type: ignore[override]
        """The narrow one of any width, and torchvision's."""
        return {"narrow": partial(_narrow, self.classes), **super().models}

    def model(self) -> nn.Module:
        return _narrow(self.classes)


def _narrow(classes: int, width: int = 16) -> nn.Module:
    """ResNet-18 with few filters, whose first convolution halves the images and no more."""
    return ResNet(3, classes, (width, 2 * width, 4 * width, 8 * width), 2, stem_stride=2)


def _resnet(depth: int, classes: int) -> nn.Module:
    import torchvision

    made = getattr(torchvision.models, f"resnet{depth}")(weights=None, num_classes=classes)
    assert isinstance(made, nn.Module)
    return made


def _read(root: Path | None, folder: str, task: str) -> tuple[Labelled, Labelled]:
    """What there is to train and to validate on.

    Raises:
        TaskError: where there is neither form of the data set, or one that is incomplete.
    """
    place = home(root) / folder
    if (place / "train").is_dir():
        train, held = class_folders(place / "train"), class_folders(place / "val")
        if odd := sorted({*train.classes} ^ {*held.classes}):
            where = "train" if odd[0] in train.classes else "val"
            raise TaskError(
                f"'{place}': class '{odd[0]}' is in {where} alone ({len(odd)} differ); both have the same classes"
            )
        return train, held
    if any((place / name).exists() for name in ilsvrc.FILES):
        return ilsvrc.read(place)
    raise TaskError(
        f"{task} is not in '{place}': it is to hold train/CLASS/*.jpg and val/CLASS/*.jpg, or {', '.join(ilsvrc.FILES)}; "
        f"name the folder that holds '{folder}' with --data or BUDGETED_DATA, or another as {task}(folder=NAME)"
    )


def _spread(data: Labelled, count: int) -> Labelled:
    """So many of the images, at even distances."""
    if count > len(data.images):
        raise TaskError(f"images is at most {len(data.images):,}, those there are, and is {count:,}")
    chosen = [place * len(data.images) // count for place in range(count)]
    return Labelled(tuple(data.images[i] for i in chosen), tuple(data.labels[i] for i in chosen), data.classes)
