"""fit(): one loop that trains a task under a budget, and yields a row of figures per logged moment."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator
from contextlib import nullcontext
from pathlib import Path

import torch

from ..core.budget import Budget
from ..core.clock import process_age
from ..core.control import hold
from ..core.errors import BudgetError, Interrupted
from ..core.record import Keep, RunFolder, Spec
from ..core.signals import Caught, Signals
from .process import determinism
from .session import Circumstances, Result, Row, Session
from .task import Task
from .team import Team


def fit(
    task: Task,
    spec: Spec,
    folder: RunFolder,
    *,
    root: Path | None = None,
    device: str | None = None,
    anchor: str = "now",
    reserve: float = 0.0,
    save_every: float = 300.0,
    picture: Callable[[RunFolder], None] | None = None,
    change: Budget | None = None,
    keep: Keep = "all",
) -> Generator[Row, None, Result]:
    """Train a task under a budget, or go on where its folder's last checkpoint is.

    Started by torchrun, each batch is split over the processes, and rank 0 evaluates, writes and yields; the others' result
    is empty.

    Args:
        task: what to train.
        spec: budget, schedule, seed and options.
        folder: the run's folder; rows, checkpoints and the result are written there.
        root: the folder with the data sets.
        device: where to train; the first GPU, or the CPU.
        anchor: what seconds count from: `now` (this call) or `process` (its start).
        reserve: seconds kept for what the caller does after the last row.
        save_every: seconds without a checkpoint at most, which is what a kill can cost.
        picture: draws the run's curve from its folder; timed, and kept in reserve.
        change: the budget that replaces the one in force.
        keep: what stays in the folder: `all`; `best`, no checkpoint once there is a result, and until then only those
            that `save_every` asks for; `figures`, no weights either.

    Yields:
        Rows: steps, samples, seconds, progress, factor, lr, loss, and the metric where it was taken.

    Returns:
        The result that is also in `result.json`.

    Raises:
        BudgetError: where the budget cannot be kept, or leaves no room for one update and the last evaluation.
        RunFolderError: where another process trains the run, or no checkpoint in its folder is whole.
        NonFiniteLoss: where the loss becomes NaN or infinite; the last checkpoint is from before that.
        Interrupted: after SIGINT, SIGTERM or SIGUSR1; the last checkpoint is from then.
    """
    began = time.monotonic() - (process_age() if anchor == "process" else 0.0)
    team = Team.join()
    place = torch.device(device) if device else team.device
    held = hold(folder.path) if team.leads else nullcontext()
    with held, determinism(spec.deterministic), Signals() as signals:
        given = Circumstances(root, place, began, reserve, save_every, picture, change, signals, team, keep)
        try:
            with signals.at_once:
                session = Session.start(task, spec, folder, given)
        except Caught as signal:
            raise Interrupted(f"{signal}: stopped while setting up; nothing is lost, and nothing was trained") from None
        run = session.run
        try:
            if team.leads:
                yield from session.pending()  # a signal came before it
            for batch, weight in session.batches():
                session.update(batch, weight)
                if run.done:
                    break
                if team.leads:
                    yield from session.after_update()
            if run.interrupted is not None:
                raise Caught(run.interrupted)
            if not run.ledger.steps:
                raise BudgetError(
                    f"budget '{run.budget}' left no time for one update after {run.ledger.seconds:.1f}s of "
                    f"set-up{' and probes' if session.probing else ''}; give a longer one"
                )
            session.learn_skipped()
            if not team.leads:
                return {}
            last = session.finish()
            yield last
            return session.result(last)
        except Caught as signal:
            session.save(last=True)
            raise Interrupted(
                f"{signal}: stopped after update {run.ledger.steps} and saved; "
                f"go on with: budgeted train --resume {shlex.quote(str(folder.path))}"
            ) from None
        finally:
            session.close()
