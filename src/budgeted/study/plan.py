"""What a study is: rows by budgets by seeds, for one or more tasks, and the runs that they come to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from ..core.budget import Amount, Budget, Limit, Terms
from ..core.errors import BudgetedError, StudyError
from ..core.manifest import TASKS_OWN
from ..core.record import Spec
from ..core.refine import inner, is_refined
from ..core.spec import schedule as read_schedule
from ..core.text import exact, format_number, nearest

VALUES = ("task", "best", "final", "best_progress")
FIGURES = ("schedules", "budgets", "curves", "norms", "tasks")


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One row of a study's table: what is trained at each budget.

    Args:
        schedule: its text; `X over full` is X early-stopped: over the task's full budget, whatever the run's own;
            `off-the-shelf` and `step-decay` are those that people use for the task.
        label: what the row is called; the schedule and what else is named, where none is given.
        model, optimizer, lr, average: in place of the task's, as in `budgeted train`.
        subset: the share of the training data to draw before training; `budget` is the budget's own share.
        budgets: the columns in which the row stands; None for all.
    """

    schedule: str
    label: str = ""
    model: str | None = None
    optimizer: str | None = None
    lr: float | None = None
    average: str | None = None
    subset: float | str | None = None
    budgets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", ", ".join(self._parts()))
        if isinstance(self.subset, str) and self.subset != "budget":
            raise StudyError(f"row '{self.label}': subset is a share such as 0.1, or 'budget', and is '{self.subset}'")
        for name in ("lr", "subset"):
            if isinstance(getattr(self, name), int):
                object.__setattr__(self, name, float(getattr(self, name)))
        if isinstance(self.subset, float) and not 0 < self.subset <= 1:
            raise StudyError(f"row '{self.label}': subset is a share above 0 and up to 1, and is {self.subset}")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise StudyError(f"row '{self.label}': lr is a positive number, and is {self.lr}")

    def _parts(self) -> Iterator[str]:
        yield self.schedule
        yield from filter(None, (self.model, self.optimizer))
        if self.lr is not None:
            yield f"lr {format_number(self.lr)}"
        if self.average is not None:
            yield self.average
        if self.subset is not None:
            yield f"subset {self.subset}"


