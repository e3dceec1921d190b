"""What a loop or a trainer adds to a training update, measured on a network so small that the update itself costs little.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py
    OMP_NUM_THREADS=1 python benchmarks/overhead.py --rounds 200 --updates 100 --json overhead.json
    OMP_NUM_THREADS=1 python benchmarks/overhead.py --only "attach: time,Lightning Trainer"

All train the same MLP (64-128-10) from the same weights, on the same batches of 64 from memory, in the same order, by SGD with
momentum at the same rate: plain loop, Fabric, accelerate and the trainers must come to the same loss, which is shown; a
falling rate ends elsewhere. Everybody draws through PyTorch's DataLoader, whose cost is in all figures alike. Gradients are not
clipped, and logging, checkpoints, progress bars and evaluations are turned off, so what remains is what a trainer cannot do without.
`budgeted train` has its record on: rows, a trace of every update, an ear for other terminals. Its precision is given. It
measures the gradient's norm at each of the first 512 updates and less and less often later, so few --updates show it at its dearest.

The batches note the clock as they are drawn: when the first that counts is, and when so many more have been. So set-up, the first
updates and the end count for nobody, and looking costs everybody the same. A trainer that draws ahead does so at both moments.
One process with one thread has all of them, in rounds that each have an order of their own, after a round that is not counted.
The clock is the process's own processor time, in which the turns of other processes do not count; nobody waits for a disk
meanwhile. Ratios are of the same round; shown is their median, with the least and the greatest, or the quartiles of more than
ten rounds.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from side_by_side import chosen, circumstances, draw, keep, ratios, show, spread
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

import budgeted

RATE, MOMENTUM = 0.01, 0.9
WARM_UP = 20  # updates of each round that are not counted
AHEAD = 2  # batches after those that count, for trainers that draw before they update
ENDLESS = 10**9  # updates in a budget that no benchmark ends
LONG = 100_000  # updates in the budget of `budgeted train`, which spreads its log over them
PACKAGES = ("lightning", "accelerate", "transformers", "keras")
Model = Callable[[Tensor], Tensor]


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Batches in memory, of classes that a linear map can tell apart; notes when those that count begin and end."""

    def __init__(self, updates: int) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(50, 64, 64, generator=generator)
        targets = (inputs @ torch.randn(64, 10, generator=generator)).argmax(2)
        self.made = list(zip(inputs, targets, strict=True))
        self.first, self.last = WARM_UP, WARM_UP + updates
        self.began = self.ended = math.nan

    def __len__(self) -> int:
        return self.last + AHEAD

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if number == self.first:
            self.began = time.process_time()
        elif number == self.last:
            self.ended = time.process_time()
        return self.made[number % len(self.made)]

    def loader(self, form: Callable[..., Any] = lambda *batch: batch) -> DataLoader[Any]:
        """One epoch of them; each is a sample of the data set, so that nothing is left to collate."""
        return DataLoader(self, batch_size=1, collate_fn=lambda samples: form(*samples[0]))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)


def update(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
    cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    optimizer.zero_grad()


# The contenders. Each trains a fresh model on the batches, and returns it.


def plain(batches: Batches) -> Model:
    optimizer = sgd(model := network())
    for inputs, targets in batches.loader():
        update(model, optimizer, inputs, targets)
    return model


def lambda_lr(batches: Batches) -> Model:
    optimizer = sgd(model := network())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / ENDLESS)
    for inputs, targets in batches.loader():
        update(model, optimizer, inputs, targets)
        scheduler.step()
    return model


def attached(budget: str) -> Callable[[Batches], Model]:
    """The plain loop made budgeted, as docs/drop-in.md has it."""

    def train(batches: Batches) -> Model:
        optimizer = sgd(model := network())
        run = budgeted.attach(optimizer, budget)
        for inputs, targets in run.over(batches.loader()):
            update(model, optimizer, inputs, targets)
        return model

    return train


def fabric(batches: Batches) -> Model:
    """Lightning's Fabric."""
    from lightning.fabric import Fabric

    logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
    fabric = Fabric(accelerator="cpu", devices=1)
    model = network()
    wrapped, optimizer = fabric.setup(model, sgd(model))
    for inputs, targets in fabric.setup_dataloaders(batches.loader()):
        fabric.backward(cross_entropy(wrapped(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    return model


def accelerate(batches: Batches) -> Model:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    wrapped, optimizer, loader = accelerator.prepare(model, sgd(model), batches.loader())
    for inputs, targets in loader:
        accelerator.backward(cross_entropy(wrapped(inputs), targets))
        optimizer.step()
        optimizer.zero_grad()
    return model


def lightning(batches: Batches) -> Model:
    from lightning.pytorch import LightningModule, Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, number: int) -> Tensor:
            inputs, targets = batch
            return cross_entropy(self.network(inputs), targets)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    silent = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    module = Module()
    Trainer(accelerator="cpu", devices=1, max_epochs=1, **dict.fromkeys(silent, False)).fit(module, batches.loader())
    return module.network


def transformers(batches: Batches) -> Model:
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.utils import logging as talk

    talk.set_verbosity_error()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": cross_entropy(self.network(inputs), labels)}

    class InOrder(Trainer):
        def get_train_dataloader(self) -> Any:
            """The shared batches, prepared as the Trainer's own are; those it would shuffle."""
            return self.accelerator.prepare(batches.loader(lambda inputs, labels: {"inputs": inputs, "labels": labels}))

    model = Wrapped()
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=len(batches), use_cpu=True, lr_scheduler_type="constant", max_grad_norm=0.0, report_to="none",
            logging_strategy="no", logging_nan_inf_filter=False, save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = InOrder(model, arguments, optimizers=(sgd(model), None))
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.network


def keras(batches: Batches) -> Model:
    """Keras' own layers and its own SGD, on PyTorch, from the weights that the others have."""
    import keras

    if keras.backend.backend() != "torch":
        raise RuntimeError(f"Keras runs on {keras.backend.backend()}, and is compared on torch")
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(10)])
    model.set_weights([weights.detach().numpy().T for weights in network().parameters()])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, MOMENTUM), loss)
    model.fit(batches.loader(), verbose=0)
    return model


