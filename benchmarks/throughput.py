"""Samples a second in training: `budgeted train` against loops that people write and trainers that they use.

    python benchmarks/throughput.py                                   # cifar10-narrow, in seconds
    python benchmarks/throughput.py --task cifar10 --updates 4        # ResNet-18, in minutes
    python benchmarks/throughput.py --task stdlib-lm                  # the small transformer
    python benchmarks/throughput.py --neighbour                       # another process takes a core meanwhile

All train the same model from the same seed, with the same optimizer and batches, in one process; the rounds are interleaved
in random order. Measured is the time between two optimizer steps, some updates after the start, so no set-up counts; data,
logging and what a trainer does between updates count. The naive loop is what is written first: float32, the default memory
format, a DataLoader over PIL images with torchvision's transforms. The plain and the tuned loop and the trainers are given
`budgeted`'s own batched augmentation, so that trainers are compared, not data sets; the tuned loop has channels_last weights,
the fused optimizer and never waits for the loss; the compiled one, which takes part where `--only` names it, has its model
from torch.compile too, whose first round takes a minute or so. Trainers have logging, checkpoints and progress bars turned off.

The share of the ceiling is the arithmetic of the updates (by PyTorch's counter) over that of a large float32 matrix product.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from side_by_side import chosen, circumstances, draw, installed, keep, ratios, show, spread
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.flop_counter import FlopCounterMode

from budgeted.core.record import RunFolder, Spec
from budgeted.tasks.registry import load
from budgeted.train.data import Batch
from budgeted.train.loop import fit

CPU = torch.device("cpu")
WARM_UP = 2  # updates that are not counted
Contender = Callable[[int], object]  # trains for so many updates


class Problem:
    """A task with its data in memory, and fresh models of it."""

    def __init__(self, name: str, root: Path | None) -> None:
        self.name, self.root, self.task = name, root, load(name)
        self.data = self.task.data(root, CPU).train
        self.choice = "nothing, as it did not take part"  # of precision and threads, by budgeted

    def fresh(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = self.task.model().train()
        return model, self.task.optimizer(model)

    def batches(self, count: int) -> Iterator[Batch]:
        every = itertools.chain.from_iterable(self.data.epoch(0, epoch) for epoch in itertools.count())
        return itertools.islice(every, count)

    def flops(self) -> int:
        """Of one update, its optimizer aside."""
        model, _ = self.fresh()
        with FlopCounterMode(display=False) as counter:
            self.task.loss(model, next(self.batches(1))).backward()
        return counter.get_total_flops()


def naive(problem: Problem) -> Contender:
    """What is written first, for images."""
    from torch.utils.data import DataLoader
    from torchvision import transforms as T  # noqa: N812 as everybody writes it
    from torchvision.datasets import CIFAR10

    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    transform = T.Compose([T.RandomCrop(32, 4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(mean, std)])
    data = CIFAR10(problem.root, transform=transform)

    def train(updates: int) -> None:
        model, _ = problem.fresh()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        loader = DataLoader(data, problem.data.batch_size, shuffle=True)
        for images, labels in itertools.islice(loader, updates):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            loss.item()

    return train


def unfused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """As torch makes it when nothing is said."""
    for group in optimizer.param_groups:
        group["fused"] = None
    return optimizer


def plain(problem: Problem) -> Contender:
    """The naive loop over batches that are made well."""

    def train(updates: int) -> None:
        model, optimizer = problem.fresh()
        unfused(optimizer)
        for batch in problem.batches(updates):
            optimizer.zero_grad()
            loss = problem.task.loss(model, batch)
            loss.backward()
            optimizer.step()
            loss.item()

    return train


def tuned(problem: Problem, compiled: bool = False) -> Contender:
    """What somebody writes who knows the machine."""

    def train(updates: int) -> None:
        model, optimizer = problem.fresh()
        model.to(memory_format=torch.channels_last)
        if compiled:
            model = torch.compile(model)
        for batch in problem.batches(updates):
            inputs = batch.inputs
            if inputs.ndim == 4:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            loss = problem.task.loss(model, Batch(inputs, batch.targets))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return train


def lightning(problem: Problem) -> Contender:
    """Its Trainer, bare."""
    import lightning.pytorch as pl

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.optimizer = problem.fresh()
            unfused(self.optimizer)

        def training_step(self, batch: Any, number: int) -> torch.Tensor:
            return problem.task.loss(self.model, Batch(*batch))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    def train(updates: int) -> None:
        off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(accelerator="cpu", max_steps=updates, enable_model_summary=False, **off)
        trainer.fit(Module(), Batches(problem, updates))

    return train


class Batches(torch.utils.data.IterableDataset):
    """The problem's batches, for trainers that want a data set."""

    def __init__(self, problem: Problem, count: int) -> None:
        self.problem, self.count = problem, count

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return (tuple(batch) for batch in self.problem.batches(self.count))

    def __len__(self) -> int:
        return self.count


