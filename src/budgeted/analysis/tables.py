"""Runs to the cells of a table: medians, spreads, places, and the paper's own figures beside them."""

from __future__ import annotations

import csv
import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, final

import pandas as pd

from ..core.budget import Amount, Budget
from ..core.manifest import Manifest
from .results import finals, value_of

# Table 9 counts epochs of 200. Its 50 is the end of the period that ends at 70, T0 = 10 and Tmult = 2 being what they are.
_PAPERS_COLUMNS = {"15%": "30 ep", "35%": "50 ep", "75%": "150 ep"}
ALL = "all"  # the column in which where the best checkpoint was is averaged over budgets and seeds


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what its runs came to.

    Args:
        values: of the finished runs, by their seeds' order.
        wanted: runs that the study has there; 0 where the row does not stand in the column.
        failed: of them.
        place: 1, 2 or 3 among the complete cells of the column, else None.
        paper: the paper's figure for it, or None.
        mean: whether mean and standard deviation are shown instead of median and range.
    """

    values: tuple[float, ...] = ()
    wanted: int = 0
    failed: int = 0
    place: int | None = None
    paper: float | None = None
    mean: bool = False

    @property
    def centre(self) -> float:
        """The median, as in the paper; NaN where there is no value."""
        if not self.values:
            return math.nan
        return statistics.fmean(self.values) if self.mean else statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest value; of a mean, one standard deviation around it."""
        if not self.values:
            return math.nan, math.nan
        if self.mean:
            deviation = statistics.stdev(self.values) if len(self.values) > 1 else 0.0
            return self.centre - deviation, self.centre + deviation
        return min(self.values), max(self.values)

    @property
    def complete(self) -> bool:
        return bool(self.values) and len(self.values) == self.wanted


@final
@dataclass(frozen=True, slots=True)
class Table:
    """The table of one task.

    Args:
        title: of the study.
        task, metric: whose, and what of it.
        rows, columns: labels, in order.
        cells: by label and column.
        maximize: which way is better.
        value: which figure of a run: best, final or best_progress.
        partial: whether runs are missing.
        also: whether the metric is another than the one that the task is judged by first.
    """

    title: str
    task: str
    metric: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    maximize: bool
    value: str
    partial: bool
    also: bool = False

    @property
    def name(self) -> str:
        """What the table is called among those of a study."""
        return f"{self.task}, {self.metric}" if self.also else self.task

    def cell(self, row: str, column: str) -> Cell:
        return self.cells.get((row, column), Cell())

    @property
    def what(self) -> str:
        """What the figures are, in words."""
        return {
            "best": f"best {self.metric} among evaluations",
            "final": f"{self.metric} of the final model",
            "best_progress": f"progress at which the best {self.metric} was reached",
        }[self.value]

    @property
    def has_paper(self) -> bool:
        return any(cell.paper is not None for cell in self.cells.values())


def tables_of(manifest: Manifest, runs: pd.DataFrame) -> list[Table]:
    """A table for each task of a study, and one for each other metric that the task is known by.

    Args:
        manifest: of the study.
        runs: its runs, as `results.runs_of` gives them.
    """
    found = []
    for name, frame in runs.groupby("task", sort=False):
        task = str(name)
        facts, value = manifest.content["tasks"][task], value_of(manifest, task)
        found.append(_table(manifest, task, frame, facts["metric"], value))
        if value == "final":
            for metric in facts.get("also", ()):
                others = frame.assign(value=finals(frame, metric))
                found.append(replace(_table(manifest, task, others, metric, value), also=True))
    return found


def _table(manifest: Manifest, task: str, runs: pd.DataFrame, metric: str, value: str) -> Table:
    study, maximize = manifest.content["study"], manifest.content["tasks"][task]["maximize"]
    rows, there = _in_order(runs["row"]), _in_order(runs["budget"])
    columns = sorted(there, key=budget_size)
    if value == "best_progress":
        columns = [*columns, ALL]
    paper = _paper_figures(study, task, metric)
    cells: dict[tuple[str, str], Cell] = {}
    for (row, column), some in runs.groupby(["row", "budget"], sort=False):
        known = paper.get((_plain(str(row)), _PAPERS_COLUMNS.get(str(column), str(column))))
        cells[str(row), str(column)] = _cell(some, known)
    if value == "best_progress":
        for row in rows:
            known = paper.get((_plain(row), ">=10%"))
            cells[row, ALL] = _cell(runs[runs["row"] == row], known, mean=True)
    elif len(rows) > 1:
        for column in columns:
            _award(cells, rows, column, maximize)
    partial = bool((runs["status"] != "finished").any())
    return Table(study["title"], task, metric, tuple(rows), tuple(columns), cells, maximize, value, partial)


