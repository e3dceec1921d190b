"""Successive halving whose rungs are fair: each trains with a schedule that is fitted to its own budget.

Many configurations are trained on a small budget, the best of them on a larger one, and so on (Jamieson & Talwalkar 2016;
Li et al. 2018, Hyperband). What is seen of a configuration on a rung depends on how it is trained there:

- `fitted`: from scratch, with a schedule over the rung's own budget;
- `trunk`: at a constant rate, cooled down over the last part of the rung's budget; the next rung goes on from before the
  cooldown, so that the constant part is trained once;
- `truncated`: with one schedule over the largest budget, cut off where the rung ends; the next rung goes on from there.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from ..core.budget import Budget
from ..core.errors import StudyError
from ..core.halving import promote
from ..core.record import SCHEMA, RunFolder, Spec, atomic_write, explained, finite
from ..core.spec import schedule as read_schedule
from ..core.text import format_number
from . import sharing
from .conduct import Standing, find_facts, train_specs
from .engine import Engine
from .plan import Cell, Facts, Study, resolved
from .space import STRATEGIES, Configuration, Search
from .work import Options

FOLDER = "searches"  # beside the runs


@final
@dataclass(frozen=True, slots=True)
class Ladder:
    """A search with its rungs: their budgets, and the runs on them.

    Args:
        search: what is looked for.
        facts: of its task.
        budgets: of the rungs, as text, the largest last.
        updates: that each of them buys.
    """

    search: Search
    facts: Facts
    budgets: tuple[str, ...]
    updates: tuple[int, ...]

    @classmethod
    def fitting(cls, search: Search, facts: Facts) -> Ladder:
        """The rungs that a search asks for: each has an eta-th of the next one's updates.

        Raises:
            StudyError: for budgets that are not counted in updates, and rungs below one.
        """
        where = f"search '{search.name}'"
        largest = resolved(search.budget, facts.full_budget)
        full = _updates(largest, facts, where)
        count = search.rungs or 3
        if search.smallest is not None:
            least = _updates(resolved(search.smallest, facts.full_budget), facts, where)
            if least * search.eta > full:
                raise StudyError(
                    f"{where}: smallest '{search.smallest}' is {least} updates, and the largest budget '{search.budget}' is {full}: "
                    f"one rung, and nothing to halve; give less than {full / search.eta:.0f} steps"
                )
            count = 1 + math.floor(math.log(full / least) / math.log(search.eta) + 1e-9)
        first = full / search.eta ** (count - 1)
        if first < 1:
            most = 1 + math.floor(math.log(full) / math.log(search.eta))
            raise StudyError(
                f"{where}: of {count} rungs up to {full} updates the first is {first:.2g} of an update, with eta "
                f"{format_number(search.eta)}; ask for {most} rungs at most, or a larger budget"
            )
        updates = tuple(round(full / search.eta**below) for below in range(count - 1, 0, -1))
        return cls(search, facts, (*(f"{n} steps" for n in updates), str(largest)), (*updates, full))

    def schedule(self, strategy: str, rung: int) -> str:
        """The schedule of a strategy's runs on a rung."""
        if strategy == "trunk":
            return str(read_schedule(f"wsd(decay={format_number(self.search.cooldown)})"))
        if strategy == "truncated" and rung < len(self.budgets) - 1:
            return f"{self.search.schedule} over {self.budgets[-1]}"
        return self.search.schedule

    def cells(self, strategy: str, rung: int, configurations: Sequence[Configuration]) -> list[Cell]:
        """The runs of some configurations on a rung.

        Raises:
            StudyError: for a schedule that cannot be had, such as one cut off on a task with a warm-up in updates.
        """
        return self._cells(strategy, rung, configurations, self.search.seeds)

    def truth(self) -> list[Cell]:
        """What the strategies are held against: every configuration on the largest budget, with a schedule fitted to it."""
        seeds = self.search.truth_seeds or self.search.seeds
        return self._cells("fitted", len(self.budgets) - 1, self.search.configurations, seeds)

    def everything(self) -> list[Spec]:
        """The runs of a comparison: every strategy's on every rung of every configuration, and the truth's."""
        rungs = range(len(self.budgets))
        cells = [c for s in STRATEGIES for rung in rungs for c in self.cells(s, rung, self.search.configurations)]
        return list({cell.spec: None for cell in (*cells, *self.truth())})

    def cost(self, specs: Sequence[Spec]) -> int:
        """Updates of some runs, when what they have in common is trained once."""
        terms = {self.search.task: self.facts.terms}
        return sum(sharing.length(spec, terms[spec.task]) or 0 for spec in specs) - sharing.saved(specs, terms)

    def command(self, strategy: str, configuration: Configuration) -> str:
        """The command line that trains a configuration as the last rung does."""
        last = len(self.budgets) - 1
        spec = self.cells(strategy, last, [configuration])[0].spec
        schedule = str(
            read_schedule(self.schedule(strategy, last))
        )  # without the task's warm-up, which comes by itself
        named = {
            "budget": spec.budget, "schedule": schedule, "seed": str(spec.seed), "model": spec.model,
            "optimizer": spec.optimizer, "lr": None if spec.lr is None else format_number(spec.lr), "precision": spec.precision,
        }  # fmt: skip
        given = [f"--{name} {shlex.quote(value)}" for name, value in named.items() if value is not None]
        return " ".join(["budgeted train", shlex.quote(spec.task), *given, "--deterministic --no-refresh"])

    def _cells(
        self, strategy: str, rung: int, configurations: Sequence[Configuration], seeds: tuple[int, ...]
    ) -> list[Cell]:
        schedule = self.schedule(strategy, rung)
        study = _study(self.search, configurations, schedule, self.budgets[rung], seeds)
        return study.cells({self.search.task: self.facts})


