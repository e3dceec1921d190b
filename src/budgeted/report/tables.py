"""A study's table for the terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..analysis.tables import Cell, Table

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table as RichTable

_MARKS = {1: "¹", 2: "²", 3: "³"}
_STYLES = {1: "bold green", 2: "cyan", 3: "yellow"}
_ABSENT = "–"


def legend(table: Table) -> str:
    """What the cells show, in a sentence or two."""
    values = [len(cell.values) for cell in table.cells.values() if cell.values and not cell.mean]
    runs = f"{min(values)} to {max(values)}" if values and min(values) < max(values) else str(max(values, default=0))
    words = f"{table.what[0].upper()}{table.what[1:]}, {'higher' if table.maximize else 'lower'} is better"
    if table.value == "best_progress":
        words = (
            f"{table.what[0].upper()}{table.what[1:]}; 'all' is the mean and standard deviation over budgets and seeds"
        )
    words += f". Median of {runs} runs (lowest - highest)"
    if any(cell.place for cell in table.cells.values()):
        words += "; ¹ ² ³ are the first three places at a budget"
    if table.has_paper:
        words += "; in brackets the paper's figure"
    if table.partial:
        words += ". PARTIAL: runs are missing, and cells that lack some say how many they have"
    return words + "."


def digits(table: Table) -> int:
    """Enough for accuracies; fewer for losses above 10."""
    greatest = max((abs(v) for cell in table.cells.values() for v in cell.values if math.isfinite(v)), default=0.0)
    return 4 if greatest < 10 else 2


def _number(value: float, precision: int) -> str:
    return f"{value:.{precision}f}"


def _lacks(cell: Cell) -> str:
    """What a cell lacks, in words; empty where it is whole."""
    if not cell.wanted or len(cell.values) == cell.wanted:
        return ""
    failed = f", {cell.failed} failed" if cell.failed else ""
    return f"{len(cell.values)} of {cell.wanted}{failed}"


def _spread(cell: Cell, precision: int) -> str:
    low, high = cell.spread
    if cell.mean:
        return f"± {_number(cell.centre - low, precision)}"
    return f"({_number(low, precision)}-{_number(high, precision)})"


def cell_text(cell: Cell, precision: int, *, spread: bool = True, paper: bool = True) -> str:
    """A cell as plain text."""
    if not cell.wanted:
        return _ABSENT
    parts = [f"{_number(cell.centre, precision)}{_MARKS.get(cell.place or 0, '')}"] if cell.values else []
    if spread and len(cell.values) > 1:
        parts.append(_spread(cell, precision))
    if lacking := _lacks(cell):
        parts.append(f"[{lacking}]")
    if paper and cell.paper is not None:
        parts.append(f"[{_number(cell.paper, precision)}]")
    return " ".join(parts)


def terminal(table: Table, width: int) -> RichTable:
    """The table for a terminal of so many columns; spreads go below the medians, and are left out where there is no room."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column
    from rich.table import Table as RichTable
    from rich.text import Text

    precision = digits(table)
    room = (width - max(len(row) for row in (*table.rows, "")) - 4) // max(1, len(table.columns))
    spread = room >= 2 * precision + 9
    drawn = RichTable(Column("", no_wrap=True), *(Column(c, justify="right") for c in table.columns), box=SIMPLE_HEAD)
    for row in table.rows:
        cells = []
        for column in table.columns:
            cell = table.cell(row, column)
            lines = [cell_text(cell, precision, spread=False, paper=False)]
            if spread and len(cell.values) > 1:
                lines.append(_spread(cell, precision))
            if table.has_paper and cell.paper is not None:
                lines.append(f"[{_number(cell.paper, precision)}]")
            text = Text(lines[0], style=_STYLES.get(cell.place or 0, ""))
            for line in lines[1:]:
                text.append(f"\n{line}", style="dim")
            cells.append(text)
        drawn.add_row(Text(row), *cells)
    return drawn


def markdown(table: Table) -> str:
    """The table in Markdown, first places in bold."""
    precision = digits(table)
    lines = [f"| {table.name} | {' | '.join(table.columns)} |", "|---|" + "---|" * len(table.columns)]
    for row in table.rows:
        cells = []
        for column in table.columns:
            cell = table.cell(row, column)
            text = cell_text(cell, precision)
            if cell.place == 1:
                centre = f"{_number(cell.centre, precision)}{_MARKS[1]}"
                text = text.replace(centre, f"**{centre}**", 1)
            cells.append(text)
        lines.append(f"| {row.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", legend(table)]) + "\n"


def latex(table: Table) -> str:
    """The table in LaTeX, for the package booktabs: first places bold, second underlined, third in italics."""
    precision, marks = digits(table), {1: r"\textbf{%s}", 2: r"\underline{%s}", 3: r"\textit{%s}"}
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.title)}. {escaped(table.name)}. {escaped(_latex_legend(table))}}}",
        rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(["Budget", *map(escaped, table.columns)]) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [escaped(row)]
        for column in table.columns:
            cell = table.cell(row, column)
            if not cell.values:
                cells.append(f"[{_lacks(cell)}]" if cell.wanted else "--")
                continue
            text = marks.get(cell.place or 0, "%s") % _number(cell.centre, precision)
            if len(cell.values) > 1:
                low, high = cell.spread
                around = (
                    rf"$\pm$ {_number(cell.centre - low, precision)}"
                    if cell.mean
                    else f"{_number(low, precision)}--{_number(high, precision)}"
                )
                text += rf" {{\scriptsize {around}}}"
            if lacking := _lacks(cell):
                text += rf" {{\scriptsize [{lacking}]}}"
            if cell.paper is not None:
                text += rf" {{\scriptsize [{_number(cell.paper, precision)}]}}"
            cells.append(text)
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex_legend(table: Table) -> str:
    return legend(table).replace("¹ ² ³ are", "bold, underlined and in italics are")


def escaped(text: str) -> str:
    """The text for LaTeX."""
    special = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
               "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--"}  # fmt: skip
    return "".join(special.get(character, character) for character in text)


def table_csv(tables: Sequence[Table]) -> str:
    """Every cell of some tables, a line each."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        [
            "task",
            "metric",
            "row",
            "budget",
            "value",
            "median",
            "lowest",
            "highest",
            "runs",
            "wanted",
            "failed",
            "place",
            "paper",
        ]
    )
    for table in tables:
        for row in table.rows:
            for column in table.columns:
                if (cell := table.cell(row, column)).wanted:
                    figures = [cell.centre, *cell.spread] if cell.values else ["", "", ""]
                    places = ["" if v is None else v for v in (cell.place, cell.paper)]
                    counts = [len(cell.values), cell.wanted, cell.failed]
                    writer.writerow([table.task, table.metric, row, column, table.value, *figures, *counts, *places])
    return out.getvalue()


def runs_csv(runs: pd.DataFrame) -> str:
    """Every run, a line each."""
    counted = runs.drop(columns=["folder", "value"]).astype({"steps": "Int64", "shared": "Int64"})
    return str(counted.to_csv(index=False, lineterminator="\n"))
