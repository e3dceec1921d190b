"""What people do today with so many seconds: the contenders of `deadline.py` and `equal_time.py`.

Each contender is a function of a problem, a budget in seconds and a seed, and gives an `Outcome`. What makes them
comparable:

- All train the task's model from the weights that the seed gives, on the task's batches in the seed's order, drawn and
  augmented in memory in one piece, with the task's batch size. All take its SGD with momentum, its base rate and
  its weight decay; schedule-free ones are another optimizer by their nature, and Keras has its own SGD. Some more are
  `budgeted train` or `attach` with another optimizer: Muon, Nesterov's momentum after a warm-up, the same schedule-free AdamW.
- Each run is a process of its own: `python contenders.py PLAN` prints what came out.
- Seconds count from when training is called until it returns; what a contender probes is in it. Importing the library, reading the
  data and one throw-away update, by which PyTorch loads its own lazy parts, come before it, for all alike.
  `budgeted-train-process` alone counts everything, from before the start of a process until after its end.
- The final model is evaluated after that. What a contender evaluates by itself, at its defaults, is counted:
  budgeted train, fastai and Keras do.
- Trouble comes in the model's own forward pass, where no contender can avoid it, or from processes beside it.

Where a horizon has to be guessed, it is guessed as a careful person does it: the contender's own trainer trains a throw-away
model for a twentieth of the budget and for 5 updates at least, the first two are left out as slower than the
rest, and what is left of the budget but for a start like the probe's, divided by the time of an update, is the horizon.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from side_by_side import keep
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from troubled import SLOWER, Span

from budgeted.core.errors import BudgetedError
from budgeted.tasks import registry
from budgeted.train.data import Batch, Images

VARIABLE = "BUDGETED_CONTEST"
NEVER: Span = (0.0, 0.0)
SPIN = "import sys, time; time.sleep(float(sys.argv[1])); end = time.monotonic() + float(sys.argv[2])\nwhile time.monotonic() < end: pass"

PROBE_SHARE, PROBE_UPDATES, SLOW_FIRST = 0.05, 5, 2  # the length of a probe, and the updates that it leaves out
LAST_OF_EPOCHS = 0.01  # of the base rate, at which Ultralytics' schedule ends
PATIENCE = 10  # epochs without a better loss, after which Keras' EarlyStopping stops
WARM_UP = 20  # updates of a schedule-free optimizer
# What helps at few updates, for `budgeted train --schedule` and `--optimizer`: the task's SGD, with Nesterov's momentum.
WARMED_UP = "warmup(10%, linear)"
NESTEROV = "sgd(lr=0.1, momentum=0.9, weight_decay=0.0005, nesterov=true)"
# As schedule-free-adamw is made here, for `budgeted train --optimizer`.
ADAMW_RATE = 0.01
SCHEDULE_FREE = f"schedule-free-adamw(lr={ADAMW_RATE}, weight_decay=0.0005, warmup_steps={WARM_UP})"
REFRESH = 50  # batches that refresh batch norm's statistics, as the README of schedulefree has it


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in one run, as shares of the budget from when training is called."""

    stall: Span = NEVER  # when a forward pass stands still
    slow: Span = NEVER  # when updates take three times as long
    busy: Span = NEVER  # when each core has another process that takes all it gets


class Plan(NamedTuple):
    """One run. `kind` is what the trouble is called."""

    contender: str
    task: str
    seconds: float
    seed: int
    kind: str = "quiet"
    trouble: dict[str, Span] = {}  # noqa: RUF012 - never changed


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    seconds: float  # from the call of training until its return
    factor: float  # rate of the last update / base
    accuracy: float  # of the final model
    updates: int


