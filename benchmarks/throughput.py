"""Images a second of cifar10's training: `budgeted train`'s update against the naive loop, interleaved in one process.

    python benchmarks/throughput.py                  # ResNet-18
    python benchmarks/throughput.py --task cifar10-narrow

The naive loop is what people write first: float32, default memory format, a DataLoader over PIL images with
torchvision's transforms, plain SGD. It is also run with its batches made beforehand, to tell data from compute.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from budgeted.core.record import RunFolder, Spec
from budgeted.tasks.cifar10 import read
from budgeted.tasks.registry import load
from budgeted.train.session import Session

Step = Callable[[], object]


def naive(task_name: str, root: Path, loader: bool) -> Step:
    """One update of the naive loop; without the loader, over batches made beforehand."""
    from torch.utils.data import DataLoader
    from torchvision import transforms as T  # noqa: N812 as everybody writes it
    from torchvision.datasets import CIFAR10

    task = load(task_name)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    transform = T.Compose([T.RandomCrop(32, 4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(mean, std)])
    batches: Iterator = itertools.chain.from_iterable(
        itertools.repeat(DataLoader(CIFAR10(root, transform=transform), task.batch_size, shuffle=True))
    )
    if not loader:
        batches = itertools.cycle([next(batches) for _ in range(3)])
    model = task.model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    criterion = nn.CrossEntropyLoss()

    def step() -> None:
        images, labels = next(batches)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def ours(task_name: str, root: Path) -> tuple[Step, str]:
    """One update of `budgeted train`: its own session, precision measured as always."""
    folder = RunFolder.create(Path(tempfile.mkdtemp()), spec := Spec(task_name, "1000ep", "linear"))
    session = Session.start(
        load(task_name), spec, folder, root, torch.device("cpu"), time.monotonic(), 0.0, None, None, None
    )
    batches = session.batches()
    return lambda: session.update(next(batches)), session.precision.name


def main() -> None:
    """Interleave rounds of a few updates each, and print images a second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="cifar10", choices=["cifar10", "cifar10-narrow"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=3, help="in a round")
    given = parser.parse_args()
    root = Path(os.environ["BUDGETED_DATA"])
    read(root)
    step, precision = ours(given.task, root)
    rivals = {
        "naive loop": naive(given.task, root, loader=True),
        "naive loop, data made beforehand": naive(given.task, root, loader=False),
        f"budgeted ({precision})": step,
    }
    speeds: dict[str, list[float]] = {name: [] for name in rivals}
    for round_ in range(given.rounds + 1):
        for name, update in rivals.items():
            began = time.monotonic()
            for _ in range(given.updates):
                update()
            if round_:  # the first warms up
                speeds[name].append(128 * given.updates / (time.monotonic() - began))
    table = Table("loop", "images/s", "against the naive loop: median (spread)")
    for name, values in speeds.items():
        ratios = sorted(a / b for a, b in zip(values, speeds["naive loop"], strict=True))
        table.add_row(
            name,
            f"{statistics.median(values):.0f}",
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
