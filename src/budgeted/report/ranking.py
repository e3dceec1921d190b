"""Rank prediction as tables and a figure (the paper's tables 6 to 8)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..analysis.ranking import Estimate, Ranking
from ..analysis.tables import budget_size
from ..core.record import atomic_write, explained
from ..core.text import file_name
from .study_figures import places
from .style import figure, look
from .tables import escaped

if TYPE_CHECKING:
    from rich.console import Console

_NAME = "rank-prediction"
_FORMATS = ("md", "csv", "tex", "png", "svg")
Cells = Mapping[tuple[str, str], Estimate]


def notes(found: Ranking) -> Iterator[str]:
    """What is to be known of the tables, in sentences."""
    schedule, budget = found.reference
    yield (
        f"{len(found.configurations)} configurations, ranked by their median {found.metric} over {found.seeds} "
        f"{'seed' if found.seeds == 1 else 'seeds'}; in brackets 95 % bootstrap intervals over configurations"
        + ("; after them the paper's figure." if any(e.paper is not None for e in found.tau.values()) else ".")
    )
    if found.left_out:
        parts = "; ".join(f"{name}: {why}" for name, why in found.left_out.items())
        yield f"{len(found.left_out)} left out: {parts}."
    if fewer := sorted({n for n in found.ranked.values() if n < len(found.configurations)}):
        yield f"Some cells rest on fewer configurations, down to {fewer[0]}: runs are missing or failed there."
    if math.isnan(found.repeatable):
        yield f"With one seed it is not known how far the ranks of {schedule} at {budget} repeat themselves."
    else:
        yield (
            f"Tau between the ranks of single seeds of {schedule} at {budget} is {found.repeatable:.2f} on average: no prediction "
            "can be expected to do much better."
        )


def print_ranking(found: Ranking, console: Console) -> None:
    """The three tables, as wide as the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    console.print(f"\n{found.task}", markup=False, highlight=False)
    for title, cells in found.tables:
        console.print(f"\n{title}", style="bold", markup=False, highlight=False)
        table = Table(Column("", no_wrap=True), *(Column(b, justify="right") for b in found.budgets), box=SIMPLE_HEAD)
        for schedule in found.schedules:
            table.add_row(schedule, *(_text(cells.get((schedule, b)), "\n") for b in found.budgets))
        console.print(table)
    for note in notes(found):
        console.print(f"- {note}", markup=False, highlight=False)


def _text(cell: Estimate | None, between: str = " ") -> str:
    if cell is None:
        return "–"
    text = f"{cell.value:.4f}"
    if cell.low == cell.low:
        text += f"{between}({cell.low:.2f} to {cell.high:.2f})"
    return text if cell.paper is None else f"{text}{between}[{cell.paper:.4f}]"


def write_rankings(found: Sequence[Ranking], out: Path, formats: Sequence[str] = _FORMATS) -> list[Path]:
    """Write `rank-prediction.md`, `.csv`, `.tex` and a figure for each task into a folder.

    Args:
        found: a ranking for each task.
        out: the folder; made where it is missing.
        formats: some of md, csv, tex, png, svg; others are passed over.

    Returns:
        The files.

    Raises:
        RunFolderError: where one cannot be written.
    """
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    texts = {"md": markdown, "csv": ranking_csv, "tex": latex}
    written = []
    for ending in formats:
        if ending in texts:
            path = out / f"{_NAME}.{ending}"
            with explained(out):
                atomic_write(path, texts[ending](found).encode())
            written.append(path)
        elif ending in _FORMATS:
            for one in found:
                path = out / f"{_NAME}{f'-{file_name(one.task)}' if len(found) > 1 else ''}.{ending}"
                draw_ranking(one, path)
                written.append(path)
    return written