class Disturbance:
    """Brings trouble about, from the moment on that it is started."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.began, self.seconds = time.monotonic(), math.inf
        self.last: float | None = None  # training pass
        self.intervals: deque[float] = deque(maxlen=101)
        self.typical: float | None = None  # interval of two updates before they became slow
        self.neighbours: list[subprocess.Popen[bytes]] = []

    def start(self, seconds: float) -> None:
        self.began, self.seconds = time.monotonic(), seconds
        begin, end = (seconds * share for share in self.trouble.busy)
        if end > begin:
            command = [sys.executable, "-S", "-c", SPIN, str(begin), str(end - begin)]
            # One on each core: whether one alone is felt depends on the number of threads.
            self.neighbours = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]

    def stop(self) -> None:
        for neighbour in self.neighbours:
            neighbour.kill()
            neighbour.wait()

    def upon(self, model: nn.Module) -> nn.Module:
        """The model, of which each forward pass may run into trouble."""

        def before(module: nn.Module, inputs: Any) -> None:  # a plain function: copies of the model share it
            self.stand_still()
            if module.training:
                self.slow_down()

        model.register_forward_pre_hook(before)
        return model

    def share(self) -> float:
        return (time.monotonic() - self.began) / self.seconds

    def stand_still(self) -> None:
        begin, end = self.trouble.stall
        if begin <= (now := self.share()) < end:
            time.sleep((end - now) * self.seconds)

    def slow_down(self) -> None:
        begin, end = self.trouble.slow
        if begin <= self.share() < end and self.intervals:
            self.typical = self.typical or statistics.median(self.intervals)
            time.sleep((SLOWER - 1) * self.typical)
            return
        now = time.monotonic()
        if self.last is not None:
            self.intervals.append(now - self.last)
        self.last = now


class Problem:
    """A task whose data is read, whose model runs into trouble, and what any loop needs of it."""

    def __init__(self, name: str, seed: int, trouble: Trouble) -> None:
        root = os.environ.get("BUDGETED_DATA")
        self.name, self.seed = name, seed
        self.task = registry.load(name)
        self.data = self.task.data(Path(root) if root else None, torch.device("cpu"))
        self.rate, self.momentum, self.weight_decay = self.task.rate, self.task.momentum, self.task.weight_decay
        self.update(model := self.model(), self.task.optimizer(model), next(self.batches()))
        self.disturbance = Disturbance(trouble)
        make = self.task.model
        self.task.data = lambda *_: self.data
        self.task.model = lambda: self.disturbance.upon(make())

    def model(self) -> nn.Module:
        """With the seed's weights, in the memory format that the images come in."""
        torch.manual_seed(self.seed)
        return self.task.model().to(memory_format=torch.channels_last)

    def batches(self) -> Iterator[Batch]:
        """Epoch after epoch."""
        return itertools.chain.from_iterable(self.data.train.epoch(self.seed, epoch) for epoch in itertools.count())

    def update(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
        self.task.loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    def loader(self, form: Callable[[Batch], Any] = tuple) -> DataLoader:
        """A new epoch each time it is iterated over, in whole batches."""
        return DataLoader(Epochs(self.data.train, self.seed, form), batch_size=None)

    def validation(self) -> DataLoader:
        return DataLoader([tuple(batch) for batch in self.data.validation.in_order()], batch_size=None)

    def accuracy(self, model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            return self.task.evaluate(model, self.data.validation)["accuracy"]

    def start(self, seconds: float) -> Watch:
        """Training is called now."""
        self.disturbance.start(seconds)
        return Watch(self, seconds)


class Epochs(IterableDataset):
    """Batches for the loaders of PyTorch, which a trainer asks for an epoch at a time."""

    def __init__(self, images: Images, seed: int, form: Callable[[Batch], Any]) -> None:
        self.images, self.seed, self.form = images, seed, form
        self.epochs = itertools.count()

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Any]:
        return map(self.form, self.images.epoch(self.seed, next(self.epochs)))


class Watch:
    """The time since training was called, and what the optimizer that is being looked at has done."""

    def __init__(self, problem: Problem, seconds: float) -> None:
        self.problem, self.seconds = problem, seconds
        self.began = time.monotonic()
        self.looked_at = self.began
        self.moments: list[float] = []
        self.factor = 1.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The task's, looked at from its first update on."""
        return self.look_at(self.problem.task.optimizer(model))

    def look_at(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        base = optimizer.param_groups[0]["lr"]

        def updated(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self.updated(optimizer.param_groups[0]["lr"] / base)

        self.looked_at, self.moments, self.factor = time.monotonic(), [], 1.0
        optimizer.register_step_post_hook(updated)  # the first: any other may set the next update's rate
        return optimizer

    def updated(self, factor: float) -> None:
        self.moments.append(time.monotonic())
        self.factor = factor

    @property
    def probed(self) -> bool:
        """Whether a probe has lasted long enough."""
        return len(self.moments) >= PROBE_UPDATES and self.elapsed >= PROBE_SHARE * self.seconds

    @property
    def update_seconds(self) -> float:
        """What an update took in the probe, once it had got going."""
        rest = self.moments[SLOW_FIRST:]
        return (rest[-1] - rest[0]) / (len(rest) - 1)

    def guessed(self) -> int:
        """How many updates fit into what is left, at the speed that the probe had, and with a start like its own."""
        left = self.seconds - self.elapsed - (self.moments[0] - self.looked_at)
        return max(1, int(left / self.update_seconds))

    def outcome(self, model: nn.Module) -> Outcome:
        """Training has returned now."""
        seconds = self.elapsed
        return Outcome(seconds, self.factor, self.problem.accuracy(model), len(self.moments))


# The contenders. Each imports its library first, then starts the watch.


def budgeted_train(
    problem: Problem, seconds: float, seed: int, schedule: str = "linear", optimizer: str | None = None
) -> Outcome:
    """`budgeted train` at its defaults, called as the command calls it, but for the seconds: they count from the call."""
    from budgeted.core.record import RunFolder, Spec
    from budgeted.report.curve import draw_curve
    from budgeted.report.live import live
    from budgeted.train.loop import fit

    with tempfile.TemporaryDirectory() as out:
        watch = problem.start(seconds)
        spec = Spec(problem.name, f"{seconds:g}s", schedule, seed, optimizer=optimizer)
        folder = RunFolder.create(Path(out), spec)
        rows = fit(problem.task, spec, folder, device="cpu", picture=draw_curve)
        result = live(rows, spec, problem.task.metric, shown=False)
        wall = watch.elapsed
    return _of_result(result, wall)


def budgeted_train_process(problem: Problem, seconds: float, seed: int) -> Outcome:
    """The command itself: imports and data are in its seconds, and the time is taken outside of it."""
    trouble = asdict(problem.disturbance.trouble)
    command = [sys.executable, "-m", "budgeted.cli.main", "train", f"{__file__}:Disturbed", "--budget", f"{seconds:g}s"]
    with tempfile.TemporaryDirectory() as out:
        watch = problem.start(seconds)
        given = {"task": problem.name, "began": watch.began, "seconds": seconds, "trouble": trouble}
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), VARIABLE: json.dumps(given)}
        options = ["--seed", str(seed), "--device", "cpu", "--out", out, "--json"]
        ended = subprocess.run([*command, *options], env=environment, capture_output=True, text=True)
        wall = watch.elapsed
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip())
    return _of_result(json.loads(ended.stdout), wall)


