"""Clips of labelled videos: a random one of each to train on, several of each to judge it by; batches of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from ..train.data import Batch
from ..train.stream import Stream
from .photographs import normalised
from .video import Picture, Window, read


@dataclass(frozen=True, slots=True)
class Clips:
    """Clips of labelled videos: a random one of each to train on, several at even distances to judge it by.

    Args:
        videos: paths.
        labels: of each, from 0.
        frames, stride: of a clip: so many frames, one of so many.
        crop: pixels of the sides; the shorter side of a frame is scaled to 8/7 of it, in training to a random length up to 10/7.
        count: clips of a video that is judged.
    """

    videos: Sequence[str]
    labels: Sequence[int]
    frames: int
    stride: int
    crop: int
    count: int

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def sides(self) -> tuple[int, int]:
        """Pixels of the shorter side: 256 to 320 for crops of 224."""
        return round(self.crop * 256 / 224), round(self.crop * 320 / 224)

    def read(self, index: int, random: Random | None) -> tuple[Picture, int]:
        """Clips, uint8 of shape (1 or count, frames, crop, crop, 3), and the label.

        Raises:
            Unreadable: where the file is damaged, or has no frames.
        """
        window = Window(self.sides[0], self.crop)
        if random is not None:
            window = Window(
                random.randint(*self.sides), self.crop, random.random(), random.random(), random.random() < 0.5
            )

        def chosen(length: int) -> list[list[int]]:
            return [self._clip(start, length) for start in self._starts(length, random)]

        return read(self.videos[index], chosen, window), self.labels[index]

    def _starts(self, length: int, random: Random | None) -> list[int]:
        room = max(0, length - 1 - (self.frames - 1) * self.stride)
        if random is not None:
            return [random.randint(0, room)]
        if self.count == 1:
            return [room // 2]
        return [round(room * k / (self.count - 1)) for k in range(self.count)]

    def _clip(self, start: int, length: int) -> list[int]:
        """Its frames; where the video is too short for them, its last one is repeated."""
        return [min(start + k * self.stride, length - 1) for k in range(self.frames)]


@dataclass(frozen=True, slots=True)
class Judged:
    """Videos that are judged by several clips each.

    Args:
        stream: of the videos.
        clips: of each.
        batch_size: clips that go through the model at once.
    """

    stream: Stream
    clips: int
    batch_size: int

    @property
    def samples(self) -> int:
        """Clips, by which the cost of an evaluation is forecast."""
        return len(self.stream.source) * self.clips

    def __iter__(self) -> Iterator[Batch]:
        """All clips of some videos, and a target for each video."""
        return self.stream.in_order(max(1, self.batch_size // self.clips))


def join(samples: list[tuple[Picture, int]], device: torch.device) -> Batch:
    """A batch of all clips of some videos: floats of shape (videos * clips, 3, T, H, W), and a target for each video."""
    clips = torch.from_numpy(np.concatenate([clips for clips, _ in samples])).to(device)
    inputs = normalised(clips).permute(0, 4, 1, 2, 3)
    return Batch(inputs, torch.tensor([label for _, label in samples], device=device))