def _study(
    search: Search, configurations: Iterable[Configuration], schedule: str, budget: str, seeds: tuple[int, ...]
) -> Study:
    rows = tuple(one.row(schedule) for one in configurations)
    return Study(search.name, rows, (budget,), seeds, (search.task,), precision=search.precision)


def _updates(budget: Budget, facts: Facts, where: str) -> int:
    caps = budget.caps(facts.terms)
    if len(caps) != 1 or caps[0].resource != "steps":
        raise StudyError(
            f"{where}: the budget '{budget}' is not counted in updates, so that rungs cannot be told before; write it in "
            "epochs, steps, or a share of the task's full budget"
        )
    return int(caps[0].amount)


def find_ladder(search: Search, engine: Engine, options: Options) -> Ladder:
    """The rungs of a search, once its task, models and optimizers were looked at where they will be trained.

    Raises:
        StudyError: for what is not to be had, and what `Ladder.fitting` refuses.
    """
    study = _study(search, search.configurations, search.schedule, search.budget, search.seeds)
    return Ladder.fitting(search, find_facts(study, engine, options)[search.task])


@final
@dataclass(frozen=True, slots=True)
class Rung:
    """How a rung ended.

    Args:
        budget, updates: of each run on it.
        figures: of each configuration, in the search's order; None where it came to nothing.
        promoted: those that go on, the best first; on the last rung the best one.
        failed: why runs failed, by their names.
    """

    budget: str
    updates: int
    figures: dict[str, float | None]
    promoted: tuple[str, ...]
    failed: dict[str, str] = field(default_factory=dict)


