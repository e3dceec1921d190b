"""A run under way: the model, its optimizer, its budget, its folder, and the steps that the loop takes with them."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.budget import Budget
from ..core.control import Desk, Request
from ..core.diagnosis import diagnose
from ..core.errors import BudgetedError, BudgetError, BudgetWarning, RunFolderError, ScheduleError, TaskError
from ..core.record import PROBED, ROW, Keep, RowLog, RunFolder, Spec, machine
from ..core.refine import resolved
from ..core.schedule import Plateau
from ..core.signals import Signals
from ..core.text import format_duration, format_seconds
from ..core.trace import Trace, TraceWriter
from . import checkpoint
from .attach import Run, attach
from .averaging import Averaged, read_average
from .data import Batch
from .evaluation import PART, Evaluations, Part, has_batch_norm, with_fresh_statistics
from .gradients import Norms, norm
from .losses import Losses
from .precision import Choice, Precision, fastest, named, whole_batch
from .probe import is_watchable, watching
from .probing import Probing
from .process import random_state, random_state_kept, seed, set_random_state
from .recipe import varied
from .schedule_free import enter_training, evaluation_mode
from .shared import SharedLedger
from .stream import Stream
from .task import Data, Task
from .team import Team
from .threads import Threads

Row = dict[str, Any]
Result = dict[str, Any]

_LOGGED_ROWS = 500  # over the whole budget
_LIVE_SECONDS = 0.2  # between rows that are only shown, and between looks at what is asked
_EXTRA_SHARE = 0.1  # of the seconds left that refreshing and drawing at the end may each take
_PICTURE_SHARE = 0.01  # and that a picture may be thought to take, where no evaluation on the way was made
_SAVING_SHARE = 0.05  # of the time so far that checkpoints at evaluations may take, where time is the budget
_REFRESH_BATCHES = 16  # that batch norm's statistics are taken from at the end
# The shape of a checkpoint, by example; None is anything.
_SAVED = {
    "run": {"budget": "", "schedule": "", "ledger": {"spent": {"seconds": 0.0}}},
    "optimizer": {"state": {}},
    "average": None,
    "precision": "",
    "threads": 1,
    "losses": {"sum": 0.0, "count": 0},
    "best": {"value": None, "steps": 0, "progress": 0.0},
    "evaluations": {},
    "left_out": [],
    "rows": 0,
    "logged": 0,
    "finished": None,
}


Judged = tuple[dict[str, float], list[tuple[float, nn.Module]]]  # figures, and models by the metric


@dataclass(slots=True)
class Best:
    """The best value of the metric so far, and where it was."""

    value: float | None = None
    steps: int = 0
    progress: float = 0.0

    def note(self, task: str) -> checkpoint.Note:
        """What is written beside the weights that it was reached with."""
        return {"task": task, "value": repr(self.value), "steps": str(self.steps), "progress": repr(self.progress)}

    @classmethod
    def noted(cls, note: checkpoint.Note) -> Best:
        return cls(float(note["value"]), int(note["steps"]), float(note["progress"]))


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What does not define a run: where and when it is trained, and who looks on."""

    root: Path | None
    device: torch.device
    began: float  # on the monotonic clock
    reserve: float
    save_every: float
    picture: Callable[[RunFolder], None] | None
    change: Budget | None
    signals: Signals
    team: Team
    keep: Keep = "all"