def _cell(some: pd.DataFrame, paper: float | None, *, mean: bool = False) -> Cell:
    done = some[some["status"] == "finished"].sort_values("seed")
    values = tuple(float(v) for v in done["value"] if not math.isnan(v))
    return Cell(values, len(some), int((some["status"] == "failed").sum()), None, paper, mean)


def _award(cells: dict[tuple[str, str], Cell], rows: Sequence[str], column: str, maximize: bool) -> None:
    """First, second and third place by the median; equal medians share a place."""
    standing = {row: cells[row, column] for row in rows if (row, column) in cells and cells[row, column].complete}
    ordered = sorted({cell.centre for cell in standing.values()}, reverse=maximize)
    for row, cell in standing.items():
        place = sum(1 for other in standing.values() if _beats(other.centre, cell.centre, maximize)) + 1
        if place <= 3 and len(ordered) > 1:
            cells[row, column] = Cell(cell.values, cell.wanted, cell.failed, place, cell.paper, cell.mean)


def _beats(one: float, other: float, maximize: bool) -> bool:
    return one > other if maximize else one < other


def budget_size(budget: str) -> tuple[str, float]:
    """What budgets are sorted by: the unit, then the amount."""
    limit = Budget.parse(budget).limits[0]
    return (limit.unit, limit.amount) if isinstance(limit, Amount) else (str(limit), 0.0)


def _in_order(values: Any) -> list[str]:
    return [str(value) for value in dict.fromkeys(values)]


# The paper's own figures


# The paper's names of its tasks, by ours and their metrics.
_PAPERS_TASKS = {
    ("cifar10", "accuracy"): "CIFAR-10",
    ("imagenet", "accuracy"): "ImageNet",
    ("coco", "box_ap"): "COCO detection",
    ("coco", "mask_ap"): "COCO instance segmentation",
    ("cityscapes", "miou"): "Cityscapes",
    ("kinetics", "accuracy"): "Kinetics-400",
}
_SAME_RECIPE = {"folder", "backbone", "decode"}  # arguments of a task that leave the paper's recipe as it is


def _paper_figures(study: Mapping[str, Any], task: str, metric: str) -> dict[tuple[str, str], float]:
    """What the paper has for a study: for its own tasks, models and recipes only."""
    stem, _, arguments = task.partition("(")
    changed = {part.partition("=")[0].strip() for part in arguments.rstrip(") ").split(",") if part} - _SAME_RECIPE
    name = _PAPERS_TASKS.get((stem, metric))
    if study.get("paper") is None or name is None or changed:
        return {}
    figures = {
        (_plain(row["schedule"]), row["budget"]): float(row["value"])
        for row in reported()
        if row["table"] in study["paper"].split(",")
        and row["task"].partition(" / ")[0] == name
        and "standard deviation" not in row["metric"]
    }
    usual = "poly" if stem == "cityscapes" else "step"
    return figures | {("off-the-shelf", budget): value for (row, budget), value in figures.items() if row == usual}


def _plain(label: str) -> str:
    return label.replace(" ", "").lower()


@functools.cache
def reported() -> tuple[dict[str, str], ...]:
    """Every number in the tables of Li, Yumer and Ramanan, "Budgeted Training" (ICLR 2020).

    Each with its table, task, metric, schedule, budget and value, as text.
    """
    text = resources.files(__package__).joinpath("paper.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


# What follows from a table


def frontier(table: Table) -> list[tuple[str, float]]:
    """The efficient frontier: the best median that any row has at each budget or below (the paper's figure 1)."""
    found: list[tuple[str, float]] = []
    for column in table.columns:
        medians = [c.centre for row in table.rows if (c := table.cell(row, column)).values]
        if not medians:
            continue
        best = max(medians) if table.maximize else min(medians)
        if found and _beats(found[-1][1], best, table.maximize):
            best = found[-1][1]
        found.append((column, best))
    return found


def normalised(table: Table) -> float | None:
    """What the paper's figure 1 divides by: the best median at the full budget; None where that was not trained."""
    medians = [c.centre for row in table.rows if (c := table.cell(row, "100%")).values]
    if not medians:
        return None
    best = max(medians) if table.maximize else min(medians)
    return best or None