class Climb:
    """A strategy's way up the rungs. All that it knows is in the folders of the runs, so that another one goes on from there.

    Args:
        ladder: the rungs.
        strategy: how configurations are trained on them.
        engine, options: where and how.
    """

    def __init__(self, ladder: Ladder, strategy: str, engine: Engine, options: Options) -> None:
        self.ladder, self.strategy = ladder, strategy
        self.rungs: list[Rung] = []
        self._engine, self._options = engine, options
        self._left: Sequence[Configuration] = ladder.search.configurations
        self._trained: dict[Spec, None] = {}

    @property
    def over(self) -> bool:
        return len(self.rungs) == len(self.ladder.budgets)

    @property
    def title(self) -> str:
        """What is under way."""
        number, budgets = len(self.rungs), self.ladder.budgets
        return (
            f"{self.ladder.search.name}, {self.strategy}, rung {number + 1} of {len(budgets)}: "
            f"{len(self._left)} at {budgets[number]}"
        )

    def conduct(self, *, retry: bool = False) -> Generator[Standing, None, Rung]:
        """Train the next rung, and say who goes on.

        Args:
            retry: whether failed runs are tried again.

        Yields:
            How it stands.

        Raises:
            StudyError: where no configuration came through.
            Interrupted: as `budgeted.study.conduct.conduct`.
        """
        number, ladder = len(self.rungs), self.ladder
        cells = ladder.cells(self.strategy, number, self._left)
        specs = [cell.spec for cell in cells]
        facts = {ladder.search.task: ladder.facts}
        later = [] if self.strategy == "fitted" else self._later(number)
        standing = None
        for standing in train_specs(specs, facts, self._engine, self._options, beside=later, retry=retry):
            yield standing
        self._trained |= dict.fromkeys(specs)
        figures = figures_of(cells, Path(self._options.out), ladder.search.value, ladder.facts.maximize)
        failed = dict(standing.failed) if standing is not None else {}
        eta = ladder.search.eta if number < len(ladder.budgets) - 1 else math.inf
        promoted = promote(figures, eta, maximize=ladder.facts.maximize)
        if not promoted:
            reason = f": {next(iter(failed.values()))}" if failed else ""
            raise StudyError(
                f"search '{ladder.search.name}': all {len(figures)} configurations failed at '{ladder.budgets[number]}'{reason}"
            )
        self.rungs.append(Rung(ladder.budgets[number], ladder.updates[number], figures, promoted, failed))
        self._left = [one for one in self._left if one.label in promoted]
        return self.rungs[-1]

    def _later(self, number: int) -> list[Spec]:
        """What those on a rung will be on the rungs above, should they come there."""
        above = range(number + 1, len(self.ladder.budgets))
        return [cell.spec for rung in above for cell in self.ladder.cells(self.strategy, rung, self._left)]

    def content(self) -> dict[str, Any]:
        """The climb, once it is over, as it stands in the search's file."""
        best, root = self._left[0], self._options.root
        where = "" if root is None else f" --data {shlex.quote(root)}"
        return {
            "strategy": self.strategy,
            "rungs": [asdict(rung) for rung in self.rungs],
            "winner": best.label,
            "figure": self.rungs[-1].figures[best.label],
            "command": self.ladder.command(self.strategy, best) + where,
            "spent": self.ladder.cost(list(self._trained)),
        }


def foreseen(ladder: Ladder, strategy: str) -> list[Spec]:
    """As many runs as a strategy trains where nothing fails; which configurations they are of does not matter."""
    left, found = ladder.search.configurations, []
    for rung in range(len(ladder.budgets)):
        found += [cell.spec for cell in ladder.cells(strategy, rung, left)]
        left = left[: max(1, int(len(left) / ladder.search.eta))]
    return found


def figures_of(cells: Sequence[Cell], out: Path, value: str, maximize: bool) -> dict[str, float | None]:
    """The median over seeds of each configuration, a run that came to nothing being worse than any other.

    Args:
        cells: of the runs.
        out: the folder that they are in.
        value: `final` or `best`.
        maximize: which way is better.

    Returns:
        The figures by label; None where the median is a run that came to nothing.
    """
    worst = -math.inf if maximize else math.inf
    found: dict[str, list[float]] = {}
    for cell in cells:
        folder = RunFolder.finished(out, cell.spec)
        result = None if folder is None else folder.result
        figure = None if result is None else result["metric"][value]
        found.setdefault(cell.row, []).append(worst if figure is None or math.isnan(figure) else float(figure))
    medians = {label: statistics.median(values) for label, values in found.items()}
    return {label: median if math.isfinite(median) else None for label, median in medians.items()}


def compared(ladder: Ladder, options: Options) -> dict[str, Any]:
    """The figures of every configuration on every rung by each strategy, and the truth, as they stand in the search's file."""
    out, value, maximize = Path(options.out), ladder.search.value, ladder.facts.maximize
    rungs, all_of_them = range(len(ladder.budgets)), ladder.search.configurations
    return {
        "truth": figures_of(ladder.truth(), out, value, maximize),
        "figures": {
            strategy: [figures_of(ladder.cells(strategy, r, all_of_them), out, value, maximize) for r in rungs]
            for strategy in STRATEGIES
        },
        "spent": ladder.cost(ladder.everything()),
    }


def write(ladder: Ladder, climbs: Sequence[Climb], comparison: Mapping[str, Any] | None, out: Path) -> dict[str, Any]:
    """Write the search's file, `search.json` in its folder below that of the runs, and return what it says.

    Raises:
        RunFolderError: where it cannot be written.
    """
    search = ladder.search
    full = ladder.updates[-1]
    content = {
        "schema": SCHEMA,
        "search": asdict(search),
        "task": asdict(ladder.facts),
        "budgets": list(ladder.budgets),
        "updates": list(ladder.updates),
        "everything": full * len(search.seeds) * len(search.configurations),  # all of them on the largest budget
        "climbs": [climb.content() for climb in climbs],
        "comparison": comparison,
    }
    folder = out / FOLDER / search.name
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / "search.json", json.dumps(finite(content), indent=1).encode())
    return content
