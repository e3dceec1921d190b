"""fit(): one loop that trains a task under a budget, and yields a row of figures per logged moment."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator
from pathlib import Path

import torch

from ..core.budget import Budget
from ..core.clock import process_age
from ..core.errors import BudgetError, Interrupted
from ..core.record import RunFolder, Spec
from . import checkpoint
from .process import Signals, determinism
from .session import Result, Row, Session
from .task import Task


def fit(
    task: Task,
    spec: Spec,
    folder: RunFolder,
    *,
    root: Path | None = None,
    device: str | None = None,
    anchor: str = "now",
    reserve: float = 0.0,
    picture: Callable[[RunFolder], None] | None = None,
    resume: bool = False,
    change: Budget | None = None,
) -> Generator[Row, None, Result]:
    """Train a task under a budget.

    Args:
        task: what to train.
        spec: budget, schedule, seed and options.
        folder: the run's folder; rows, checkpoints and the result are written there.
        root: the folder with the data sets.
        device: where to train; the first GPU, or the CPU.
        anchor: what seconds count from: `now` (this call) or `process` (its start).
        reserve: seconds kept for what the caller does after the last row.
        picture: draws the run's curve from its folder; timed, and kept in reserve.
        resume: go on from the folder's last checkpoint.
        change: on resume, the budget that replaces the old one.

    Yields:
        Rows: steps, samples, seconds, progress, factor, lr, loss, and the metric where it was taken.

    Returns:
        The result that is also in `result.json`.

    Raises:
        BudgetError: where the budget cannot be kept, or leaves no room for one update.
        NonFiniteLoss: where the loss becomes NaN or infinite; the last checkpoint is from before that.
        Interrupted: after a signal; the last checkpoint is from then.
    """
    began = time.monotonic() - (process_age() if anchor == "process" else 0.0)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    saved = checkpoint.load(folder.path / "last.pt", place) if resume else None
    with determinism(spec.deterministic):
        session = Session.start(task, spec, folder, root, place, began, reserve, picture, saved, change)
        run = session.run
        with Signals() as signals:
            if session.evaluations.due(run):  # a signal came before it
                yield session.evaluate()
            for batch in session.batches():
                session.update(batch)
                if signals.caught:
                    session.row()
                    session.save()
                    raise Interrupted(
                        f"{signals.caught}: stopped after update {run.ledger.steps} and saved; "
                        f"go on with: budgeted train --resume {shlex.quote(str(folder.path))}"
                    )
                if run.done:
                    break
                if session.evaluations.due(run):
                    yield session.evaluate()
                elif session.save_due():
                    session.save()
                elif session.row_due():
                    yield session.row()
            if not run.ledger.steps:
                raise BudgetError(
                    f"budget '{run.budget}' left no time for one update after {run.ledger.seconds:.1f}s of set-up; give a longer one"
                )
            last = session.finish()
            yield last
        run.close()
        return session.result(last)
