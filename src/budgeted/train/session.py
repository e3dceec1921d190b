"""A run under way: the model, its optimizer, its budget, its folder, and the steps that the loop takes with them."""

from __future__ import annotations

import importlib.metadata
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.budget import Budget
from ..core.errors import RunFolderError, ScheduleError, TaskError
from ..core.record import ROW, RunFolder, Spec, machine
from ..core.schedule import Plateau
from . import checkpoint
from .attach import Run, attach
from .data import Batch
from .evaluation import Evaluations, has_batch_norm, with_fresh_statistics
from .losses import Losses
from .precision import Choice, Precision, fastest, named
from .task import Data, Task

Row = dict[str, Any]
Result = dict[str, Any]

_LOGGED_ROWS = 500  # over the whole budget
_LIVE_SECONDS = 0.2  # between rows that are only shown
_SAVE_SECONDS = 300.0  # without a checkpoint at most
_EXTRA_SHARE = 0.1  # of the seconds left that refreshing and drawing at the end may each take
_REFRESH_BATCHES = 16  # that batch norm's statistics are taken from at the end


@dataclass(slots=True)
class Best:
    """The best value of the metric so far, and where it was."""

    value: float | None = None
    steps: int = 0
    progress: float = 0.0


@dataclass(slots=True)
class Session:
    """What the loop works with."""

    task: Task
    spec: Spec
    folder: RunFolder
    data: Data
    model: nn.Module
    optimizer: torch.optim.Optimizer
    run: Run
    precision: Precision
    device: torch.device
    evaluations: Evaluations
    picture: Callable[[RunFolder], None] | None
    began: float  # on the monotonic clock
    best: Best = field(default_factory=Best)
    losses: Losses = field(default_factory=Losses)
    left_out: list[str] = field(default_factory=list)  # extras at the end, for want of time
    saved: float = field(default_factory=time.monotonic)
    logged: int = 0
    shown: float = 0.0

    @classmethod
    def start(
        cls,
        task: Task,
        spec: Spec,
        folder: RunFolder,
        root: Path | None,
        device: torch.device,
        began: float,
        reserve: float,
        picture: Callable[[RunFolder], None] | None,
        saved: dict[str, Any] | None,
        change: Budget | None,
    ) -> Session:
        """Data, model, optimizer and budget, as the spec has them, or as a checkpoint left them."""
        torch.manual_seed(spec.seed)
        data, model = task.data(root, device), task.model()
        choice = _choose_precision(task, spec, data, model, device, saved)
        precision = choice.precision
        torch.set_num_threads(choice.threads)
        model = precision.place(model, device)
        optimizer = task.optimizer(model)
        run = attach(
            optimizer,
            change or (saved["run"]["budget"] if saved else spec.budget),
            spec.schedule,
            steps_per_epoch=len(data.train),
            full=task.full_budget,
            anchor=time.monotonic() - began,
            reserve=reserve,
        )
        _require_mode(run.schedule, task)
        evaluations = Evaluations.of(run, len(data.train), spec.evaluations)
        session = cls(task, spec, folder, data, model, optimizer, run, precision, device, evaluations, picture, began)
        if saved is None:
            folder.write("environment", _environment(device, choice))
        else:
            session._restore(saved, change is not None)
            if change is not None:
                folder.write("budget", {"budget": str(change)})
        return session

    # Training

    def batches(self) -> Iterator[Batch]:
        """Batches until the budget ends, from where so many updates have led."""
        epoch, first = divmod(self.run.ledger.steps, len(self.data.train))
        while not self.run.done:
            for batch in self.data.train.epoch(self.spec.seed, epoch, first):
                yield self.precision.prepare(batch)
                if self.run.done:
                    return
            epoch, first = epoch + 1, 0

    def update(self, batch: Batch) -> None:
        """One update: its rate is set and it is counted in the optimizer's hooks."""
        self.model.train()
        self.run.count(samples=len(batch.targets))
        with self.precision.autocast(self.device):
            loss = self.task.loss(self.model, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.losses.add(loss.detach(), self.run.ledger.steps)
        if self.run.ledger.steps == 3:
            self._forecast()

    def _forecast(self) -> None:
        """Before the first evaluation: a forward pass costs about a third of an update."""
        samples, batch_size = getattr(self.data.validation, "samples", 0), getattr(self.data.train, "batch_size", 0)
        seconds = self.run.ledger.update_seconds
        if samples and batch_size and seconds and "evaluation" not in self.run.ledger.activities:
            self.run.ledger.expect("evaluation", seconds / 3 * samples / batch_size)

    # Evaluation

    def evaluate(self) -> Row:
        """An evaluation on the way; the first one also finds out what refreshing, saving and drawing cost at the end."""
        with self.run.measure("evaluation", self.evaluations.to_come(self.run)):
            figures = self._judge(self.model)
        self.run.report(figures[self.task.metric])
        first = self.best.value is None
        if first and self._refreshes():
            with self.run.measure("refresh", 1):
                fresh = self._judge(self._refreshed())
            figures |= {f"{name}_refreshed": value for name, value in fresh.items()}
            self._afford("refresh")
        row = self.row(figures)
        self._keep_best(self.model, figures[self.task.metric])
        self.save()
        if first:
            self._draw(more=1)
            self._afford("picture")
        return row

    def _afford(self, extra: str) -> None:
        """Give up an extra at the end, and what is kept in reserve for it, where it would cost too much of the training."""
        ledger = self.run.ledger
        if ledger.timed and extra in ledger.activities:
            seconds = max(ledger.activities[extra].recent)
            if seconds > _EXTRA_SHARE * (self.run.remaining.get("seconds", 0.0) + seconds):
                ledger.forgo(extra)
                self.left_out.append(extra)

    def finish(self) -> Row:
        """The last evaluation, with batch norm as training left it and refreshed; the better one is the outcome."""
        with self.run.measure("evaluation", 0):
            figures, outcome = self._judge(self.model), self.model
        if self._refreshes() and "refresh" not in self.left_out:
            with self.run.measure("refresh", 0):
                fresh = self._refreshed()
                other = self._judge(fresh)
            figures |= {f"{name}_raw": figures[name] for name in other}
            if self._better(other[self.task.metric], figures[self.task.metric]):
                figures, outcome = figures | other, fresh
        row = self.row(figures)
        self._keep_best(outcome, figures[self.task.metric])
        self.save()
        if "picture" not in self.left_out:
            self._draw(more=0)
        return row

    def _judge(self, model: nn.Module) -> dict[str, float]:
        model.eval()
        with torch.inference_mode(), self.precision.autocast(self.device):
            figures = {name: float(value) for name, value in self.task.evaluate(model, self.data.validation).items()}
        if self.task.metric not in figures:
            raise TaskError(
                f"evaluate() of task '{self.spec.task}' gave {', '.join(figures) or 'nothing'}; its metric is '{self.task.metric}'"
            )
        if taken := sorted(figures.keys() & set(ROW)):
            raise TaskError(
                f"evaluate() of task '{self.spec.task}' gave '{taken[0]}', which every row has already; call it validation_{taken[0]}"
            )
        return {self.task.metric: figures[self.task.metric], **figures}

    def _refreshes(self) -> bool:
        return self.spec.refresh and has_batch_norm(self.model)

    def _refreshed(self) -> nn.Module:
        some = itertools.islice(self.data.train.epoch(self.spec.seed, -1), _REFRESH_BATCHES)
        return with_fresh_statistics(
            self.model, map(self.precision.prepare, some), self.precision.autocast(self.device)
        )

    def _better(self, value: float, than: float) -> bool:
        if math.isnan(than):
            return not math.isnan(value)
        return value > than if self.task.maximize else value < than

    def _keep_best(self, model: nn.Module, value: float) -> None:
        if self.best.value is None or self._better(value, self.best.value):
            self.best = Best(value, self.run.ledger.steps, self.run.progress)
            note = {"task": self.spec.task, self.task.metric: repr(value)}
            with self.run.measure("checkpoint", 2):
                checkpoint.save_weights(self.folder.path / "best.safetensors", model, note)

    # Record

    def row_due(self) -> bool:
        """Whether a moment to log was crossed, or somebody may be watching."""
        now = time.monotonic()
        if self._moment() <= self.logged and now - self.shown < _LIVE_SECONDS:
            return False
        self.shown = now
        return True

    def _moment(self) -> int:
        """Counted over what is spent: progress would wait for a warm-up of absolute length."""
        return int(self.run.ledger.spent_share() * _LOGGED_ROWS)

    def row(self, figures: dict[str, float] | None = None) -> Row:
        """The figures now; logged where there is a metric among them, or a moment to log was crossed."""
        ledger = self.run.ledger
        row: Row = {
            "steps": ledger.steps,
            "samples": int(ledger.spent()["samples"]),
            "seconds": round(ledger.seconds, 4),
            "progress": self.run.progress,
            "factor": self.run.factor,
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "loss": self.losses.mean(),
            "spent": ledger.spent_share(),
            "left": ledger.seconds_left(),
            **(figures or {}),
        }
        moment = self._moment()
        if figures or moment > self.logged:
            self.logged = moment
            self.losses.restart()
            self.folder.append(row)
        return row

    def save_due(self) -> bool:
        """Whether so long passed without a checkpoint that a kill would lose too much."""
        return time.monotonic() - self.saved > _SAVE_SECONDS

    def save(self) -> None:
        """Everything that a resume needs; nothing that is not finite."""
        self.saved = time.monotonic()
        self.losses.check()
        with self.run.measure("checkpoint", 2):
            checkpoint.save(
                self.folder.path / "last.pt",
                {
                    "run": self.run.state_dict(),
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "precision": self.precision.name,
                    "threads": torch.get_num_threads(),
                    "random": torch.get_rng_state(),
                    "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                    "best": asdict(self.best),
                    "evaluations": asdict(self.evaluations),
                    "left_out": self.left_out,
                    "logged": self.logged,
                },
            )

    def _restore(self, saved: dict[str, Any], change: bool) -> None:
        self.run.load_state_dict(saved["run"], change=change)
        try:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise RunFolderError(
                f"the checkpoint in '{self.folder.path}' is of another model or optimizer than the task now has ({reason})"
            ) from error
        torch.set_rng_state(saved["random"].cpu())
        if saved["random_cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([state.cpu() for state in saved["random_cuda"]])
        self.best = Best(**saved["best"])
        self.evaluations = Evaluations(**saved["evaluations"])
        self.left_out = list(saved["left_out"])
        self.logged = min(saved["logged"], self._moment())  # an extension makes the spent share smaller
        self.folder.truncate_rows(self.run.ledger.steps)

    def _draw(self, more: int) -> None:
        if self.picture is not None:
            with self.run.measure("picture", more):
                self.picture(self.folder)

    def result(self, last: Row) -> Result:
        """The figures at the end, written to the folder."""
        run, metric = self.run, self.task.metric
        result = {
            "task": self.spec.task,
            "schedule": self.spec.schedule,
            "budget": str(run.budget),
            "seed": self.spec.seed,
            "spent": {name: int(v) if v == int(v) else v for name, v in run.ledger.spent().items()},
            "progress": run.progress,
            "last_factor": run.factor,
            "stopped_by": str(run.ledger.ended_by.limit) if run.ledger.ended_by else None,
            "metric": {"name": metric, "best": self.best.value, "final": last[metric]},
            "best_at": {"steps": self.best.steps, "progress": self.best.progress},
            "final": {name: value for name, value in last.items() if name.startswith(metric)},
            "activities": {name: round(a.seconds, 4) for name, a in run.ledger.activities.items()},
            "evaluations_skipped": self.evaluations.skipped,
            "left_out": self.left_out,
            "overrun_seconds": round(run.ledger.overrun(), 4),
            "within_warmup": run.ledger.within_warmup,
            "wall_seconds": round(time.monotonic() - self.began, 4),
            "run_dir": str(self.folder.path),
        }
        self.folder.write("result", result)
        return result


def _require_mode(schedule: object, task: Task) -> None:
    mode = "max" if task.maximize else "min"
    if isinstance(schedule, Plateau) and schedule.mode != mode:
        raise ScheduleError(
            f"schedule '{schedule}' waits for a better {schedule.mode}imum, and {task.metric} wants a {mode}imum; write plateau(mode={mode})"
        )


def _choose_precision(
    task: Task, spec: Spec, data: Data, model: nn.Module, device: torch.device, saved: dict[str, Any] | None
) -> Choice:
    """What was asked for; what the checkpoint was made with; plain float32 to be exact; else the fastest here."""
    if saved is not None:
        return Choice(named(saved["precision"]), saved["threads"], {})
    if spec.precision != "auto":
        return Choice(named(spec.precision), torch.get_num_threads(), {})
    if spec.deterministic:
        return Choice(named("float32"), torch.get_num_threads(), {})
    return fastest(model, next(data.train.epoch(spec.seed, 0)), task.loss, device)


def _environment(device: torch.device, choice: Choice) -> dict[str, Any]:
    packages = {}
    for name in ("budgeted", "torch", "torchvision", "numpy", "scikit-learn", "safetensors"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "machine": machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": choice.threads,
        "packages": packages,
        "precision": choice.precision.name,
        "forward_backward_seconds": choice.seconds,
    }
