"""What a probe of the full gradient costs beside a forward and a backward pass over the same data, and what a norm in each update does.

    python benchmarks/probes.py --rounds 5

Both sides of each pair run alternately in one process; ratios are of their seconds, with the median and the range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from budgeted.tasks.cifar10 import resnet18
from budgeted.tasks.digits import conv_net
from budgeted.train.data import Batch
from budgeted.train.gradients import norm
from budgeted.train.probe import full_gradient


def loss(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(model(batch.inputs), batch.targets)


def both_passes(model: torch.nn.Module, batches: list[Batch]) -> None:
    model.train()
    for batch in batches:
        model.zero_grad(set_to_none=True)
        loss(model, batch).backward()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(name: str, one: Callable[[], object], other: Callable[[], object], rounds: int) -> None:
    """Print the ratio of the first to the second."""
    one(), other()
    ratios = [seconds(one) / seconds(other) for _ in range(rounds)]
    print(f"{name:58} {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")


def main() -> None:
    """Print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    for name, model, shape, count in (
        ("ResNet-18 of a quarter of the filters, 8 batches of 128", resnet18(10, 16), (128, 3, 32, 32), 8),
        ("the conv net of digits, 100 batches of 64", conv_net(), (64, 1, 8, 8), 100),
    ):
        model = model.to(memory_format=torch.channels_last)
        batches = [
            Batch(torch.randn(shape).to(memory_format=torch.channels_last), torch.randint(0, 10, shape[:1]))
            for _ in range(count)
        ]
        samples = count * shape[0]

        def probe(of: float | None, model: torch.nn.Module = model, batches: list[Batch] = batches) -> None:
            full_gradient(model, loss, batches, of=of)

        def plain(model: torch.nn.Module = model, batches: list[Batch] = batches) -> None:
            both_passes(model, batches)

        compare(f"{name}: exact probe", lambda p=probe: p(None), plain, given.rounds)
        compare(f"{name}: probe of a sample", lambda p=probe, n=samples: p(10.0 * n), plain, given.rounds)
        plain()

        def normed(model: torch.nn.Module = model) -> None:
            for _ in range(100):
                norm(model.parameters())

        each = seconds(normed) / 100 / (seconds(plain) / count)
        print(f"{name + ': norm of an update':58} {each:.3f} of its two passes")


if __name__ == "__main__":
    main()
