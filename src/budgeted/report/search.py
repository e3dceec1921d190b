"""A search's report: who went on, who won, what it took; and of a comparison, how far rungs can be trusted."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..analysis.search import Agreement, Choice, Difference, agreements, choices, differences
from ..core.record import atomic_write, explained
from . import search_figures as figures

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

_ON = "↑"  # goes on
_WON = "★"
_ABSENT = ""
_FAILED = "failed"
_HOW = {
    "fitted": "each rung from scratch, with {schedule} over its own budget",
    "trunk": "a constant rate, cooled down over the last {cooldown:.0%} of each rung; the next goes on from before the cooldown",
    "truncated": "{schedule} over the largest budget, cut off where a rung ends",
}


class SearchReport:
    """What there is to say of a search.

    Args:
        content: what its file says.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content, self.search = content, content["search"]
        self.agreements: list[Agreement] = agreements(content) if content["comparison"] else []
        self.differences: list[Difference] = differences(content) if content["comparison"] else []
        self.choices: list[Choice] = choices(content) if content["comparison"] else []

    @property
    def title(self) -> str:
        return str(self.search["title"] or self.search["name"])

    def print(self, console: Console) -> None:
        """The tables, and what follows, as wide as the terminal."""
        console.print(f"\n{self.title}", style="bold", markup=False, highlight=False)
        for climb in self.content["climbs"]:
            console.print(f"\n{self._head(climb)}", markup=False, highlight=False)
            if not self.content["comparison"]:
                console.print(_drawn([self._columns(), *self._rows(climb)]))
            for sentence in self._sentences(climb):
                console.print(f"- {sentence}", markup=False, highlight=False, soft_wrap=True)
        for table in self._comparison():
            console.print(_drawn(table))
        for remark in self._remarks():
            console.print(f"- {remark}", markup=False, highlight=False)

    def markdown(self) -> str:
        """The whole report as Markdown."""
        parts = [f"# {self.title}\n"]
        parts += ["".join([*map(_markdown, self._comparison()), "\n", *(f"- {r}\n" for r in self._remarks())])]
        for climb in self.content["climbs"]:
            parts.append(f"## {self._head(climb)}\n")
            parts.append("".join(f"- {sentence}\n" for sentence in self._sentences(climb, code="`")))
            parts.append(_markdown([self._columns(), *self._rows(climb)]))
        return "\n".join(part for part in parts if part.strip())

    def csv(self) -> str:
        """Each figure of each configuration on each rung that it came to, a line each."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["strategy", "budget", "updates", "configuration", "figure", "promoted"])
        for climb in self.content["climbs"]:
            for rung in climb["rungs"]:
                for label, figure in rung["figures"].items():
                    on = int(label in rung["promoted"])
                    writer.writerow([climb["strategy"], rung["budget"], rung["updates"], label, figure, on])
        return out.getvalue()

    def comparison_csv(self) -> str:
        """Each configuration's figure on each rung by each strategy, and the truth, a line each."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["strategy", "budget", "updates", "configuration", "figure", "truth"])
        truth = self.content["comparison"]["truth"]
        for strategy, rungs in self.content["comparison"]["figures"].items():
            for found, budget, updates in zip(rungs, self.content["budgets"], self.content["updates"], strict=True):
                for label, figure in found.items():
                    writer.writerow([strategy, budget, updates, label, figure, truth[label]])
        return out.getvalue()

    def write(self, out: Path) -> list[Path]:
        """Write the report's files into a folder that is there.

        Returns:
            The files.

        Raises:
            RunFolderError: where one cannot be written.
        """
        texts = {"search.md": self.markdown(), "search.csv": self.csv()}
        drawings = {"search": figures.draw_search}
        if self.content["comparison"]:
            texts["comparison.csv"] = self.comparison_csv()
            drawings["comparison"] = lambda content, path: figures.draw_comparison(
                content, self.agreements, self.choices, path
            )
        written = []
        for name, text in texts.items():
            with explained(out):
                atomic_write(out / name, text.encode())
            written.append(out / name)
        for name, draw in drawings.items():
            for ending in ("png", "svg"):
                draw(self.content, out / f"{name}.{ending}")
                written.append(out / f"{name}.{ending}")
        return written

    def _head(self, climb: Mapping[str, Any]) -> str:
        how = _HOW[climb["strategy"]].format(**self.search)
        return f"{climb['strategy']}: {how}"

    def _columns(self) -> list[str]:
        return [f"{self.content['task']['metric']}, {self.search['value']}", *self.content["budgets"]]

    def _rows(self, climb: Mapping[str, Any]) -> Iterator[list[str]]:
        """A line for each configuration, those that came farthest first."""
        for label in self._order(climb):
            yield [label, *(self._cell(climb, number, label) for number in range(len(climb["rungs"])))]

    def _order(self, climb: Mapping[str, Any]) -> list[str]:
        sign = -1.0 if self.content["task"]["maximize"] else 1.0

        def place(label: str) -> tuple[int, float]:
            there = [rung["figures"][label] for rung in climb["rungs"] if label in rung["figures"]]
            return -len(there), math.inf if there[-1] is None else sign * there[-1]

        return sorted(climb["rungs"][0]["figures"], key=lambda label: (label != climb["winner"], *place(label)))

    def _cell(self, climb: Mapping[str, Any], number: int, label: str) -> str:
        rung = climb["rungs"][number]
        if label not in rung["figures"]:
            return _ABSENT
        if (figure := rung["figures"][label]) is None:
            return _FAILED
        last = number == len(climb["rungs"]) - 1
        mark = (_WON if last else _ON) if label in rung["promoted"] else ""
        return f"{mark} {figure:.4f}".strip()

    def _sentences(self, climb: Mapping[str, Any], code: str = "") -> Iterator[str]:
        """Who won, how it is trained, and what finding it took."""
        yield f"{climb['winner']}: {self.content['task']['metric']} {climb['figure']:.4f} at {self.content['budgets'][-1]}"
        yield f"{code}{climb['command']}{code}"
        yield f"spent: {self._spent(climb['spent'])}"
        for rung in climb["rungs"]:
            for run, reason in rung["failed"].items():
                yield f"failed at {rung['budget']}: {run}: {reason}"

    def _spent(self, updates: int) -> str:
        everything = self.content["everything"]
        count = len(self.search["configurations"])
        return (
            f"{updates:,} updates, {updates / self.content['updates'][-1]:.1f} full runs, {updates / everything:.0%} of training "
            f"all {count} fully"
        )

    def _comparison(self) -> list[list[list[str]]]:
        """Two tables: how well each rung ranks, and what each strategy's choice is worth."""
        if not self.content["comparison"]:
            return []
        ranking = [["Kendall's tau with the truth", *self.content["budgets"]]]
        for strategy in dict.fromkeys(a.strategy for a in self.agreements):
            of_it = [a for a in self.agreements if a.strategy == strategy]
            ranking.append([strategy, *(f"{_number(a.tau, 2)} {_between(a.interval, 2)}" for a in of_it)])
        worth = [["strategy", "truth of its choice", "regret", "rank", "regret of halves", "updates", "full runs"]]
        for choice in self.choices:
            worth.append(
                [choice.strategy, _number(choice.truth), _number(choice.regret), str(choice.rank),
                 f"{_number(choice.mean_regret)} {_between(choice.interval)}", f"{choice.spent:,}",
                 f"{choice.spent / self.content['updates'][-1]:.1f}"]
            )  # fmt: skip
        return [ranking, worth]

    def _remarks(self) -> Iterator[str]:
        if not self.content["comparison"]:
            return
        search, runs = self.search, len(self.search["truth_seeds"] or self.search["seeds"])
        yield (
            f"The truth: {search['schedule']} over {self.content['budgets'][-1]}, the median of {runs} "
            f"run{'s' if runs > 1 else ''} of each of {len(search['configurations'])} configurations"
        )
        if not search["truth_seeds"]:
            yield (
                "the last rungs of fitted and truncated are the very runs of the truth, so their tau is 1 there and their regret "
                "flattered; give truth_seeds others than seeds"
            )
        yield from map(str, self.differences)
        yield "in brackets 95 % intervals: of tau by drawing configurations anew, of regret over random halves of them"
        yield f"the comparison itself took {self._spent(self.content['comparison']['spent'])}"


def _number(value: float, digits: int = 4) -> str:
    if math.isnan(value) or math.isinf(value):
        return _FAILED if math.isinf(value) else "–"
    return f"{value:.{digits}f}"


def _between(interval: tuple[float, float], digits: int = 4) -> str:
    return f"({_number(interval[0], digits)} to {_number(interval[1], digits)})"


def _drawn(table: Sequence[Sequence[str]]) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column
    from rich.table import Table as RichTable
    from rich.text import Text

    first, *others = table[0]
    drawn = RichTable(Column(first), *(Column(name, justify="right") for name in others), box=SIMPLE_HEAD)
    for row in table[1:]:
        style = "bold green" if any(cell.startswith(_WON) for cell in row) else ""
        drawn.add_row(*(Text(cell, style=style) for cell in row))
    return drawn


def _markdown(table: Sequence[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|").strip() for cell in row] for row in table]
    ruled = [lines[0], ["---"] + ["---:"] * (len(lines[0]) - 1), *lines[1:]]
    return "".join(f"| {' | '.join(row)} |\n" for row in ruled) + "\n"
