"""Kinetics with I3D: what people do in videos (Li et al., section 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..train.stream import Stream
from ..train.task import Data
from .classification import Classification, figures
from .clips import Clips, Judged, join
from .i3d import i3d, weights
from .pretrained import Backbone
from .scaling import flag, linear_rule, positive
from .sources import existing
from .video import pyav
from .video_lists import Videos, find


class Kinetics(Classification):
    """About 240,000 videos of ten seconds to train on and 20,000 of `val` to validate; 400 classes, or as many as there are.

    Args:
        batch: clips of one update, from 2; the base rate is scaled with it, and the full budget inversely.
        crop: pixels of the sides of clips.
        frames, stride: of a clip: so many frames, one of so many.
        clips: of a video that is judged, by the mean of their probabilities.
        backbone: the path of a state_dict of torchvision's ResNet, or `scratch`.
        folder: of the data set, below the root.
        images: so many training videos alone, taken from each class in turn.
        overfit: 1 for a test on the training videos.
    """

    name: ClassVar[str] = "kinetics"
    summary: ClassVar[str] = "videos in 400 classes, I3D: an inflated ResNet-50 (the paper's)"
    full_budget: str = "300000 steps"  # type: ignore[misc]  # of another batch, another number
    off_the_shelf: ClassVar[str] = "step(1/2, 5/6)"
    step_decay: ClassVar[str] = off_the_shelf
    judged_by: ClassVar[str] = "final"
    weight_decay: ClassVar[float] = 1e-4
    chance: float | None = 1 / 400  # type: ignore[misc]  # as many classes as the data has
    models: Mapping[str, Callable[..., nn.Module]]  # type: ignore[misc]  # the same

    def __init__(
        self,
        batch: int = 32,
        crop: int = 224,
        frames: int = 8,
        stride: int = 8,
        clips: int = 10,
        backbone: str | None = None,
        folder: str = "kinetics",
        images: int | None = None,
        overfit: int = 0,
    ) -> None:
        self.batch_size = positive("batch", batch, 2)  # batch norm needs two
        self.rate = linear_rule(0.005, 32, self.batch_size)
        self.full_budget = f"{round(300_000 * 32 / self.batch_size)} steps"
        self.crop = positive("crop", crop, 32)
        self.frames = positive("frames", frames, 2)  # time is halved
        self.stride = positive("stride", stride)
        self.clips = positive("clips", clips)
        self.backbone, self.folder = backbone, str(folder)
        self.images = None if images is None else positive("images", images, 2)
        self.overfit = flag("overfit", overfit)
        self.models = {"i3d": self._i3d}
        self.classes = 400
        self._found: dict[str, Any] = {}  # in data and backbone

    def data(self, root: Path | None, device: torch.device) -> Data:
        pyav()
        folder = existing(root, self.folder, self.name)
        train = find(folder, "train").first(self.images)
        val = train if self.overfit else find(folder, "val", train.classes)
        self.classes = len(train.classes)
        self.chance = 1 / self.classes
        self._found |= {
            "videos": [len(train.paths), len(val.paths)],
            "videos_missing": [train.missing, val.missing],
        }
        return Data(self._stream(train, device), Judged(self._stream(val, device), self.clips, self.batch_size))

    def _stream(self, videos: Videos, device: torch.device) -> Stream:
        source = Clips(videos.paths, videos.labels, self.frames, self.stride, self.crop, self.clips)
        return Stream(source, self.batch_size, join, device, whole=True)

    def model(self) -> nn.Module:
        return self._i3d()

    def _i3d(self, depth: int = 50, dropout: float = 0.5) -> nn.Module:
        backbone = Backbone.find(self.backbone, weights(depth), self.name)
        self._found["backbone"] = backbone.origin
        return i3d(self.classes, depth, dropout, backbone)

    def evaluate(self, model: nn.Module, data: Judged) -> dict[str, float]:  # type: ignore[override]
        """By the mean of the probabilities of each video's clips."""

        def judged() -> Iterator[tuple[Tensor, Tensor]]:
            for inputs, targets in data:
                chances = model(inputs).float().softmax(1).unflatten(0, (len(targets), -1)).mean(1)
                yield chances.clamp_min(1e-12).log(), targets

        return figures(judged(), "video")

    def settings(self) -> Mapping[str, Any]:
        return {
            "batch_size": self.batch_size,
            "rate": self.rate,
            "crop": self.crop,
            "frames": self.frames,
            "stride": self.stride,
            "clips": self.clips,
            "folder": self.folder,
            "images": self.images,
            "overfit": self.overfit,
            "classes": self.classes,
            **self._found,
        }
