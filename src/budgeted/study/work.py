"""What a worker does for a study: say what a task is, and train runs. It keeps what runs share: imports and data."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..core.control import holder
from ..core.errors import BudgetedError, BudgetWarning, Interrupted, StudyError
from ..core.record import Keep, RunFolder, Spec
from .plan import Facts, Study

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """How runs are trained, which does not define them."""

    out: str
    root: str | None = None
    device: str | None = None
    save_every: float = 60.0
    keep: Keep = "figures"
    trackers: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """What became of runs that were given to a worker together; runs are named by their specs.

    Args:
        finished: those that have a result.
        failed: why others failed.
        groups: who goes on with whom.
        interrupted: whether a signal stopped them; they are among the groups.
        busy: whether another process trains one of them; none was trained.
    """

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    groups: list[list[str]] = field(default_factory=list)
    interrupted: bool = False
    busy: bool = False


def describe(study: Study, task: str, options: Options) -> Facts:
    """What a study must know of a task; that what its rows name can be made there is tried.

    Raises:
        BudgetedError: where the task, its data, the device, or what a row names is not to be had.
    """
    import torch

    from ..train.averaging import read_average
    from ..train.precision import named
    from ..train.recipe import varied

    found = _task(task, options)
    if study.precision != "auto":
        named(study.precision)
    for average in {row.average for row in study.rows} - {None}:
        read_average(str(average))
    for model, optimizer in dict.fromkeys((row.model, row.optimizer) for row in study.rows):
        recipe = varied(found, Spec(task, "1 steps", "const", model=model, optimizer=optimizer))
        recipe.optimizer(recipe.model())
    try:
        device = torch.zeros(1, device=options.device or "cpu").device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise StudyError(
            f"device '{options.device}' cannot be used here ({reason}); give cpu, or leave it out"
        ) from None
    data = found.data(None if options.root is None else Path(options.root), device)
    if any(row.subset is not None for row in study.rows) and not hasattr(data.train, "subset"):
        raise StudyError(
            f"a row wants a subset of the training data, and that of task '{task}' has no subset(share, seed)"
        )
    own = {
        name: getattr(found, name)
        for name in ("chance", "off_the_shelf", "step_decay", "judged_by", "also")
        if hasattr(found, name)  # a user's task need not say
    }
    return Facts(found.full_budget, len(data.train), found.metric, found.maximize, found.warmup, **own)


def train(specs: Sequence[Spec], options: Options, parked: Collection[str] = ()) -> Outcome:
    """Train some runs together, or one, until they end, part, fail or are stopped; whatever happens is in the outcome.

    Args:
        specs: the runs.
        options: how.
        parked: the names of those that only come along while one of the others trains.
    """
    with warnings.catch_warnings(), _one_thread():
        warnings.simplefilter("ignore", BudgetWarning)  # a note for whoever watches one run
        return _train(list(specs), options, parked)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Runs share the processors by being many; and sums come out the same to the bit, however many run side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(specs: list[Spec], options: Options, parked: Collection[str] = ()) -> Outcome:
    from ..train.process import seed

    names = [spec.name for spec in specs]
    folders: list[RunFolder] = []
    try:
        folders += [RunFolder.obtain(Path(options.out), spec) for spec in specs]
        if any(folder.result is not None for folder in folders):  # another study was quicker
            ended = [name for name, folder in zip(names, folders, strict=True) if folder.result is not None]
            return Outcome(finished=ended, groups=[[name] for name in names if name not in ended])
        seed(0)  # whatever a user's module draws while it is imported
        tasks = [_task(spec.task, options) for spec in specs]
        if len(specs) == 1:
            _train_one(tasks[0], specs[0], folders[0], options)
            return Outcome(finished=names)
        return _train_together(tasks, specs, folders, options, parked)
    except Interrupted:
        return Outcome(groups=[names], interrupted=True)
    except Exception as error:
        if _is_held(folders):
            return Outcome(groups=[names], busy=True)
        if len(specs) > 1:  # which of them it was shows when each is alone
            return Outcome(groups=[[name] for name in names])
        reason = str(error) if isinstance(error, BudgetedError) else f"{type(error).__name__}: {error}"
        with contextlib.suppress(BudgetedError, IndexError):  # there may not even be a folder
            folders[0].write("error", {"error": reason, "traceback": traceback.format_exc()})
        return Outcome(failed={names[0]: reason})


def _train_one(task: Any, spec: Spec, folder: RunFolder, options: Options) -> None:
    from ..train.loop import fit

    rows = fit(task, spec, folder, save_every=options.save_every, keep=options.keep, **_place(options))
    _follow(_numbered(rows), [folder], [spec], options)


def _train_together(
    tasks: Sequence[Any],
    specs: Sequence[Spec],
    folders: Sequence[RunFolder],
    options: Options,
    parked: Collection[str],
) -> Outcome:
    from ..train.together import Member, fit_together

    members = [Member(task, spec, folder) for task, spec, folder in zip(tasks, specs, folders, strict=True)]
    waiting = {number for number, spec in enumerate(specs) if spec.name in parked}
    rows = fit_together(members, save_every=options.save_every, keep=options.keep, parked=waiting, **_place(options))
    parted = _follow(rows, folders, specs, options)
    return Outcome(
        finished=[specs[number].name for number in parted.results],
        groups=[[specs[number].name for number in group] for group in parted.groups],
    )


def _place(options: Options) -> dict[str, Any]:
    return {"root": None if options.root is None else Path(options.root), "device": options.device}


def _numbered(rows: Generator[dict[str, Any], None, T]) -> Generator[tuple[int, dict[str, Any]], None, T]:
    while True:
        try:
            row = next(rows)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        yield 0, row


def _follow(
    rows: Generator[tuple[int, dict[str, Any]], None, T],
    folders: Sequence[RunFolder],
    specs: Sequence[Spec],
    options: Options,
) -> T:
    """Exhaust the rows, and tell the trackers of them."""
    with contextlib.ExitStack() as stack:
        tellers = []
        if options.trackers:
            from ..integrations.trackers import track

            tellers = [
                stack.enter_context(track(options.trackers, folder, spec))
                for folder, spec in zip(folders, specs, strict=True)
            ]
        while True:
            try:
                number, row = next(rows)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if tellers:
                tellers[number](row)


def _is_held(folders: Sequence[RunFolder]) -> bool:
    return any(holder(folder.path) is not None for folder in folders)


def _task(name: str, options: Options) -> Any:
    """A task of its own for each run, over data that is read once."""
    from ..tasks import registry

    task = registry.load(name)
    read = getattr(task.data, "read", task.data)  # of a user's object, which was given one of these before

    def data(root: Path | None, device: Any) -> Any:
        key = name, root, str(device)
        if key not in _kept:
            from ..train.checkpoint import digest
            from ..train.process import random_state

            before = digest(random_state())
            found = read(root, device)
            if digest(random_state()) != before:
                return found  # it depends on the run's seed
            _kept.clear()  # one task's data at a time
            _kept[key] = found
        return _kept[key]

    data.read = read  # type: ignore[attr-defined]
    task.data = data  # type: ignore[method-assign]
    return task


_kept: dict[tuple[Any, ...], Any] = {}