def markdown(found: Sequence[Ranking]) -> str:
    """All tables in Markdown."""
    parts = []
    for one in found:
        parts.append(f"## {one.task}\n")
        for title, cells in one.tables:
            lines = [f"{title}:\n", f"| | {' | '.join(one.budgets)} |", "|---|" + "---|" * len(one.budgets)]
            for schedule in one.schedules:
                lines.append(f"| {schedule} | {' | '.join(_text(cells.get((schedule, b))) for b in one.budgets)} |")
            parts.append("\n".join(lines) + "\n")
        parts.append("".join(f"- {note}\n" for note in notes(one)))
    return "\n".join(parts)


def latex(found: Sequence[Ranking]) -> str:
    """All tables in LaTeX, for the package booktabs."""
    parts = [r"% \usepackage{booktabs}"]
    for one in found:
        for title, cells in one.tables:
            lines = [
                r"\begin{table}", r"\centering", rf"\caption{{{escaped(one.task)}. {escaped(title)}.}}",
                rf"\begin{{tabular}}{{l{'r' * len(one.budgets)}}}", r"\toprule",
                " & ".join(["Budget", *map(escaped, one.budgets)]) + r" \\", r"\midrule",
            ]  # fmt: skip
            for schedule in one.schedules:
                row = [escaped(schedule), *(escaped(_text(cells.get((schedule, b)))) for b in one.budgets)]
                lines.append(" & ".join(row) + r" \\")
            parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]))
    return "\n".join(parts) + "\n"


def ranking_csv(found: Sequence[Ranking]) -> str:
    """Every cell of the three tables, a line each."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "figure", "schedule", "budget", "value", "low", "high", "configurations", "paper"])
    for one in found:
        for name, cells in zip(("tau", "mean", "normalised"), (one.tau, one.mean, one.normalised), strict=True):
            for (schedule, budget), cell in cells.items():
                paper = "" if cell.paper is None else cell.paper
                figures = [cell.value, cell.low, cell.high, one.ranked[schedule, budget], paper]
                writer.writerow([one.task, name, schedule, budget, *figures])
    return out.getvalue()


def draw_ranking(found: Ranking, path: Path) -> None:
    """Tau against budget; beside it, what the largest of the small budgets says against what the full one does."""
    at, labels, log = places(found.budgets)
    with figure(path, 10.0, 3.8) as drawn:
        taus, pairs = drawn.subplots(1, 2)
        for number, schedule in enumerate(found.schedules):
            cells = [
                (x, cell) for x, b in zip(at, found.budgets, strict=True) if (cell := found.tau.get((schedule, b)))
            ]
            if not cells:
                continue
            shift = 1 + 0.02 * (number - (len(found.schedules) - 1) / 2)  # so that intervals stand side by side
            xs = [x * shift if log else x + shift - 1 for x, _ in cells]
            line = look(number)
            taus.plot(xs, [c.value for _, c in cells], label=schedule, markersize=4, **line)
            errors = [[c.value - c.low for _, c in cells], [c.high - c.value for _, c in cells]]
            taus.errorbar(
                xs, [c.value for _, c in cells], errors, fmt="none", ecolor=line["color"], elinewidth=0.8, alpha=0.7
            )
            last = max((b for s, b in found.metrics if s == schedule), key=budget_size)
            pairs.plot(
                found.metrics[schedule, last], found.target, linestyle="none", marker=line["marker"], color=line["color"],
                markersize=4, alpha=0.8, label=f"{schedule} at {last}",
            )  # fmt: skip
        if not math.isnan(found.repeatable):
            taus.axhline(
                found.repeatable, color="#777777", linestyle=":", linewidth=1.2, label="between seeds of the target"
            )
        if log:
            taus.set_xscale("log")
        taus.set_xticks(at, labels)
        taus.minorticks_off()
        taus.set(xlabel="budget", ylabel="Kendall's tau")
        taus.legend(fontsize=8)
        schedule, budget = found.reference
        pairs.set(xlabel=f"{found.metric} at the small budget", ylabel=f"{found.metric}, {schedule} at {budget}")
        pairs.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
        drawn.suptitle(f"{found.task}: ranks of {len(found.configurations)} configurations", fontsize=10)