def transformers(problem: Problem) -> Contender:
    """Hugging Face's Trainer, bare."""
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.utils import logging as talk

    talk.set_verbosity_error()

    class Loss(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": problem.task.loss(self.model, Batch(inputs, labels))}

    class Named(torch.utils.data.IterableDataset):
        def __init__(self, updates: int) -> None:
            self.updates = updates

        def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
            return ({"inputs": batch.inputs, "labels": batch.targets} for batch in problem.batches(self.updates))

    def train(updates: int) -> None:
        model, optimizer = problem.fresh()
        unfused(optimizer)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, max_steps=updates, per_device_train_batch_size=1, use_cpu=True, save_strategy="no",
                logging_strategy="no", report_to=[], disable_tqdm=True, max_grad_norm=0.0, dataloader_pin_memory=False,
                accelerator_config={"dispatch_batches": False},
            )  # fmt: skip
            constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
            trainer = Trainer(
                Loss(model), arguments, data_collator=lambda samples: samples[0], train_dataset=Named(updates),
                optimizers=(optimizer, constant),
            )  # fmt: skip
            trainer.remove_callback(PrinterCallback)
            trainer.train()

    return train


def budgeted(problem: Problem) -> Contender:
    """`budgeted train` at its defaults; what it chose is noted."""

    def train(updates: int) -> None:
        spec = Spec(problem.name, f"{updates} steps", "linear", evaluations=1, refresh=False)
        with tempfile.TemporaryDirectory() as out:
            folder = RunFolder.create(Path(out), spec)
            for _ in fit(load(problem.name), spec, folder, root=problem.root, device="cpu"):
                pass
            found = folder.read("environment")
            problem.choice = f"{found['precision']}, {found['threads']} threads"

    return train


class Stopwatch:
    """The moments of all optimizer steps in this process, whoever makes them."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        register_optimizer_step_post_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.moments.append(time.perf_counter())

    def seconds(self, contender: Contender, updates: int) -> float:
        """Of one update."""
        self.moments.clear()
        contender(updates + WARM_UP)
        if len(self.moments) != updates + WARM_UP:
            raise RuntimeError(f"{len(self.moments)} updates were made, and {updates + WARM_UP} were asked for")
        return (self.moments[-1] - self.moments[WARM_UP - 1]) / updates


def product_rate(size: int = 1024, trials: int = 5) -> float:
    """FLOP/s of a float32 matrix product: the best of some."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(trials):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


CONTENDERS: dict[str, Callable[[Problem], Contender]] = {
    "naive loop": naive,
    "plain loop": plain,
    "tuned loop": tuned,
    "compiled loop": partial(tuned, compiled=True),
    "Lightning Trainer": lightning,
    "transformers Trainer": transformers,
    "budgeted train": budgeted,
}
PACKAGE_OF = dict.fromkeys(CONTENDERS, "torch") | {
    "naive loop": "torchvision",
    "Lightning Trainer": "lightning",
    "transformers Trainer": "transformers",
}


def main() -> None:
    """Interleave rounds of a few updates each, and print samples a second and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="cifar10-narrow", choices=["cifar10", "cifar10-narrow", "stdlib-lm"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help="that are counted in a round")
    parser.add_argument("--only", help="contenders by name, separated by commas")
    parser.add_argument("--neighbour", action="store_true", help="another process spins meanwhile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the ratios")
    given = parser.parse_args()
    images = given.task.startswith("cifar10")
    names = chosen(parser, given.only, [name for name in CONTENDERS if images or name != "naive loop"])
    if given.only is None:
        names.remove("compiled loop")
    if images and "BUDGETED_DATA" not in os.environ:
        parser.error(f"{given.task} is read from the folder that BUDGETED_DATA names, and it names none")
    warnings.filterwarnings("ignore")
    problem = Problem(given.task, Path(os.environ["BUDGETED_DATA"]) if images else None)
    rivals = {name: CONTENDERS[name](problem) for name in installed(names, PACKAGE_OF)}
    stopwatch, order = Stopwatch(), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    products = []
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if given.neighbour else None
    try:
        for _ in range(given.rounds):
            products.append(product_rate())
            for name in order.sample(list(rivals), len(rivals)):
                seconds[name].append(stopwatch.seconds(rivals[name], given.updates))
    finally:
        if neighbour is not None:
            neighbour.kill()
    flops, size = problem.flops(), problem.data.batch_size
    reference = next(iter(rivals))
    times = {name: ratios(seconds[reference], values) for name, values in seconds.items()}
    rows = []
    for name, values in seconds.items():
        shares = [flops / value / product for value, product in zip(values, products, strict=True)]
        rows.append(
            (
                name,
                spread([size / value for value in values], ".0f"),
                spread(times[name]),
                spread(shares),
            )
        )
    about = circumstances(["torchvision", "lightning", "transformers"])
    headings = ("trainer", "samples/s", f"times the {reference}", "of the float32 product's rate")
    beside = " beside a busy neighbour" if given.neighbour else ""
    show(f"Training {given.task}{beside}; budgeted chose {problem.choice}", headings, rows, about)
    draw(given.plot, f"samples a second, times the {reference}'s", times)
    keep(given.json, about, {"seconds": seconds, "flops": flops, "products": products, "batch": size})


if __name__ == "__main__":
    main()
