"""Clips of video files, decoded by FFmpeg through PyAV: only the frames that are wanted are kept, and no others than needed decoded."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..core.errors import TaskError
from ..train.stream import Unreadable

EXTENSIONS = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"})
_LOST = 8  # frames at the end that a container may name and a decoder not give

Picture = npt.NDArray[np.uint8]  # (H, W, 3)


class Window(NamedTuple):
    """Where a frame is cut, after it was scaled.

    Args:
        side: pixels of its shorter side.
        crop: pixels of the sides of what is cut.
        x, y: where, from 0 at one edge to 1 at the other.
        flip: whether it is mirrored.
    """

    side: int
    crop: int
    x: float = 0.5
    y: float = 0.5
    flip: bool = False


def read(path: str, choose: Callable[[int], list[list[int]]], window: Window) -> Picture:
    """Some frames of a video, uint8 of shape (clips, frames, crop, crop, 3).

    The rotation and the aspect ratio of pixels that a file may state are ignored.

    Args:
        path: of the file.
        choose: gives the numbers of the frames of each clip, from the number of frames.
        window: where they are cut.

    Raises:
        Unreadable: where the file is damaged, or has no frames.
    """
    av = pyav()
    try:
        with av.open(path, metadata_errors="ignore") as container:
            stream = _stream(path, container)
            index = Index.of(path, container, stream)
            clips = choose(len(index.times))
            wanted = sorted(set(chain.from_iterable(clips)))
            scaler, found = av.video.reformatter.VideoReformatter(), {}
            for number, frame in _frames(path, container, stream, index, wanted):
                found[number] = _cut(scaler, frame, window)
    except (av.FFmpegError, OSError) as error:
        raise Unreadable(f"'{path}': {getattr(error, 'strerror', None) or error}") from None
    return np.stack([np.stack([found[number] for number in clip]) for clip in clips])


def pyav() -> Any:
    """PyAV.

    Raises:
        TaskError: where it is not installed.
    """
    try:
        import av
        import av.video.reformatter
    except ImportError as error:
        raise TaskError(f'videos are decoded by PyAV ({error}): pip install "budgeted[vision]"') from None
    return av


def _stream(path: str, container: Any) -> Any:
    """The first video stream that is no cover picture, decoded by one thread: videos are read by several."""
    cover = pyav().stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            stream.codec_context.thread_count = 1
            return stream
    raise Unreadable(f"'{path}' has no video in it")


class Index(NamedTuple):
    """The frames of a video in the order that they are shown in, found by reading its packets without decoding them.

    Containers may not know how many frames they have, nor for how long each is shown.

    Args:
        times: of each frame, in units of the stream.
        keys: the numbers of those that decoding can begin at.
    """

    times: list[int]
    keys: list[int]

    @classmethod
    def of(cls, path: str, container: Any, stream: Any) -> Index:
        """Read the packets.

        Raises:
            Unreadable: where there are none, or less than half of what the file says that it holds.
        """
        count, known = 0, []
        for packet in container.demux(stream):  # none is kept: together they are the whole file
            # Some containers keep no times of display. Those of decoding have to do, which are off by a few frames.
            time = packet.dts if packet.pts is None else packet.pts
            count += packet.size > 0
            if packet.size and not packet.is_discard and time is not None:
                known.append((time, packet.is_keyframe))
        known.sort()
        if not known:
            raise Unreadable(f"'{path}' has too few frames: none")
        seconds = float((known[-1][0] - known[0][0]) * stream.time_base)
        stated = (container.duration or 0) / pyav().time_base
        if stream.frames > 2 * count or stated > 2 * (seconds + 1):
            whole = f"{stream.frames} frames" if stream.frames else f"{stated:.0f} s"
            raise Unreadable(f"'{path}' is truncated: it ends before half of its {whole}")
        return cls([time for time, _ in known], [number for number, (_, key) in enumerate(known) if key])


def _frames(path: str, container: Any, stream: Any, index: Index, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Decode the wanted frames, in their order, each from the key frame before it or from where decoding has come to."""
    frame: Any = None
    decoder: Iterator[Any] = iter(())
    for number in wanted:
        time, before = index.times[number], bisect_right(index.keys, number)
        key = index.times[index.keys[before - 1] if before else 0]
        if frame is None or frame.pts < key:
            for start in (key, index.times[0]):
                container.seek(start, stream=stream)
                decoder = (frame for frame in container.decode(stream) if frame.pts is not None)
                frame = next(decoder, None)
                if frame is not None and frame.pts <= time:
                    break  # else it went too far, as where frames before a key frame are shown after it
        while frame is not None and frame.pts < time:
            following = next(decoder, None)
            if following is None:
                break
            frame = following
        last = -1 if frame is None else bisect_right(index.times, frame.pts) - 1
        if last < number - _LOST:
            raise Unreadable(f"'{path}': {last + 1} of {len(index.times)} frames can be decoded")
        if frame.is_corrupt:
            raise Unreadable(f"'{path}' is damaged at frame {number}")
        yield number, frame


def _cut(scaler: Any, frame: Any, window: Window) -> Picture:
    """The window of a frame, which is scaled and turned into red, green and blue in one pass over it."""
    scale = window.side / min(frame.width, frame.height)
    width, height = (max(window.side, round(side * scale)) for side in (frame.width, frame.height))
    picture = scaler.reformat(frame, width, height, "rgb24", threads=1).to_ndarray()
    x, y = round(window.x * (width - window.crop)), round(window.y * (height - window.crop))
    cut = picture[y : y + window.crop, x : x + window.crop]
    return np.ascontiguousarray(cut[:, ::-1] if window.flip else cut)
