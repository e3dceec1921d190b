"""Conducting a study: what is not trained yet is, on whatever engine, and nothing twice."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..core.budget import Terms
from ..core.errors import BudgetedError, Interrupted, StudyError
from ..core.manifest import Manifest
from ..core.record import RunFolder, Spec
from ..core.refine import sources
from ..core.signals import Signals
from . import sharing
from .engine import Ended, Engine
from .plan import Cell, Facts, Study
from .work import Options, Outcome, describe, train

_DEATHS = 3  # of workers, without a new checkpoint between, after which a run is given up
_LOOK = 0.25  # seconds between two looks at what goes on
_PATIENCE = 60.0  # seconds for runs under way to save when they are asked to stop
_BUSY = 2.0  # seconds until a run that another process trains is looked at again


@dataclass(slots=True)
class Standing:
    """How a study stands."""

    total: int
    cached: int = 0  # finished before this began
    finished: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # why, by the run's name
    running: list[list[Spec]] = field(default_factory=list)
    elsewhere: int = 0  # trained by another process
    weights: dict[str, float] = field(default_factory=dict)  # updates of each run, by its name
    updates: float = 0.0  # of all runs
    updates_before: float = 0.0  # made before this began
    updates_left: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        return self.finished + len(self.failed) == self.total


@dataclass(slots=True)
class _Job:
    specs: list[Spec]
    deaths: int = 0  # of workers, since its runs last came to a checkpoint
    came_to: list[int] = field(default_factory=list)
    not_before: float = 0.0
    sources: list[Spec] = field(init=False)  # runs that theirs are refined from

    def __post_init__(self) -> None:
        self.sources = sources(self.specs)


def find_facts(study: Study, engine: Engine, options: Options) -> dict[str, Facts]:
    """What the study must know of its tasks, asked where the runs will be trained.

    Raises:
        StudyError: for a task, a model or an optimizer that is not to be had.
    """
    asked = {engine.submit(_described, study, task, options): task for task in study.tasks}
    facts: dict[str, Facts] = {}
    while len(facts) < len(study.tasks):
        for ended in engine.wait(_LOOK):
            task = asked[ended.ticket]
            if ended.died or ended.error:
                raise StudyError(f"task '{task}' could not be looked at: {ended.died or ended.error}")
            if isinstance(ended.value, str):
                raise StudyError(f"study '{study.name}': {ended.value}")
            facts[task] = ended.value
    return facts


def _described(study: Study, task: str, options: Options) -> Facts | str:
    try:
        return describe(study, task, options)
    except BudgetedError as error:
        return str(error)


def conduct(
    study: Study, engine: Engine, options: Options, *, share: bool = True, retry: bool = False
) -> Generator[Standing, None, Manifest]:
    """Train what is missing of a study.

    Runs that are finished in the folder, by this study or another, are not trained again; those that failed are left so
    unless `retry`; those that were interrupted go on from their checkpoints.

    Args:
        study: what is wanted.
        engine: where it is trained.
        options: how, and the folder `out`.
        share: whether runs whose first part is the same train that part once.
        retry: whether failed runs are tried again.

    Yields:
        How it stands, some times a second.

    Returns:
        The study's manifest, as it is in the folder.

    Raises:
        StudyError: for a study that cannot be expanded.
        Interrupted: after SIGINT or SIGTERM; runs under way have saved, and the same call goes on.
    """
    with Signals() as signals:
        facts = find_facts(study, engine, options)
        cells = study.cells(facts)
        manifest = _write_manifest(study, facts, cells, Path(options.out))
        yield from _pursue(_Director([c.spec for c in cells], (), facts, engine, options, share, retry), signals)
        return manifest


def train_specs(
    specs: Sequence[Spec],
    facts: Mapping[str, Facts],
    engine: Engine,
    options: Options,
    *,
    beside: Sequence[Spec] = (),
    retry: bool = False,
) -> Generator[Standing, None, None]:
    """Train what is missing of some runs, as `conduct` does those of a study.

    Args:
        specs: the runs.
        facts: of their tasks.
        engine, options, retry: as of `conduct`.
        beside: runs that may be wanted later. Where one begins as a wanted one does, it begins with it; where they part
            it is left at its checkpoint, as is the rest of them when the wanted ones have ended.

    Yields:
        How it stands, some times a second; `beside` does not count.

    Raises:
        Interrupted: as `conduct`.
    """
    with Signals() as signals:
        yield from _pursue(_Director(specs, beside, facts, engine, options, True, retry), signals)


def _pursue(director: _Director, signals: Signals) -> Iterator[Standing]:
    yield director.standing
    while not director.standing.over:
        director.step()
        yield director.standing
        if signals.caught is not None or director.interrupted:
            director.stop()
            standing = director.standing
            raise Interrupted(
                f"{signals.caught or 'interrupted'}: {standing.finished} of {standing.total} runs are finished; "
                "what was under way has saved. Go on with the same command"
            )


def _write_manifest(study: Study, facts: dict[str, Facts], cells: Sequence[Cell], out: Path) -> Manifest:
    places = [
        {"task": c.task, "row": c.row, "budget": c.budget, "seed": c.seed, "run": c.spec.name, "spec": asdict(c.spec)}
        for c in cells
    ]
    return Manifest.write(out, asdict(study), {task: asdict(found) for task, found in facts.items()}, places)


def forecast(study: Study, engine: Engine, options: Options, *, share: bool) -> tuple[int, int, int, int]:
    """Runs that are finished, runs that would be trained, the updates that takes, and those that sharing saves beside.

    Raises:
        StudyError: as `conduct`.
    """
    facts = find_facts(study, engine, options)
    terms = {task: found.terms for task, found in facts.items()}
    wanted = [cell.spec for cell in study.cells(facts)]
    specs = list(dict.fromkeys([*wanted, *sources(wanted)]))
    missing = [spec for spec in specs if RunFolder.finished(Path(options.out), spec) is None]
    updates = sum(sharing.length(spec, terms[spec.task]) or 0 for spec in missing)
    saved = sharing.saved(missing, terms) if share else 0
    return len(specs) - len(missing), len(missing), updates - saved, saved


class _Director:
    """Who is trained next."""

    def __init__(
        self,
        specs: Sequence[Spec],
        beside: Sequence[Spec],
        facts: Mapping[str, Facts],
        engine: Engine,
        options: Options,
        share: bool,
        retry: bool,
    ) -> None:
        self._engine, self._options = engine, options
        self._terms: dict[str, Terms] = {task: found.terms for task, found in facts.items()}
        wanted = {spec.name: spec for spec in (*specs, *sources(specs))}  # which the others wait for
        parked = {spec.name: spec for spec in beside if spec.name not in wanted}
        self._specs, self._parked = wanted | parked, frozenset(parked)
        weights = {name: float(sharing.length(s, self._terms[s.task]) or 1) for name, s in wanted.items()}
        self._jobs: dict[int, _Job] = {}
        self.interrupted = False
        self.standing = Standing(
            len(wanted), weights=weights | dict.fromkeys(parked, 0.0), updates=sum(weights.values())
        )
        missing = [spec for spec in wanted.values() if not self._settled(spec, retry)]
        missing += [spec for spec in parked.values() if self._may_come_along(spec)]
        self.standing.cached = self.standing.finished
        groups = sharing.groups(missing, self._terms) if share else [[spec] for spec in missing]
        groups.sort(key=lambda group: -max(self.standing.weights[spec.name] for spec in group))
        self._waiting: deque[_Job] = deque()
        self._queue(reversed([_Job(group) for group in groups]))
        self._count()
        self.standing.updates_before = self.standing.updates - self.standing.updates_left

    def _settled(self, spec: Spec, retry: bool) -> bool:
        """Whether a run is finished, or failed and is to be left so."""
        parent = Path(self._options.out)
        if RunFolder.finished(parent, spec) is not None:
            self.standing.finished += 1
            return True
        folder = RunFolder.unfinished(parent, spec, changed=False)
        if folder is None or (reason := folder.error) is None:
            return False
        if retry:
            folder.forgive()
            return False
        self.standing.failed[spec.name] = reason
        return True

    def _may_come_along(self, spec: Spec) -> bool:
        """Whether a run that is not wanted yet is neither finished nor failed."""
        parent = Path(self._options.out)
        if RunFolder.finished(parent, spec) is not None:
            return False
        folder = RunFolder.unfinished(parent, spec, changed=False)
        return folder is None or folder.error is None

    def _queue(self, jobs: Iterable[_Job]) -> None:
        """Have these trained next, the last one first, but for those that nobody waits for."""
        self._waiting.extendleft(job for job in jobs if not {spec.name for spec in job.specs} <= self._parked)

    def step(self) -> None:
        """Keep every slot busy, and take what ended."""
        now = time.monotonic()
        ready = [job for job in self._waiting if job.not_before <= now and not self._waits(job)]
        for job in itertools.islice(ready, max(0, self._engine.slots - len(self._jobs))):
            self._waiting.remove(job)
            self._jobs[self._engine.submit(train, job.specs, self._options, self._parked)] = job
        self._count()
        if not self._jobs:
            time.sleep(_LOOK)
        for ended in self._engine.wait(_LOOK):
            self._take(ended)
        self._count()

    def _waits(self, job: _Job) -> bool:
        """Whether a run's schedule is refined from one that is still to be trained."""
        others = (*self._waiting, *self._jobs.values()) if job.sources else ()
        return any(spec in job.sources for other in others for spec in other.specs)

    def stop(self) -> None:
        """Ask those under way to stop, and wait for them."""
        self._engine.interrupt()
        deadline = time.monotonic() + _PATIENCE
        while self._jobs and time.monotonic() < deadline:
            for ended in self._engine.wait(_LOOK):
                self._take(ended)

    def _take(self, ended: Ended) -> None:
        job = self._jobs.pop(ended.ticket)
        if ended.died is not None:
            self._bury(job, ended.died)
            return
        if ended.error is not None:  # not of a run: those are in its outcome
            raise RuntimeError(ended.error)
        outcome: Outcome = ended.value
        self.interrupted = self.interrupted or outcome.interrupted
        self.standing.finished += len(set(outcome.finished) - self._parked)
        self.standing.failed |= outcome.failed
        later = time.monotonic() + _BUSY if outcome.busy else 0.0
        self._queue(_Job([self._specs[name] for name in group], not_before=later) for group in reversed(outcome.groups))

    def _bury(self, job: _Job, how: str) -> None:
        """A worker died: its runs go on from their checkpoints, unless it comes to nothing several times over."""
        came_to = self._checkpoints(job)
        job.deaths = job.deaths + 1 if came_to == job.came_to else 1
        job.came_to = came_to
        if job.deaths < _DEATHS:
            self._queue([job])
        elif len(job.specs) > 1:
            self._queue(_Job([spec]) for spec in job.specs)
        else:
            spec = job.specs[0]
            reason = (
                f"its worker died {job.deaths} times ({how}); SIGKILL often means that memory ran out: try fewer jobs"
            )
            with contextlib.suppress(BudgetedError):  # where it cannot be written, it is in the standing all the same
                RunFolder.obtain(Path(self._options.out), spec).write("error", {"error": reason, "traceback": ""})
            self.standing.failed[spec.name] = reason

    def _checkpoints(self, job: _Job) -> list[int]:
        """When the checkpoints of its runs were written: whether a new one was there before a death."""
        found = []
        for spec in job.specs:
            folder = RunFolder.unfinished(Path(self._options.out), spec, changed=False)
            path = None if folder is None else folder.path / "last.pt"
            found.append(path.stat().st_mtime_ns if path is not None and path.exists() else 0)
        return found

    def _count(self) -> None:
        standing, jobs = self.standing, list(self._jobs.values())
        standing.running = [job.specs for job in jobs]
        later = {spec.name for job in self._waiting if job.not_before for spec in job.specs}
        standing.elsewhere = len(later - self._parked)
        standing.updates_left = sum(
            standing.weights[spec.name] for job in (*jobs, *self._waiting) for spec in job.specs
        )