@dataclass(slots=True)
class Session:
    """What the loop works with."""

    task: Task
    spec: Spec
    folder: RunFolder
    circumstances: Circumstances
    data: Data
    model: nn.Module
    trained: nn.Module  # the same, or what averages its gradients over the ranks
    optimizer: torch.optim.Optimizer
    run: Run
    precision: Precision
    evaluations: Evaluations
    averaged: Averaged | None
    rows: RowLog | None  # kept by rank 0 alone
    trace: TraceWriter | None
    saver: checkpoint.Saver
    desk: Desk
    best: Best = field(default_factory=Best)
    losses: Losses = field(default_factory=Losses)
    norms: Norms = field(default_factory=Norms)
    norm: Tensor | None = None  # of the gradient of the last update, where it was measured
    probing: Probing | None = None
    found: dict[str, float] = field(default_factory=dict)  # by a probe, for the next row
    applied: float | None = None  # the rate of the update after a probe, for the next row
    left_out: list[str] = field(default_factory=list)  # extras at the end, for want of time
    finished: Row | None = None  # the last row, once training and its last evaluation are over
    set_up: float = 0.0  # seconds
    saved_at: float = field(default_factory=time.monotonic)
    logged: int = 0
    looked: float = 0.0  # when somebody outside was last thought of
    threads: Threads | None = None  # where their number may change, and with it the last bits
    lender: Session | None = None  # the run whose model this one shares, as long as both are the same
    lent: tuple[int, Judged] | None = None  # what the evaluation at this update found, for those who share the model
    part: Part | None = None  # of the samples to evaluate, that tells what all of them take
    shared: int = 0  # updates that another run made for this one too

    @classmethod
    def start(cls, task: Task, spec: Spec, folder: RunFolder, given: Circumstances) -> Session:
        """Data, model, optimizer and budget, as the spec has them, or as the last checkpoint left them."""
        team, saved, lost = given.team, None, 0.0
        if team.leads:
            saved, lost = _last_state(folder)
        saved, lost = team.firsts((saved, lost))
        task = varied(task, spec)
        seed(spec.seed)
        data, model = task.data(given.root, given.device), task.model()
        with random_state_kept():  # a replay, or a run with a precision of its own, draws no batch for it
            choice = team.firsts(_choose_precision(task, spec, data, model, given.device, saved))
        replayed = Trace.read(folder.path / "replay.bin") if spec.replay else None
        all_threads = torch.get_num_threads()
        torch.set_num_threads(folder.read("replay")["threads"] if replayed else choice.threads)
        model = choice.precision.place(model, given.device)
        optimizer = task.optimizer(model)
        if not team.leads:
            seed(spec.seed + 1_000_003 * team.rank)  # the same weights, but not the same dropout
        run = attach(
            optimizer,
            given.change or (saved["run"]["budget"] if saved else folder.budget),
            saved["run"]["schedule"] if saved else resolved(spec, folder.path.parent),
            steps_per_epoch=data.steps_per_epoch,
            full=task.full_budget,
            tokens_in=getattr(task, "tokens", None),
            anchor=time.monotonic() - given.began + (lost if saved is None else 0.0),
            reserve=given.reserve,
        )
        _require_mode(run.schedule, task)
        enter_training(optimizer)
        if replayed is not None:
            run.follow(replayed)
        session = cls(
            task,
            spec,
            folder,
            given,
            data,
            model,
            team.wrap(model),
            optimizer,
            run,
            choice.precision,
            Evaluations.of(run, data.steps_per_epoch, spec.evaluations),
            read_average(spec.average).start(model) if spec.average else None,
            RowLog(folder, saved["rows"] if saved else 0) if team.leads else None,
            _trace(folder, saved) if team.leads and (given.keep == "all" or run.ledger.timed) else None,
            checkpoint.Saver(folder.path),
            Desk(folder.path),
        )
        if spec.probes is not None:
            probing = Probing.of(spec, data.train, several=team.count > 1)
            session.probing = probing if team.leads else None
        if not (spec.deterministic or spec.replay) and given.device.type == "cpu" and team.count == 1:
            session.threads = Threads.following(all_threads)
        if isinstance(run.ledger, SharedLedger):
            given.signals.only_tell(run.interrupt)
            run.hear = session.take_up
        if saved is None:
            if team.leads:
                began = time.monotonic()
                folder.write("environment", _environment(given.device, choice, team, optimizer, _settings(task)))
                run.ledger.expect("result", time.monotonic() - began)  # is as small a file
            session._require_time(choice)
        else:
            session._restore(saved, lost)
            if run.ledger.timed and not run.done and (evaluation := max(session._costs("evaluation"))):
                session._begin_parts(evaluation, run.ledger.seconds_to_end())  # this machine may be another one
        if given.change is not None and team.leads:
            session._record_budget()
        session.set_up = time.monotonic() - given.began
        return session

    def _require_time(self, choice: Choice) -> None:
        """Refuse a budget in time that cannot hold one update and the last evaluation."""
        ledger, train = self.run.ledger, self.data.train
        if not ledger.timed:
            return
        measured = choice.whole_batch
        if measured is None:  # the precision was given, and nothing was measured to choose it
            with random_state_kept():
                batch, device = next(train.epoch(self.spec.seed, 0)), self.circumstances.device
                measured = whole_batch(choice.precision, self.model, batch, self.task.loss, device)
        update, samples = measured
        # A forward pass costs about a third of an update.
        evaluation = update / 3 * getattr(self.data.validation, "samples", 0) / max(1, samples)
        left = ledger.seconds_left()
        if left is not None and left < update + evaluation:
            needed = format_duration(math.ceil(ledger.seconds + update + evaluation))
            raise BudgetError(
                f"budget '{self.run.budget}' is too small: {format_seconds(left)} of it are left after "
                f"{format_seconds(ledger.seconds)} of set-up; one update takes about {format_seconds(update)} and the "
                f"last evaluation about {format_seconds(evaluation)}. Give at least {needed}"
            )
        if evaluation:
            ledger.expect("evaluation", evaluation)
            self._begin_parts(evaluation, left or 0.0)

    def _begin_parts(self, evaluation: float, left: float) -> None:
        """Choose the samples whose cost tells that of an evaluation, where any are to tell it, and time them."""
        share = self.evaluations.part(evaluation, left)
        self.part = Part.of(self.data.validation, share, self.spec.seed, evaluation)
        self._time_part()

    # Training

    def batches(self) -> Iterator[tuple[Batch, float]]:
        """Batches until the budget ends, from where so many updates have led, and what the loss of each weighs."""
        at_once, team = self.circumstances.signals.at_once, self.circumstances.team
        epoch, first = divmod(self.run.ledger.steps, len(self.data.train))
        while not self.run.done:
            batches = team.parts(self.data.train, self.spec.seed, epoch, first)
            while True:
                with at_once:  # a signal need not wait for slow data
                    found = next(batches, None)
                if found is None:
                    break
                if self.run.done:  # time ran out while it was made
                    return
                batch, weight = found
                yield self.precision.prepare(batch), weight
                if self.run.done:
                    return
            epoch, first = epoch + 1, 0

    def update(self, batch: Batch, weight: float = 1.0) -> Tensor:
        """One update: its rate is set and it is counted in the optimizer's hooks; its loss comes back."""
        run, position, began = self.run, self.run.progress, time.perf_counter()
        if not self.model.training:  # setting it walks through all modules
            self.trained.train()
        with run.counted(batch):
            with self.precision.autocast(self.circumstances.device):
                loss = self.task.loss(self.trained, batch)
            self.optimizer.zero_grad(set_to_none=True)
            (loss if weight == 1.0 else loss * weight).backward()
            self._measure_norm()
            with self._watching():
                self.optimizer.step()
        if self.trace is not None:
            self.trace.add(position, run.factor)
        if self.averaged is not None:
            self.averaged.update(run.progress)
        loss = loss.detach()
        self.losses.add(loss, run.ledger.steps)
        if self.threads is not None:
            self.threads.took(time.perf_counter() - began)
        return loss

    def _measure_norm(self) -> None:
        self.norm = None
        if Norms.due(self.run.ledger.steps):
            self.norm = norm(p for group in self.optimizer.param_groups for p in group["params"])
            self.norms.keep(self.norm)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """The first update after a probe is watched where the optimizer chooses rates of its own."""
        if self.probing is None or not self.probing.watch or not is_watchable(self.optimizer):
            yield
            return
        self.probing.watch = False
        with watching(self.optimizer) as moved:
            yield
        with contextlib.suppress(BudgetedError):  # where no weight moved
            self.applied = moved.rate.median

    def learn_skipped(self) -> None:
        """Take note of the training samples that other ranks could not read; all ranks call it."""
        if isinstance(self.data.train, Stream):
            skipped = self.data.train.skipped
            for why in self.circumstances.team.everyones(skipped.why):
                skipped.why.update(why)

    def share(self, lender: Session) -> None:
        """Stand on another run's model instead of one's own, which is the same at this update."""
        self.lender, self.model = lender, lender.model

    def pass_over(self, batch: Batch, loss: Tensor) -> None:
        """An update that the lender made for both of them."""
        run, position = self.run, self.run.progress
        with run.counted(batch):
            run.pass_over()
        if self.trace is not None:
            self.trace.add(position, run.factor)
        self.losses.note(loss, run.ledger.steps)
        if self.lender is not None and self.lender.norm is not None:
            self.norms.keep(self.lender.norm)
        self.shared += 1

    def pending(self) -> Iterator[Row]:
        """A probe, an evaluation or a row that is due: after an update, or since a signal came before it was made."""
        if self.run.done:
            return  # the last ones are for `finish`
        probing = self.probing
        if probing is not None and probing.due(self.run):
            self.found = probing.figures(self)
            probing.took(self.run)
        skipped = self.evaluations.skipped
        if self.evaluations.due(self.run):
            yield self.evaluate()
            return
        if self.evaluations.skipped > skipped:
            self._time_part()
            if self._guessed("picture") <= _PICTURE_SHARE * (self.run.ledger.seconds_left() or 0.0):
                self._try_picture()
        if self.found or self.row_due():
            yield self.row()

    def after_update(self) -> Iterator[Row]:
        """What is due between two updates: an evaluation, a row, a checkpoint, an ear for other terminals."""
        yield from self.pending()
        if self.save_due():
            self.save()
        if self.somebody_may_look():
            self.hear()
            yield self.row()

    # Evaluation

    def evaluate(self) -> Row:
        """An evaluation on the way; the first one also finds out what refreshing, saving and drawing cost at the end."""
        with self.run.measure("evaluation", self.evaluations.to_come(self.run)):
            figures, candidates = self._judge_all()
        self.evaluations.took(self.run)
        self.run.report(figures[self.task.metric])
        first = self.best.value is None
        if first and self._refreshes() and self._may_try("refresh"):
            with self.run.measure("refresh", 1):
                fresh = self._judge(self._refreshed(self.model))
            figures |= {f"{name}_refreshed": value for name, value in fresh.items()}
            self._afford("refresh")
        row = self.row(figures)
        self._keep_best(candidates)
        if (first and self.circumstances.keep == "all") or self._saving_is_cheap():
            self.save()
        self._try_picture()
        return row

    def _try_picture(self) -> None:
        """Find out what drawing costs, once and where there is time, so that the one at the end is kept time for."""
        if self.circumstances.picture is None or "picture" in (*self.run.ledger.activities, *self.left_out):
            return
        if self._may_try("picture"):
            self._draw(more=1)
            self._afford("picture")

    def _time_part(self) -> None:
        """Keep time for the last evaluation by what one of a part takes, until whole ones were measured."""
        ledger, part = self.run.ledger, self.part
        if part is None or not self.circumstances.team.leads or ledger.activities["evaluation"].count > 1:
            return
        try:
            with ledger.measure(PART, 0):
                self._judge(self.model, part.samples)
        except Exception:  # a part may lack what the whole has; if it lacks it too, that is said at the end
            self.part = None
            return
        models = 1 if self.averaged is None else 2
        ledger.expect("evaluation", models * part.whole(self._costs(PART)[-1]))

    def finish(self) -> Row:
        """The last evaluation, with batch norm as training left it and refreshed; the better one is the outcome."""
        if self.finished is not None:  # the run was stopped after its last checkpoint
            return self.finished
        metric = self.task.metric
        with self.run.measure("evaluation", 0):
            figures, candidates = self._judge_all()
        if self._refreshes() and self._affordable("refresh"):
            with self.run.measure("refresh", 0):
                fresh = self._refreshed(self.model)
                other = self._judge(fresh)
            figures |= {f"{name}_raw": figures[name] for name in other}
            if self._better(other[metric], figures[metric]):
                figures |= other
            candidates.append((other[metric], fresh))
        for value, _ in candidates:
            if self._better(value, figures[metric]):  # the average's
                figures[metric] = value
        if self.probing is not None and self._may_probe(self.probing):
            self.found = self.probing.figures(self)
        row = self.row(figures)
        self._keep_best(candidates)
        self.finished = row
        if self.circumstances.keep != "figures":
            self.save(last=True)
        if self.circumstances.picture is not None and self._affordable("picture"):
            self._draw(more=0)
        return row

    def _judge_all(self) -> Judged:
        """The figures of the weights as they are, their average's beside them, and the models by the metric."""
        owner, steps = self.lender or self, self.run.ledger.steps
        if owner.lent is None or owner.lent[0] != steps:
            owner.lent = steps, owner._find()
        figures, candidates = owner.lent[1]
        return dict(figures), list(candidates)

    def _find(self) -> Judged:
        figures = self._judge(self.model)
        candidates = [(figures[self.task.metric], self.model)]
        if self.averaged is not None:
            averaged = self.averaged.model()
            if has_batch_norm(averaged):  # its statistics belong to other weights
                averaged = self._refreshed(averaged)
            other = self._judge(averaged)
            figures |= {f"{name}_average": value for name, value in other.items()}
            candidates.append((other[self.task.metric], averaged))
        return figures, candidates

    def _judge(self, model: nn.Module, samples: Any = None) -> dict[str, float]:
        """The figures of a model on all samples, or on those given."""
        given = self.circumstances
        with given.signals.at_once, random_state_kept(), evaluation_mode(self.optimizer):
            model.eval()
            with torch.inference_mode(), self.precision.autocast(given.device):
                found = self.task.evaluate(model, self.data.validation if samples is None else samples)
                figures = {name: float(value) for name, value in found.items()}
        if self.task.metric not in figures:
            raise TaskError(
                f"evaluate() of task '{self.spec.task}' gave {', '.join(figures) or 'nothing'}; its metric is '{self.task.metric}'"
            )
        if taken := sorted(figures.keys() & {*ROW, *PROBED}):
            raise TaskError(
                f"evaluate() of task '{self.spec.task}' gave '{taken[0]}', which every row has already; call it validation_{taken[0]}"
            )
        return {self.task.metric: figures[self.task.metric], **figures}

    def _refreshes(self) -> bool:
        return self.spec.refresh and has_batch_norm(self.model)

    def _refreshed(self, model: nn.Module) -> nn.Module:
        given = self.circumstances
        with given.signals.at_once, random_state_kept(), evaluation_mode(self.optimizer):
            some = itertools.islice(self.data.train.epoch(self.spec.seed, -1), _REFRESH_BATCHES)
            return with_fresh_statistics(
                model, map(self.precision.prepare, some), self.precision.autocast(given.device)
            )

    def _better(self, value: float, than: float) -> bool:
        if math.isnan(than):
            return not math.isnan(value)
        return value > than if self.task.maximize else value < than

    def _keep_best(self, candidates: Iterable[tuple[float, nn.Module]]) -> None:
        """Have the weights of the best candidate written with the next checkpoint, if they are the best so far."""
        for value, model in candidates:
            if self.best.value is None or self._better(value, self.best.value):
                self.best = Best(value, self.run.ledger.steps, self.run.progress)
                if self.circumstances.keep == "figures":
                    continue
                with evaluation_mode(self.optimizer):
                    self.saver.keep_best(model, self.best.note(self.spec.task))

    def _costs(self, activity: str) -> list[float]:
        """Seconds that it took lately, if it was measured."""
        found = self.run.ledger.activities.get(activity)
        return found.recent if found is not None and found.recent else [0.0]

    def _guessed(self, extra: str) -> float:
        """Seconds that an extra takes, where it was never measured.

        A refresh is some forward passes, each about a third of an update, and an evaluation; a picture is an import
        more, of a tenth of those at the start and less.
        """
        match extra:
            case "refresh":
                passes = _REFRESH_BATCHES * (self.run.ledger.update_seconds or 0.0) / 3
                return passes + max(self._costs("evaluation"))
            case "picture":
                return self.set_up / 8
        return 0.0

    def _may_try(self, extra: str) -> bool:
        """Whether there is time to find out what an extra costs; else it is left out."""
        ledger = self.run.ledger
        if ledger.timed and self._guessed(extra) > _EXTRA_SHARE * (ledger.seconds_left() or 0.0):
            self.left_out.append(extra)
        return extra not in self.left_out

    def _affordable(self, extra: str) -> bool:
        """Whether an extra still fits at the end, should it be half as slow again as it was; else it is left out.

        One that was never measured, in a run too short for an evaluation on its way, is taken to cost what is guessed.
        """
        ledger = self.run.ledger
        seconds = max(self._costs(extra)) or self._guessed(extra)
        if extra not in self.left_out and ledger.timed and 1.5 * seconds > ledger.seconds_to_end():
            self.left_out.append(extra)
        return extra not in self.left_out

    def _may_probe(self, probing: Probing) -> bool:
        """Whether there is time for the last one. One that is free may still not end after a deadline."""
        ledger = self.run.ledger
        if probing.charged or isinstance(ledger, SharedLedger):
            return self._affordable("probe")
        if ledger.has_deadline and 1.5 * probing.seconds > ledger.seconds_to_end():
            self.left_out.append("probe")
            return False
        return True

    def _saving_is_cheap(self) -> bool:
        """Whether saves beside those that are due stay a small share of a budget in time."""
        ledger, saver = self.run.ledger, self.saver
        if self.circumstances.keep != "all":
            return False
        if not ledger.timed:
            return True
        spent = sum(ledger.activities[name].seconds for name in ("checkpoint", "snapshot") if name in ledger.activities)
        return not saver.busy and spent + saver.seconds <= _SAVING_SHARE * ledger.seconds and self._room_to_save()

    def _room_to_save(self) -> bool:
        """Whether a write that begins now is over before the last one has to begin."""
        left = self.run.ledger.seconds_left() if self.run.ledger.timed else None
        return left is None or left > 2 * self.saver.seconds

    def _afford(self, extra: str) -> None:
        """Give up an extra at the end, and what is kept in reserve for it, where it would cost too much of the training."""
        ledger = self.run.ledger
        if ledger.timed and extra in ledger.activities:
            seconds = max(self._costs(extra))
            if seconds > _EXTRA_SHARE * ((ledger.seconds_left() or 0.0) + seconds):
                ledger.forgo(extra)
                self.left_out.append(extra)

    # Record

    def somebody_may_look(self) -> bool:
        """Whether so long has passed that whoever watches, or asks something from another terminal, is due."""
        now = time.monotonic()
        if now - self.looked < _LIVE_SECONDS:
            return False
        self.looked = now
        return True

    def row_due(self) -> bool:
        """Whether a moment to log was crossed."""
        return self._moment() > self.logged

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
            "gradient": self.norms.mean(),
            "spent": ledger.spent_share(),
            "left": ledger.seconds_left(),
            **(figures or {}),
            **self.found,
        }
        moment = self._moment()
        if figures or self.found or moment > self.logged:
            self.logged, self.found = moment, {}
            self.losses.restart()
            self.norms.restart()
            if self.applied is not None:
                row["applied_rate"], self.applied = self.applied, None
            if self.rows is not None:
                self.rows.append(row)
        return row

    # Requests from other terminals

    def hear(self) -> None:
        """Take up what was asked of this run while it trains."""
        while (request := self.desk.poll()) is not None:
            if isinstance(self.run.ledger, SharedLedger):
                self.run.ledger.announce(request)  # all ranks take it up at the same update
            else:
                self.take_up(request)

    def take_up(self, request: Request) -> None:
        """Do what was asked, on every rank, and answer."""
        leads = self.circumstances.team.leads
        try:
            answer = self._grant(request)
        except BudgetedError as error:
            if leads:
                self.desk.refuse(request, str(error))
        else:
            self.save()  # a kill after the answer must not undo what was granted
            with contextlib.suppress(RunFolderError):  # that it could not be written is said by the next save
                self.saver.wait()
            if leads:
                self._record_budget()
                self.desk.answer(request, answer)

    def _grant(self, request: Request) -> str:
        run, asked = self.run, request.fields
        if request.kind == "extend":
            before = run.budget
            if asked.get("by") is not None:
                run.extend(by=str(asked["by"]))
            else:
                run.extend(str(asked["to"]))
            return f"the budget was '{before}' and is now '{run.budget}'; the decay bends from {run.progress:.1%} of the way to the new end"
        if request.kind == "stop":
            cooldown = asked.get("cooldown")
            run.stop_in(str(asked["in"]), "auto" if cooldown is None else str(cooldown))
            return (
                f"the budget is now '{run.budget}', the schedule '{run.schedule}': the rate is brought down by its end"
            )
        raise BudgetError(f"'{request.kind}' is not something that can be asked of a run; it is extend or stop")

    def _record_budget(self) -> None:
        self.folder.write("budget", {"budget": str(self.run.budget), "schedule": str(self.run.schedule)})

    # Checkpoints

    def save_due(self) -> bool:
        """Whether so long passed without a checkpoint that a kill would lose too much."""
        return time.monotonic() - self.saved_at > self.circumstances.save_every and self._room_to_save()

    def save(self, *, last: bool = False) -> None:
        """Everything that a resume needs; nothing that is not finite.

        Before the last one a disk that refuses it is no reason to stop: that is said, and training goes on.

        Raises:
            RunFolderError: where the last one cannot be written.
        """
        if self.rows is None:
            return
        self.saved_at = time.monotonic()
        beside = self.saver.beside and not last
        self.losses.check()
        try:
            with self.run.measure(*(("snapshot", None) if beside else ("checkpoint", 1))):
                written = [self.rows.path]
                self.rows.flush()
                if self.trace is not None:
                    self.trace.flush(sync=False)
                    written.append(self.trace.path)
                self.saver.save(self._state(), after=written, beside=beside)
        except RunFolderError as error:
            if last:
                raise
            moment = "before" if beside else "at"
            warnings.warn(
                f"no checkpoint {moment} update {self.run.ledger.steps}: {error}", BudgetWarning, stacklevel=2
            )
        if beside:
            self.run.ledger.expect("checkpoint", self.saver.seconds)

    def _state(self) -> dict[str, Any]:
        return {
            "run": self.run.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer_state(),
            "average": self.averaged.state_dict() if self.averaged is not None else None,
            "precision": self.precision.name,
            "threads": torch.get_num_threads(),
            "random": random_state(),
            "losses": self.losses.state_dict(),
            "best": asdict(self.best),
            "evaluations": asdict(self.evaluations),
            "left_out": self.left_out,
            "rows": self.rows.count if self.rows is not None else 0,
            "logged": self.logged,
            "finished": self.finished,
            "shared": self.shared,
            "norms": self.norms.state_dict(),
            "probed": None
            if self.probing is None
            else {
                "passed": self.probing.passed,
                "watch": self.probing.watch,
                "found": dict(self.found),
                "applied": self.applied,
            },
        }

    def _optimizer_state(self) -> dict[str, Any]:
        """The lender's, if there is one, with this run's own rates."""
        own: dict[str, Any] = self.optimizer.state_dict()
        if self.lender is None:
            return own
        lent = self.lender.optimizer.state_dict()
        groups = [
            {**its, "lr": mine["lr"]} for its, mine in zip(lent["param_groups"], own["param_groups"], strict=True)
        ]
        return {**lent, "param_groups": groups}

    def digest(self) -> str:
        """Of the weights and the optimizer's buffers: two runs of a family with the same ones have come the same way."""
        return checkpoint.digest([self.model.state_dict(), self.optimizer.state_dict()["state"]])

    def _restore(self, saved: dict[str, Any], lost: float) -> None:
        try:
            checkpoint.require_alike(saved["evaluations"], asdict(self.evaluations))
            if saved["finished"] is not None:
                checkpoint.require_alike(saved["finished"], {**dict.fromkeys(ROW), self.task.metric: 0.0})
            self.run.load_state_dict(saved["run"], change=self.circumstances.change is not None, lost=lost)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(saved["average"])
            if self.circumstances.team.leads:
                set_random_state(saved["random"])
            self.losses.load_state_dict(saved["losses"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise RunFolderError(
                f"the checkpoint in '{self.folder.path}' is of another model or optimizer than the task now has ({reason})"
            ) from error
        self.best = self._best_on_disk(Best(**saved["best"]))
        self.evaluations = Evaluations(**saved["evaluations"])
        self.left_out = list(saved["left_out"])
        self.logged = min(saved["logged"], self._moment())  # an extension makes the spent share smaller
        self.finished = saved["finished"]
        self.shared = int(saved.get("shared", 0))
        self.norms.load_state_dict(saved.get("norms", {"sum": 0.0, "count": 0}))
        if self.probing is not None and (probed := saved.get("probed")) is not None:
            self.probing.passed, self.probing.watch = probed["passed"], probed["watch"]
            self.found, self.applied = dict(probed["found"]), probed["applied"]
        if lost:
            self.save()  # the rows that tell of it are gone, and another kill must not lose count of it

    def _best_on_disk(self, saved: Best) -> Best:
        """The best as the file of its weights has it: an evaluation after the checkpoint may have written it."""
        path = self.folder.path / checkpoint.BEST
        if not path.exists():  # none yet, or those of a study, which keeps figures only
            if saved.value is not None and self.circumstances.keep != "figures":
                warnings.warn(
                    f"the weights with the best {self.task.metric} so far were not kept in '{self.folder.path}'; later ones are, "
                    "if they are better",
                    BudgetWarning,
                    stacklevel=2,
                )
            return saved
        try:
            return Best.noted(checkpoint.read_weights(path)[1])
        except (RunFolderError, KeyError, ValueError) as error:
            warnings.warn(f"{error}; the best weights are chosen anew from here on", BudgetWarning, stacklevel=2)
            return Best()

    def _draw(self, more: int) -> None:
        if self.circumstances.picture is not None:
            with self.run.measure("picture", more), contextlib.suppress(RunFolderError):  # the rows have what it shows
                self.circumstances.picture(self.folder)

    def _skipped(self) -> int:
        """Samples that could not be read."""
        sets = (self.data.train, self.data.validation)
        return sum(len(one.skipped.why) for one in sets if isinstance(one, Stream))

    def _diagnosis(self, result: Mapping[str, Any]) -> list[str]:
        with contextlib.suppress(RunFolderError):  # damage among the rows is told when they are read
            if self.rows is not None:
                self.rows.flush()
            return diagnose(list(self.folder.rows()), result)
        return []

    def close(self) -> None:
        """Finish what is being written, and let go of the optimizer."""
        with contextlib.suppress(RunFolderError):  # whoever needs them written has asked before
            self.saver.wait()
            if self.trace is not None:
                self.trace.close()
        self.run.close()

    def result(self, last: Row) -> Result:
        """The figures at the end, written to the folder."""
        run, metric = self.run, self.task.metric
        result = {
            "task": self.spec.task,
            "schedule": str(run.schedule),
            "budget": str(run.budget),
            "seed": self.spec.seed,
            "spent": {name: int(v) if v == int(v) else v for name, v in run.ledger.spent().items()},
            "progress": run.progress,
            "last_factor": run.factor,
            "stopped_by": str(run.ledger.ended_by.limit) if run.ledger.ended_by else None,
            "metric": {"name": metric, "best": self.best.value, "final": last[metric]},
            "maximize": self.task.maximize,
            "best_at": {"steps": self.best.steps, "progress": self.best.progress},
            "final": {name: value for name, value in last.items() if name not in {*ROW, *PROBED}},
            "activities": {name: round(a.seconds, 4) for name, a in run.ledger.activities.items() if a.count},
            "evaluations_skipped": self.evaluations.skipped,
            "left_out": self.left_out,
            "skipped_samples": self._skipped(),
            "overrun_seconds": round(run.ledger.overrun(), 4),
            "within_warmup": run.ledger.within_warmup,
            "thread_changes": self.threads.changes if self.threads is not None else 0,
            "shared_updates": self.shared,
            "wall_seconds": round(time.monotonic() - self.circumstances.began, 4),
            "run_dir": str(self.folder.path),
        }
        with run.measure("result", 0):
            result["diagnosis"] = self._diagnosis(result)
            self.folder.write("result", result)
        if self.circumstances.keep != "all":
            with contextlib.suppress(RunFolderError):
                self.saver.wait()  # else it would put one back
            checkpoint.remove(self.folder.path)
        return result


def _last_state(folder: RunFolder) -> tuple[dict[str, Any] | None, float]:
    """What the run's last whole checkpoint holds, if it has one, and the seconds that were spent after it."""
    saved, trouble = checkpoint.latest(folder.path, torch.device("cpu"))
    if trouble is not None:
        warnings.warn(trouble, BudgetWarning, stacklevel=2)
    if saved is not None:
        _require_readable(saved, folder)
    folder.sweep()
    Desk(folder.path).clear()
    return saved, _seconds_lost(folder, saved)


def _require_readable(saved: Mapping[str, Any], folder: RunFolder) -> None:
    """Refuse a checkpoint that holds what this version does not write, before any of it is used."""
    try:
        checkpoint.require_alike(saved, _SAVED)
        if saved["best"]["value"] is not None:
            checkpoint.require_alike(saved["best"]["value"], 0.0)
        if not (saved["threads"] >= 1 and 0 <= saved["rows"] < 2**62):
            raise ValueError("a number is out of range")
        for state in saved["optimizer"]["state"].values():
            checkpoint.require_alike(state, {})
    except (LookupError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"the checkpoint in '{folder.path}' holds what this version does not write ({error})"
        ) from None


def _seconds_lost(folder: RunFolder, saved: dict[str, Any] | None) -> float:
    """Seconds that were spent after the checkpoint, as far as a row tells: what was spent stays spent."""
    kept, last = (saved["run"]["ledger"]["spent"]["seconds"], saved["rows"]) if saved else (0.0, 0)
    lost = 0.0
    with contextlib.suppress(RunFolderError):  # damage among the rows to be kept is told when they are read
        for row in itertools.islice(folder.rows(), last, None):
            seconds = row.get("seconds")
            lost = max(lost, seconds - kept if isinstance(seconds, int | float) else 0.0)
    return lost


def _trace(folder: RunFolder, saved: dict[str, Any] | None) -> TraceWriter:
    """The trace up to the checkpoint. A run whose trace is damaged goes on all the same, but cannot be replayed."""
    path, steps = folder.path / "trace.bin", int(saved["run"]["ledger"]["spent"]["steps"]) if saved else 0
    try:
        trace = TraceWriter(path)
        trace.truncate(steps)
    except RunFolderError as error:
        if not path.exists() or path.stat().st_size == 0:
            raise
        warnings.warn(f"{error}; it goes on, but cannot be replayed", BudgetWarning, stacklevel=2)
        path.rename(path.with_name("trace.damaged"))
        trace = TraceWriter(path)
    return trace


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


def _environment(
    device: torch.device,
    choice: Choice,
    team: Team,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "optimizer": type(optimizer).__name__,
        "machine": machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": choice.threads,
        "processes": team.count,
        "packages": _versions(),
        "settings": settings,
        "precision": choice.precision.name,
        "forward_backward_seconds": choice.seconds,
    }


def _settings(task: Task) -> dict[str, Any]:
    """What the task chose for this machine or was given; a user's own need not say."""
    return dict(task.settings()) if hasattr(task, "settings") else {}


@functools.cache
def _versions() -> dict[str, str]:
    packages = {}
    for name in ("budgeted", "torch", "torchvision", "numpy", "scikit-learn", "safetensors"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return packages