@final
@dataclass(frozen=True, slots=True)
class Study:
    """Rows x budgets x seeds, for one or more tasks.

    Args:
        name: what its folder is called.
        rows, budgets, seeds, tasks: the grid.
        title: a sentence for the report.
        value: the figure of a run that the table shows: `best`, the best evaluation; `final`, the last one; `task`, which
            of them the task is judged by (the paper's protocol); `best_progress`, where in the run the best one was.
        figures: which are drawn, beside the ranks.
        paper: the table of the paper whose figures are shown beside.
        ranks: the schedule whose ranking of the configurations at the largest budget is to be predicted, or None.
        precision, deterministic, refresh, evaluations, probes, probe_share: of every run, as in `budgeted train`.

    Raises:
        StudyError: for an empty grid, or what stands in it twice.
    """

    name: str
    rows: tuple[Row, ...]
    budgets: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] = ("cifar10",)
    title: str = ""
    value: str = "task"
    figures: tuple[str, ...] = ("budgets",)
    paper: str | None = None
    ranks: str | None = None
    precision: str = "float32-channels-last"
    deterministic: bool = True
    refresh: bool = False
    evaluations: int | None = None
    probes: int | None = None
    probe_share: float | None = None

    def __post_init__(self) -> None:
        labels, seeds = [row.label for row in self.rows], [str(seed) for seed in self.seeds]
        for what, names in (("rows", labels), ("budgets", [*self.budgets]), ("seeds", seeds), ("tasks", [*self.tasks])):
            if not names:
                raise StudyError(f"study '{self.name}' is empty: it has no {what}")
            if twice := next((n for n in names if names.count(n) > 1), None):
                raise StudyError(f"study '{self.name}' has '{twice}' twice among its {what}; keep one")
        for what, value, known in (("value", [self.value], VALUES), ("figure", self.figures, FIGURES)):
            for word in value:
                if word not in known:
                    raise StudyError(
                        f"study '{self.name}': {what} '{word}' is unknown{nearest(word, known) or ';'} it is one of {', '.join(known)}"
                    )
        if strange := next((s for s in self.seeds if not 0 <= s < 2**32), None):
            raise StudyError(f"study '{self.name}': a seed is a whole number from 0 to 2^32 - 1, and one is {strange}")
        for budget in self.budgets:
            _readable(f"study '{self.name}', budgets", Budget.parse, budget)
        if self.ranks is not None:
            self._require_ranks()
        _require_probes(f"study '{self.name}'", self.probes, self.probe_share)
        for row in self.rows:
            if row.schedule not in TASKS_OWN:
                _readable(f"study '{self.name}', row '{row.label}'", _schedule, row.schedule, "1ep")
            if strange_column := next((b for b in row.budgets or () if b not in self.budgets), None):
                raise StudyError(
                    f"study '{self.name}', row '{row.label}': '{strange_column}' is none of the budgets, which are "
                    f"{', '.join(self.budgets)}"
                )

    def _require_ranks(self) -> None:
        known = list(dict.fromkeys(row.schedule for row in self.rows))
        if self.ranks not in known:
            raise StudyError(
                f"study '{self.name}': ranks is the schedule '{self.ranks}', which no row has; it is one of {', '.join(known)}"
            )
        if len(self.budgets) < 2:
            raise StudyError(
                f"study '{self.name}': ranks at the last budget are predicted from smaller ones; give two budgets or more"
            )

    def narrowed(
        self,
        *,
        tasks: Sequence[str] = (),
        budgets: Sequence[str] = (),
        seeds: Sequence[int] = (),
        rows: Sequence[str] = (),
        **changed: Any,
    ) -> Study:
        """The same study for other tasks, some of its budgets or others, other seeds, some of its rows.

        Raises:
            StudyError: for a row that it does not have, or where nothing is left.
        """
        labels = [row.label for row in self.rows]
        for label in rows:
            if label not in labels:
                raise StudyError(
                    f"study '{self.name}' has no row '{label}'{nearest(label, labels) or ';'} its rows are {', '.join(labels)}"
                )
        columns = tuple(budgets) or self.budgets
        kept = []
        for row in self.rows:
            if rows and row.label not in rows:
                continue
            own = (
                None if row.budgets is None else tuple(b for b in columns if b in row.budgets or b not in self.budgets)
            )
            if own != ():
                kept.append(replace(row, budgets=own))
        return replace(
            self,
            tasks=tuple(tasks) or self.tasks,
            budgets=columns,
            seeds=tuple(seeds) or self.seeds,
            rows=tuple(kept),
            **changed,
        )

    def with_row(self, row: Row) -> Study:
        """The same study with a row more, if it does not have it."""
        return self if row in self.rows else replace(self, rows=(*self.rows, row))

    def cells(self, facts: Mapping[str, Facts]) -> list[Cell]:
        """Every run of the grid, task by task.

        Args:
            facts: of each task.

        Raises:
            StudyError: for budgets below one update, or early-stopping over a full budget of several limits.
        """
        return [
            Cell(task, row.label, budget, seed, self._spec(task, row, budget, seed, facts[task]))
            for task, row, budget, seed in itertools.product(self.tasks, self.rows, self.budgets, self.seeds)
            if self._stands(row, budget)
        ]

    def _stands(self, row: Row, budget: str) -> bool:
        """Whether a row is trained at a budget: at the last one, where ranks are predicted, only those that make the ranks."""
        if self.ranks is not None and budget == self.budgets[-1] and row.schedule != self.ranks:
            return False
        return row.budgets is None or budget in row.budgets

    def _spec(self, task: str, row: Row, column: str, seed: int, facts: Facts) -> Spec:
        where = f"study '{self.name}', row '{row.label}', budget '{column}'"
        budget = _readable(where, resolved, column, facts.full_budget)
        _readable(where, Budget.caps, budget, facts.terms)  # there is at least one update
        schedule = _schedule(facts.meant(row.schedule), facts.full_budget)
        if facts.warmup is not None and is_refined(schedule):
            raise StudyError(
                f"{where}: task '{task}' has a warm-up of {facts.warmup}, which a refined schedule replaces; leave the row out"
            )
        if facts.warmup is not None and not schedule.startswith("warmup("):
            warm = f"{where}: task '{task}' has a warm-up of {facts.warmup}"
            schedule = str(_readable(warm, read_schedule, f"warmup({facts.warmup}, {schedule})"))
        subset = _share(column, where) if row.subset == "budget" else row.subset
        return Spec(
            task, str(budget), schedule, seed, self.deterministic, self.precision, self.refresh, self.evaluations,
            row.average, None, row.model, row.optimizer, row.lr, subset, self.probes, self.probe_share,  # type: ignore[arg-type]
        )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class Facts:
    """What a study must know of a task before it trains."""

    full_budget: str
    steps_per_epoch: int
    metric: str
    maximize: bool
    warmup: str | None = None
    chance: float | None = None
    off_the_shelf: str = "step-d2"
    step_decay: str = "step-d2"
    judged_by: str = "best"
    also: tuple[str, ...] = ()

    def meant(self, schedule: str) -> str:
        """The schedule that a row means by one of `TASKS_OWN`; any other is itself."""
        return {"off-the-shelf": self.off_the_shelf, "step-decay": self.step_decay}.get(schedule, schedule)

    @property
    def terms(self) -> Terms:
        return Terms(self.steps_per_epoch, Budget.parse(self.full_budget))


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One run in its place in the table."""

    task: str
    row: str
    budget: str
    seed: int
    spec: Spec = field(repr=False)


def resolved(budget: str, full: str) -> Budget:
    """A budget whose shares are taken: 5 % of 20 epochs is one epoch. Two studies then mean the same run by it."""
    parts: list[Limit] = []
    for limit in Budget.parse(budget).limits:
        if isinstance(limit, Amount) and limit.unit == "%":
            parts += Budget.parse(full).scaled(exact(limit.amount) / 100).limits
        else:
            parts.append(limit)
    return Budget(tuple(dict.fromkeys(parts)))


def _require_probes(where: str, probes: int | None, share: float | None) -> None:
    """Refuse what no run can be probed by.

    Raises:
        StudyError: with what is allowed.
    """
    if probes is not None and probes < 2:
        raise StudyError(f"{where}: probes is how often the full gradient is measured, from 2, and is {probes}")
    if share is not None and not 0 < share <= 1:
        raise StudyError(f"{where}: probe_share is a share of the training data above 0 and up to 1, and is {share}")
    if share is not None and probes is None:
        raise StudyError(
            f"{where}: probe_share is of the data that probes read, and there are no probes; give probes too"
        )


def _schedule(text: str, full: str) -> str:
    """The schedule's own text, with the full budget in place of its name."""
    if is_refined(text):
        return f"refined({_schedule(inner(text), full)})"
    stem, over, horizon = text.rpartition(" over ")
    if over and horizon.strip() == "full":
        text = f"{stem} over {full}"
    return str(read_schedule(text))


def _share(column: str, where: str) -> float:
    match Budget.parse(column).limits:
        case (Amount(amount, "%"),):
            return amount / 100
    raise StudyError(f"{where}: a subset as large as the budget needs budgets in shares of the full one, such as 5%")


def _readable(where: str, read: Any, *arguments: Any) -> Any:
    """What was read, or an error that says where it stands."""
    try:
        return read(*arguments)
    except BudgetedError as error:
        raise StudyError(f"{where}: {error}") from None
