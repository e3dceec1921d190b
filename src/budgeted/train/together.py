"""Runs whose first part is the same, rate for rate and batch for batch, train that part once.

One of them, the lender, trains; the others stand on its model, and each keeps its own ledger, evaluations, rows and
checkpoints, as if it had trained itself. Where the next update would not be the same for all, each writes the checkpoint
that it would have written alone, and goes on from it: to the same bits, since a resume does.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..core.control import hold
from ..core.errors import BudgetedError, Interrupted
from ..core.record import Keep, RunFolder, Spec
from ..core.schedule import Plateau, Schedule
from ..core.signals import Caught, Signals
from .process import determinism
from .schedule_free import is_schedule_free
from .session import Circumstances, Result, Row, Session
from .task import Task
from .team import Team


@dataclass(frozen=True, slots=True)
class Member:
    """One of the runs that train together."""

    task: Task
    spec: Spec
    folder: RunFolder


@dataclass(slots=True)
class Parted:
    """How far they came: the results of those that ended, by their number, and who might still go on with whom."""

    results: dict[int, Result] = field(default_factory=dict)
    groups: list[list[int]] = field(default_factory=list)


def fit_together(
    members: Sequence[Member],
    *,
    root: Path | None = None,
    device: str | None = None,
    save_every: float = 300.0,
    keep: Keep = "all",
    parked: Collection[int] = (),
) -> Generator[tuple[int, Row], None, Parted]:
    """Train runs together until their next updates would differ, or go on with those that stand at the same update.

    Args:
        members: runs that differ in their budget and their schedule only.
        root, device, save_every, keep: as of `fit`.
        parked: the numbers of those that only come along: where none of the others is left, they save and stop.

    Yields:
        The number of a run, and a row of it.

    Returns:
        Results, and the groups in which the rest goes on; a run that is alone in its group is one for `fit`.

    Raises:
        BudgetedError: where they differ in anything else; and what `fit` raises.
    """
    began, team = time.monotonic(), Team.join()
    with ExitStack() as stack, determinism(members[0].spec.deterministic), Signals() as signals:
        for member in members:
            stack.enter_context(hold(member.folder.path))
        place = torch.device(device) if device else team.device
        given = Circumstances(root, place, began, 0.0, save_every, None, None, signals, team, keep)
        sessions: dict[int, Session] = {}
        try:
            with signals.at_once:
                for number, member in enumerate(members):
                    sessions[number] = Session.start(member.task, member.spec, member.folder, given)
                    stack.callback(sessions[number].close)
            _require_alike(members, sessions)
        except Caught as signal:
            raise Interrupted(f"{signal}: stopped while setting up; nothing is lost, and nothing was trained") from None
        parted = Parted()
        try:
            yield from _train(sessions, parted, frozenset(parked))
        except Caught as signal:
            for session in sessions.values():
                session.save(last=True)
            paths = " ".join(shlex.quote(str(session.folder.path)) for session in sessions.values())
            raise Interrupted(f"{signal}: stopped and saved, to be gone on with one by one: {paths}") from None
        return parted


def _train(
    sessions: dict[int, Session], parted: Parted, parked: frozenset[int]
) -> Generator[tuple[int, Row], None, None]:
    """Train those that are the same from here on; the others' groups are left in `parted`."""
    for number, session in list(sessions.items()):  # what a signal left undone, as `fit` begins with it
        for row in session.pending():
            yield number, row
        if session.run.done:
            yield number, _end(number, sessions, parted)
    groups = _groups(sessions, weights=True)
    if len(groups) > 1 or sessions.keys() <= parked:  # none is left, or none that is to go on
        parted.groups = groups
        return
    lender = max(sessions.values(), key=lambda session: session.run.remaining["steps"])
    for session in sessions.values():
        if session is not lender:
            session.share(lender)
    for batch, _ in lender.batches():
        began = time.monotonic()
        loss = lender.update(batch)
        for session in sessions.values():
            if session is not lender:
                session.pass_over(batch, loss)
        for number, session in list(sessions.items()):
            if not session.run.done:
                for row in session.after_update():
                    yield number, row
                continue
            yield number, _end(number, sessions, parted)
        if any(
            session.saved_at > began for session in sessions.values()
        ):  # after a kill, all go on from the same update
            for session in sessions.values():
                if session.saved_at <= began:
                    session.save()
        if (
            len(_groups(sessions)) > 1 or sessions.keys() <= parked
        ):  # before the next batch is drawn, as where a run is interrupted
            break
    for session in sessions.values():
        session.save(last=True)
    parted.groups = _groups(sessions)


def _end(number: int, sessions: dict[int, Session], parted: Parted) -> Row:
    session = sessions[number]
    row = session.finish()
    parted.results[number] = session.result(row)
    del sessions[number]  # until here a signal has it saved with the others
    return row


def _groups(sessions: dict[int, Session], *, weights: bool = False) -> list[list[int]]:
    """Those that stand at the same update, and whose next one has the same rate.

    Args:
        sessions: of the runs, by their numbers.
        weights: whether to look at their weights too: runs that parted before may meet at such an update again.
    """
    found: dict[tuple[object, ...], list[int]] = {}
    for number, session in sessions.items():
        key = session.run.ledger.steps, session.run.next_factor, session.digest() if weights else None
        found.setdefault(key, []).append(number)
    return list(found.values())


def _require_alike(members: Sequence[Member], sessions: dict[int, Session]) -> None:
    first, precision = members[0].spec, next(iter(sessions.values())).precision.name
    for member, session in zip(members, sessions.values(), strict=True):
        if not alike(first, member.spec) or session.precision.name != precision:
            raise BudgetedError(
                f"'{first.name}' and '{member.spec.name}' differ in more than budget and schedule; train them one by one"
            )
        schedule = session.run.schedule
        strange = isinstance(schedule, Plateau) or bool(isinstance(schedule, Schedule) and schedule.drives)
        if (
            session.run.ledger.timed
            or "steps" not in session.run.remaining
            or strange
            or is_schedule_free(session.optimizer)
        ):
            raise BudgetedError(
                f"'{schedule}' under '{session.run.budget}' cannot be trained together with others: its rates are not known "
                "before, or are not all that it drives; train it alone"
            )


def alike(one: Spec, other: Spec) -> bool:
    """Whether two runs differ in budget and schedule only, and in nothing that looks at progress beside the rate."""
    return one.family == other.family and one.average is None and one.replay is None and one.probes is None
