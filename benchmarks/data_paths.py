"""Whether the data path of a task waits for its model or the model for it: samples a second of each, and the memory of an epoch.

    python benchmarks/data_paths.py --data DIR imagenette64 camvid "coco(folder=coco_subset, batch=2, size=192)"
    python benchmarks/data_paths.py --data DIR --photographs DIR/coco_subset/train2017 --crop 112

The first measures tasks: one thread that reads, and one that trains, alternately. The second measures how much faster photographs are
read where a JPEG is decoded at part of its size (`imagenet(decode=scaled)`). Medians and ranges over rounds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from budgeted.tasks import registry
from budgeted.tasks.images import Labelled, Stored
from budgeted.tasks.photographs import Photographs, collate
from budgeted.train.data import Batch
from budgeted.train.precision import fastest
from budgeted.train.stream import Stream
from budgeted.train.task import Task

CPU = torch.device("cpu")


def reading(data: Stream, batches: int, epoch: int) -> float:
    """Samples a second that one thread reads and joins."""
    began, count = time.perf_counter(), 0
    for batch in itertools.islice(replace(data, workers=1, ahead=1).epoch(0, epoch), batches):
        count += len(batch.targets)
    return count / (time.perf_counter() - began)


def training(task: Task, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """Samples a second of an update."""
    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    task.loss(model.train(), batch).backward()
    optimizer.step()
    return len(batch.targets) / (time.perf_counter() - began)


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):8.1f} ({min(values):.1f}-{max(values):.1f})"


def resident() -> float:
    """MiB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def task_line(name: str, root: Path, rounds: int, batches: int) -> None:
    """Print a task's two rates, and by how much reading an epoch grew the process after its first tenth."""
    task = registry.load(name)
    data = task.data(root, CPU).train
    assert isinstance(data, Stream)
    first = next(data.epoch(0, 0))
    model = task.model()
    choice = fastest(model, first, task.loss, CPU)
    torch.set_num_threads(1)
    precision = choice.precision
    model = precision.place(model, CPU)
    optimizer = task.optimizer(model)
    read, trained = [], []
    with precision.autocast(CPU):
        training(task, model, optimizer, precision.prepare(first))
        for k in range(rounds):
            read.append(reading(data, batches, k))
            trained.append(training(task, model, optimizer, precision.prepare(first)))
    ratio = statistics.median(read) / statistics.median(trained)
    sizes = list(_sizes(data))
    grown = max(sizes) - max(sizes[: max(1, len(sizes) // 10)])
    print(
        f"{name:50} reads {spread(read)}/s, trains {spread(trained)}/s ({precision.name}): reading is {ratio:.1f} times as fast; "
        f"an epoch grew memory by {grown:.0f} MiB"
    )


def _sizes(data: Stream) -> Iterator[float]:
    for _ in data.epoch(0, 100):
        yield resident()


def photographs_line(folder: Path, crop: int, rounds: int) -> None:
    """Print samples a second with JPEGs decoded in full and in part, and their ratio."""
    images = tuple(Stored(str(path)) for path in sorted(folder.glob("*.jpg")))
    both = {
        kind: Stream(
            Photographs(Labelled(images, (0,) * len(images), ("all",)), crop, 0.08, 0.875, scaled=kind == "scaled"),
            32,
            collate,
            CPU,
        )
        for kind in ("full", "scaled")
    }
    rates: dict[str, list[float]] = {kind: [] for kind in both}
    for k in range(rounds):
        for kind, data in both.items():
            rates[kind].append(reading(data, len(data), k))
    ratios = [scaled / full for full, scaled in zip(rates["full"], rates["scaled"], strict=True)]
    for kind, found in rates.items():
        print(f"{len(images)} photographs, crops of {crop}, decoded {kind:6} {spread(found)}/s by one thread")
    print(f"scaled over full: {spread(ratios).strip()}")


def main() -> None:
    """Print a line for each task, or for the photographs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--photographs", type=Path)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=10)
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.photographs is not None:
        torch.set_num_threads(1)
        photographs_line(given.photographs, given.crop, given.rounds)
    for name in given.tasks:
        task_line(name, given.data, given.rounds, given.batches)


if __name__ == "__main__":
    main()
