"""Videos to train `kinetics` on where there are none, made from photographs; and how fast they are read and trained on.

    python benchmarks/videos.py make VIDEOS/kinetics --photos DATA/coco_subset/train2017
    python benchmarks/videos.py time --data VIDEOS --task "kinetics(batch=4, crop=112)" --model "i3d(depth=18)"

A class is a movement of the camera over a photograph, and each photograph is in every class, so that nothing is told by a
single frame. Left and right are one class: training mirrors videos.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image

from budgeted.core.record import Spec
from budgeted.tasks.registry import load
from budgeted.tasks.video import pyav
from budgeted.train.precision import named
from budgeted.train.recipe import varied

# Of each class, the corner and the size of the window at time t, 0 to 1, as shares of what there is.
Camera = Callable[[float], tuple[float, float, float]]
MOTIONS: Mapping[str, Camera] = {
    "down": lambda t: (0.2, 0.4 * t, 0.6),
    "sideways": lambda t: (0.4 * t, 0.2, 0.6),
    "up": lambda t: (0.2, 0.4 - 0.4 * t, 0.6),
    "zoom in": lambda t: (0.25 * t, 0.25 * t, 1 - 0.5 * t),
    "zoom out": lambda t: (0.25 - 0.25 * t, 0.25 - 0.25 * t, 0.5 + 0.5 * t),
}


def moving(photo: Image.Image, camera: Camera, count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames, uint8 of shape (H, W, 3), of a camera that moves over a photograph; size is width and height."""
    for number in range(count):
        x, y, share = camera(number / max(1, count - 1))
        box = (x * photo.width, y * photo.height, (x + share) * photo.width, (y + share) * photo.height)
        yield np.asarray(photo.resize(size, Image.Resampling.BILINEAR, box))


def write(
    path: Path,
    frames: Iterable[np.ndarray],
    codec: str = "libx264",
    rate: int = 25,
    times: Iterable[int] = (),
    **options: str,
) -> Path:
    """A video file; its container follows from its name.

    Args:
        path: of the file.
        frames: uint8, shape (H, W, 3).
        codec: FFmpeg's name of an encoder.
        rate: frames a second.
        times: of each frame, in units of 1 / rate; none for one after the other.
        options: of the encoder, such as g="12", the most frames from a key frame to the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    av = pyav()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"threads": "1", **options})
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for number, (picture, when) in enumerate(itertools.zip_longest(frames, times)):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number if when is None else when, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def make(folder: Path, photos: list[Path], train: int, val: int, count: int, size: tuple[int, int]) -> None:
    """Class folders of videos: so many photographs in each class to train on, and others to validate."""
    random = Random(0)
    for part, some in (("train", photos[:train]), ("val", photos[train : train + val])):
        for photo, (name, camera) in itertools.product(some, MOTIONS.items()):
            frames = moving(Image.open(photo).convert("RGB"), camera, count + random.randrange(10), size)
            write(folder / part / name / f"{photo.stem}.mp4", frames, g="30")


def measure(task_name: str, model: str | None, root: Path, precision: str, trials: int) -> None:
    """Print how many clips a thread reads in a second, and how many the model learns from."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    spec = Spec(task_name, "1 steps", "const", model=model)
    task = varied(load(task_name), spec)
    data = task.data(root, device)
    source, number = data.train.source, named(precision)
    reading = _seconds(lambda k: source.read(k % len(source), Random(k)), 4 * trials)
    judging = _seconds(lambda k: source.read(k % len(source), None), trials)
    network = number.place(task.model(), device).train()
    optimizer = task.optimizer(network)
    batch = number.prepare(next(data.train.epoch(0, 0)))

    def update(k: int) -> None:
        with number.autocast(device):
            loss = task.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    size = len(batch.targets)
    print(f"reading: {1 / reading:.1f} clips/s a thread to train on, {source.count / judging:.1f} to judge by")
    print(
        f"updates: {size / _seconds(update, trials):.2f} clips/s, batch {size}, {precision}, {torch.get_num_threads()} threads"
    )


def _seconds(work: Callable[[int], object], trials: int) -> float:
    """The median of some trials, after one to warm up."""
    took = []
    for k in range(trials + 1):
        began = time.perf_counter()
        work(k)
        took.append(time.perf_counter() - began)
    return statistics.median(took[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="make videos")
    maker.add_argument("folder", type=Path)
    maker.add_argument("--photos", type=Path, required=True)
    maker.add_argument("--train", type=int, default=12, help="photographs in each class")
    maker.add_argument("--val", type=int, default=4)
    maker.add_argument("--frames", type=int, default=75)
    maker.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("WIDTH", "HEIGHT"))
    timer = commands.add_parser("time", help="measure reading and updates")
    timer.add_argument("--data", type=Path, required=True)
    timer.add_argument("--task", default="kinetics(backbone=scratch)")
    timer.add_argument("--model")
    timer.add_argument("--precision", default="float32")
    timer.add_argument("--trials", type=int, default=5)
    given = parser.parse_args()
    if given.command == "make":
        make(given.folder, sorted(given.photos.rglob("*.jpg")), given.train, given.val, given.frames, tuple(given.size))
    else:
        measure(given.task, given.model, given.data, given.precision, given.trials)


if __name__ == "__main__":
    main()