def _of_result(result: dict[str, Any], wall: float) -> Outcome:
    return Outcome(wall, result["last_factor"], result["metric"]["final"], result["spent"]["steps"])


class Disturbed:
    """The task of `budgeted_train_process`; neighbours have been started by whoever started it."""

    def __init__(self) -> None:
        given = json.loads(os.environ[VARIABLE])
        self.task = registry.load(given["task"])
        self.disturbance = Disturbance(Trouble(**given["trouble"]))
        self.disturbance.began, self.disturbance.seconds = given["began"], given["seconds"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def model(self) -> nn.Module:
        return self.disturbance.upon(self.task.model())


def budgeted_attach(problem: Problem, seconds: float, seed: int, muon: bool = False) -> Outcome:
    """A plain loop with `budgeted.attach`."""
    import budgeted

    watch = problem.start(seconds)
    model = problem.model()
    optimizer = watch.look_at(budgeted.Muon(model)) if muon else watch.optimizer(model)
    run = budgeted.attach(optimizer, f"{seconds:g}s")
    for batch in run.over(problem.batches()):
        problem.update(model, optimizer, batch)
    return watch.outcome(model)


def elapsed_share(problem: Problem, seconds: float, seed: int) -> Outcome:
    """A plain loop whose rate falls in a straight line over elapsed / budget, the clock being read before each update."""
    watch = problem.start(seconds)
    optimizer = watch.optimizer(model := problem.model())
    for batch in problem.batches():
        if (progress := watch.elapsed / seconds) >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = problem.rate * (1 - progress)
        problem.update(model, optimizer, batch)
    return watch.outcome(model)


def estimated_epochs(problem: Problem, seconds: float, seed: int) -> Outcome:
    """As the `time=` of Ultralytics: each epoch says anew how many there will be, the rate is set once an epoch, falls
    in a straight line to a hundredth, and the clock stops training within an epoch. Its warm-up is left out.
    """
    watch = problem.start(seconds)
    optimizer = watch.optimizer(model := problem.model())
    epochs = 100  # its default, until one has been timed
    for epoch in itertools.count():
        factor = max(1 - epoch / epochs, 0) * (1 - LAST_OF_EPOCHS) + LAST_OF_EPOCHS
        optimizer.param_groups[0]["lr"] = problem.rate * factor
        for batch in problem.data.train.epoch(seed, epoch):
            problem.update(model, optimizer, batch)
            if watch.elapsed > seconds:
                return watch.outcome(model)
        epochs = math.ceil(seconds / (watch.elapsed / (epoch + 1)))
        if epoch + 1 >= epochs:
            return watch.outcome(model)
    raise AssertionError


def lightning_trainer(problem: Problem, seconds: float, seed: int, schedule: str) -> Outcome:
    """Lightning's Trainer with `max_time` for what is left after the probe, and a schedule that is stepped at each update
    over the guessed horizon. It stops there too: a cosine would rise again. Nothing is logged, saved or validated.
    """
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, horizon: int) -> None:
            super().__init__()
            self.net, self.horizon = problem.model(), horizon

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return problem.task.loss(self.net, Batch(*batch))

        def configure_optimizers(self) -> Any:
            optimizer = watch.optimizer(self.net)
            scheduler = _scheduler(schedule, optimizer, self.horizon)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Probe(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = watch.probed

    silent = ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary")
    trainer = partial(lightning.Trainer, accelerator="cpu", max_epochs=-1, **dict.fromkeys(silent, False))
    watch = problem.start(seconds)
    trainer(callbacks=[Probe()]).fit(Module(10**9), problem.loader())
    horizon = watch.guessed()
    module = Module(horizon)
    left = timedelta(seconds=max(0.0, seconds - watch.elapsed))
    trainer(max_time=left, max_steps=horizon).fit(module, problem.loader())
    return watch.outcome(module.net)


def _scheduler(name: str, optimizer: torch.optim.Optimizer, horizon: int) -> Any:
    if name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, horizon)
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, horizon)