class Enough(Exception):
    """All batches are drawn, and `budgeted train` need not come to its end."""


class Own(budgeted.Task):
    """What the others train as a task of a user's own, as in examples/own_task.py; also its training data."""

    name, summary, full_budget = "mlp", "an MLP on batches in memory", "30ep"

    def __init__(self, batches: Batches) -> None:
        self.batches, self.trained = batches, network()

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Any]:
        from budgeted.train.data import Batch

        yield from self.batches.loader(Batch)
        raise Enough

    def data(self, root: Path | None, device: torch.device) -> Any:
        from budgeted.train.task import Data

        return Data(self, None)

    def model(self) -> nn.Module:
        return self.trained

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return sgd(model)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        return cross_entropy(model(batch.inputs), batch.targets)

    def evaluate(self, model: nn.Module, data: Any) -> dict[str, float]:
        raise NotImplementedError("the run is left before its only evaluation")


def budgeted_train(batches: Batches) -> Model:
    """The loop of the command `budgeted train`, under --no-curve and with its only evaluation at the end."""
    from budgeted.core.record import RunFolder, Spec

    task = Own(batches)
    spec = Spec("mlp", f"{LONG} steps", "linear", precision="float32", evaluations=1)
    with tempfile.TemporaryDirectory() as out:
        try:
            for _ in budgeted.fit(task, spec, RunFolder.create(Path(out), spec), device="cpu"):
                pass
        except Enough:
            return task.trained
    raise RuntimeError(f"a run of {LONG} updates is over before {len(batches)} batches are drawn; ask for fewer")


CONTENDERS: dict[str, Callable[[Batches], Model]] = {
    "plain loop": plain,
    "LambdaLR": lambda_lr,
    "attach: steps": attached(f"{ENDLESS} steps"),
    "attach: time": attached("1000h"),
    "budgeted train": budgeted_train,
    "Fabric": fabric,
    "accelerate": accelerate,
    "Lightning Trainer": lightning,
    "transformers Trainer": transformers,
    "Keras": keras,
}
REFERENCE = "plain loop"


def loss_of(model: Model, batches: Batches) -> float:
    """The mean over all batches."""
    with torch.no_grad():
        return sum(cross_entropy(model(inputs), targets).item() for inputs, targets in batches.made) / len(batches.made)


def trained(names: Sequence[str], updates: int) -> dict[str, float]:
    """The round that is not counted: the losses of those whose packages are there, and that do learn."""
    found = {}
    batches = Batches(updates)
    before = loss_of(network(), batches)
    for name in names:
        try:
            found[name] = loss_of(CONTENDERS[name](batches), batches)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        if not found[name] < before:  # nor is NaN
            raise RuntimeError(f"{name} has not learned: its loss was {before:.3f} and is {found[name]:.3f}")
    return found


def measure(names: Sequence[str], rounds: int, updates: int) -> dict[str, list[float]]:
    """Seconds of an update, by contender and round."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    gc.collect()
    gc.freeze()  # or each would pay for walking through what the others have imported
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            gc.collect()  # what the one before has left
            CONTENDERS[name](batches := Batches(updates))
            seconds[name].append((batches.ended - batches.began) / updates)
    return seconds


def main() -> None:
    """Interleave rounds of a few updates each, and print what an update costs with whom."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--updates", type=int, default=200, help="that are counted in a round of each")
    parser.add_argument("--only", metavar="NAME,...", help=f"some contenders: {', '.join(CONTENDERS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the ratios")
    given = parser.parse_args()
    names = chosen(parser, given.only, CONTENDERS, REFERENCE)
    os.environ["KERAS_BACKEND"] = "torch"  # read when it is imported, by whomever
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # of few workers for the data, mostly

    losses = trained(names, given.updates)
    seconds = measure(list(losses), given.rounds, given.updates)
    times = {name: ratios(values, seconds[REFERENCE]) for name, values in seconds.items()}
    rows = [
        (
            name,
            spread([1e6 * value for value in values], ".0f"),
            spread(times[name], ".3f"),
            f"{losses[name]:.4f}",
        )
        for name, values in seconds.items()
    ]
    about = circumstances(PACKAGES)
    title = f"An update of an MLP: {given.rounds} rounds of {given.updates}, one thread"
    show(title, ("who trains", "µs an update", f"times the {REFERENCE}", "loss in the end"), rows, about)
    draw(given.plot, f"processor time of an update, times the {REFERENCE}'s", times)
    keep(given.json, about, {"updates": given.updates, "seconds": seconds, "losses": losses})


if __name__ == "__main__":
    main()