def transformers_trainer(problem: Problem, seconds: float, seed: int) -> Outcome:
    """The Trainer of transformers with the guessed number of updates as `max_steps`, and its default schedule, which is linear.
    Gradients are not clipped, as nobody else's are. Nothing is logged, saved or evaluated.
    """
    import transformers

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> DataLoader:
            return problem.loader(Batch._asdict)

        def compute_loss(self, model: nn.Module, inputs: Any, *_: Any, **options: Any) -> torch.Tensor:
            return problem.task.loss(model, Batch(**inputs))

    class Probe(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = watch.probed

    def train(out: str, steps: int, callbacks: Sequence[Any] = ()) -> nn.Module:
        given = transformers.TrainingArguments(
            out, max_steps=steps, seed=seed, max_grad_norm=0.0, use_cpu=True, report_to="none", disable_tqdm=True,
            save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        optimizer = watch.optimizer(model := problem.model())
        Trainer(model, given, optimizers=(optimizer, None), callbacks=list(callbacks)).train()
        return model

    with tempfile.TemporaryDirectory() as out:
        watch = problem.start(seconds)
        train(out, 10**6, [Probe()])
        return watch.outcome(train(out, watch.guessed()))


def fastai_one_cycle(problem: Problem, seconds: float, seed: int) -> Outcome:
    """The `fit_one_cycle` of fastai up to the base rate, with as many epochs as fit after the probe, and at least one. It evaluates
    after each epoch, as it does by itself; the probe times one evaluation for that.
    """
    from fastai.callback.core import Callback, CancelFitException
    from fastai.callback.schedule import Learner  # this module adds fit_one_cycle to it
    from fastai.data.core import DataLoaders
    from fastai.optimizer import OptimWrapper

    class Probe(Callback):
        def after_batch(self) -> None:
            if watch.probed:
                raise CancelFitException

    def learner() -> Learner:
        model = problem.model()
        optimizer = OptimWrapper(opt=watch.optimizer(model))
        loaders = DataLoaders(problem.loader(), problem.validation())
        return Learner(loaders, model, nn.functional.cross_entropy, opt_func=lambda *_, **__: optimizer)

    watch = problem.start(seconds)
    probe = learner()
    with probe.no_bar(), probe.no_logging():
        probe.fit_one_cycle(10**6, problem.rate, cbs=Probe())
        began = time.monotonic()
        probe.validate()
    epoch = len(problem.data.train) * watch.update_seconds + time.monotonic() - began
    real = learner()
    with real.no_bar(), real.no_logging():
        real.fit_one_cycle(max(1, int((seconds - watch.elapsed) / epoch)), problem.rate)
    return watch.outcome(real.model)


def keras_early_stopping(problem: Problem, seconds: float, seed: int) -> Outcome:
    """Keras' `fit` at a constant rate, on PyTorch: EarlyStopping on the validation loss, with a patience of ten epochs, and a
    callback that stops at the end of the time. The best model is the final one, as with `restore_best_weights`, which by
    itself would leave a wrapped module's batch norm statistics where they are. So its accuracy is that of a model that
    was chosen by the very images that it is taken on.
    """
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    class Timed(keras.callbacks.Callback):
        best, weights = math.inf, None

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            watch.updated(1.0)
            self.model.stop_training |= watch.elapsed >= seconds

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            if logs["val_loss"] < self.best:
                self.best, self.weights = logs["val_loss"], copy.deepcopy(module.state_dict())

        def on_train_end(self, logs: Any = None) -> None:
            module.load_state_dict(self.weights or module.state_dict())

    watch = problem.start(seconds)
    module = problem.model()
    model = keras.Sequential([keras.layers.TorchModuleWrapper(module)])
    optimizer = keras.optimizers.SGD(problem.rate, problem.momentum, weight_decay=problem.weight_decay)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callbacks = [Timed(), keras.callbacks.EarlyStopping(patience=PATIENCE)]
    model.fit(problem.loader(), epochs=10**6, verbose=0, validation_data=problem.validation(), callbacks=callbacks)
    return watch.outcome(module)


def schedule_free(problem: Problem, seconds: float, seed: int, kind: str) -> Outcome:
    """A plain loop with a schedule-free optimizer, stopped by the clock.

    Refreshing batch norm belongs to evaluation, as the README has it, and is not counted. Rates are the best of a few within
    what the README advises, after 120 and 350 updates of fashion-mnist with one seed: SGD at 1 and 3 (ten times
    the base rate, and thirty), AdamW at 0.0025 and 0.01. Both warm up, as it recommends.
    """
    import schedulefree

    watch = problem.start(seconds)
    model = problem.model()
    optimizer = watch.look_at(_schedule_free(schedulefree, kind, problem, model))
    optimizer.train()
    for batch in problem.batches():
        problem.update(model, optimizer, batch)
        if watch.elapsed >= seconds:
            break
    outcome = watch.outcome(model)
    optimizer.eval()
    model.train()
    with torch.no_grad():
        for batch in itertools.islice(problem.batches(), REFRESH):
            model(batch.inputs)
    return Outcome(outcome.seconds, outcome.factor, problem.accuracy(model), outcome.updates)


def _schedule_free(library: Any, kind: str, problem: Problem, model: nn.Module) -> torch.optim.Optimizer:
    shared = {"weight_decay": problem.weight_decay, "warmup_steps": WARM_UP}
    if kind == "sgd":
        return library.SGDScheduleFree(model.parameters(), 10 * problem.rate, problem.momentum, **shared)
    return library.AdamWScheduleFree(model.parameters(), ADAMW_RATE, **shared)


Contender = Callable[[Problem, float, int], Outcome]
# By name, with the package that is not among this project's own.
CONTENDERS: dict[str, tuple[Contender, str]] = {
    "budgeted-train": (budgeted_train, "budgeted"),
    "budgeted-train-process": (budgeted_train_process, "budgeted"),
    "budgeted-train-muon": (partial(budgeted_train, optimizer="muon"), "budgeted"),
    "budgeted-train-nesterov": (partial(budgeted_train, schedule=WARMED_UP, optimizer=NESTEROV), "budgeted"),
    "budgeted-train-schedule-free": (
        partial(budgeted_train, schedule="const", optimizer=SCHEDULE_FREE),
        "schedulefree",
    ),
    "budgeted-attach": (budgeted_attach, "budgeted"),
    "budgeted-attach-muon": (partial(budgeted_attach, muon=True), "budgeted"),
    "elapsed-share": (elapsed_share, "torch"),
    "estimated-epochs": (estimated_epochs, "torch"),
    "lightning-linear": (partial(lightning_trainer, schedule="linear"), "lightning"),
    "lightning-cosine": (partial(lightning_trainer, schedule="cosine"), "lightning"),
    "transformers-linear": (transformers_trainer, "transformers"),
    "fastai-one-cycle": (fastai_one_cycle, "fastai"),
    "keras-early-stopping": (keras_early_stopping, "keras"),
    "schedule-free-sgd": (partial(schedule_free, kind="sgd"), "schedulefree"),
    "schedule-free-adamw": (partial(schedule_free, kind="adamw"), "schedulefree"),
}
PACKAGE_OF = {name: package for name, (_, package) in CONTENDERS.items()}
PACKAGES = ("lightning", "transformers", "fastai", "keras", "schedulefree")


# Runs in processes of their own


def classification(name: str) -> str:
    """A task's name as an argument of a command; its metric has to be accuracy."""
    try:
        task = registry.load(name)
    except BudgetedError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if task.metric != "accuracy":
        raise argparse.ArgumentTypeError(
            f"task '{name}' is judged by {task.metric}; name one that is judged by accuracy"
        )
    return name


def trained(plan: Plan) -> dict[str, Any]:
    """The row of a run: its plan, and what came out or what it said when it failed."""
    command = [sys.executable, __file__, json.dumps(plan._asdict())]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        return {**plan._asdict(), "failed": ended.stderr.strip()[-2000:]}
    return {**plan._asdict(), "outcome": json.loads(ended.stdout.splitlines()[-1])}


def collect(plans: Sequence[Plan], path: Path | None, about: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of all of these runs, in their order. Those in the file are taken from there, but for failed ones; it is written after each."""
    kept = json.loads(path.read_text(encoding="utf-8"))["results"] if path is not None and path.exists() else []
    rows = {_key(row): row for row in kept}
    done = {key for key, row in rows.items() if "failed" not in row}
    missing = [plan for plan in plans if _key(plan._asdict()) not in done]
    for plan in track(missing, "training", console=Console(stderr=True), transient=True):
        rows[_key(plan._asdict())] = trained(plan)
        keep(path, about, list(rows.values()))
    found = [rows[_key(plan._asdict())] for plan in plans]
    for row in found:
        if "failed" in row:
            print(f"failed: {_key(row)}: {row['failed'].rpartition(chr(10))[2]}", file=sys.stderr)
    return [row for row in found if "failed" not in row]


def _key(row: dict[str, Any]) -> str:
    return json.dumps({name: row[name] for name in Plan._fields})


def main() -> None:
    """Make one run, whose plan is given as JSON, and print its outcome as the last line."""
    warnings.simplefilter("ignore")
    plan = Plan(**json.loads(sys.argv[1]))
    problem = Problem(plan.task, plan.seed, Trouble(**plan.trouble))
    try:
        outcome = CONTENDERS[plan.contender][0](problem, plan.seconds, plan.seed)
    finally:
        problem.disturbance.stop()
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
