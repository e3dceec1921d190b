"""A study's figures: performance against budget, curves on the way, schedules, ranks."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..analysis.results import curve
from ..analysis.statistics import ALPHA, Ranks
from ..analysis.tables import Table, frontier, normalised
from ..core.budget import Amount, Budget
from ..core.refine import is_refined
from ..core.schedule import Schedule
from ..core.spec import schedule as read_schedule
from .schedules import draw_schedules
from .style import figure, look


def draw_budgets(table: Table, path: Path) -> None:
    """Performance against budget, plain and, where the full budget was trained, as a share of its best (the paper's figure 1)."""
    at, labels, log = places(table.columns)
    full = normalised(table)
    panels = 2 if full else 1
    with figure(path, 5.2 * panels + 1.6, max(3.4, 0.2 * len(table.rows) + 1.2)) as drawn:
        axes = drawn.subplots(1, panels, squeeze=False)[0]
        for panel, (axis, scale) in enumerate(zip(axes, (1.0, full or 1.0), strict=False)):
            for number, row in enumerate(table.rows):
                there = [
                    (x, c) for x, column in zip(at, table.columns, strict=True) if (c := table.cell(row, column)).values
                ]
                if not there:
                    continue
                xs = [x for x, _ in there]
                line, shift = (
                    look(number),
                    0.012 * (number - (len(table.rows) - 1) / 2),
                )  # so that ranges stand side by side
                xs = [x * math.exp(shift) if log else x + shift for x in xs]
                middle = [c.centre / scale for _, c in there]
                ranges = [[abs(c.centre - c.spread[end]) / scale for _, c in there] for end in (0, 1)]
                axis.plot(xs, middle, label=row, markersize=4, **line)
                axis.errorbar(xs, middle, ranges, fmt="none", ecolor=line["color"], elinewidth=0.8, alpha=0.7)
            if len(table.rows) > 1:
                best = [(x, dict(frontier(table)).get(column)) for x, column in zip(at, table.columns, strict=True)]
                points = [(x, y / scale) for x, y in best if y is not None]
                axis.plot(
                    *zip(*points, strict=True),
                    color="#2a7d2a",
                    linestyle=":",
                    linewidth=2.4,
                    zorder=0,
                    label="efficient frontier",
                )
            if log:
                axis.set_xscale("log")
            axis.set_xticks(at, labels)
            axis.minorticks_off()
            axis.set_xlabel("budget")
            axis.set_ylabel(table.what if panel == 0 else "as a share of the best at the full budget")
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        drawn.suptitle(f"{table.name}{', partial' if table.partial else ''}", fontsize=10)


def draw_tasks(tables: Sequence[Table], path: Path) -> None:
    """Each row's figure at the largest budget, task by task, with the range of its runs (the paper's figure 3)."""
    rows = list(dict.fromkeys(row for table in tables for row in table.rows))
    names = [f"{table.task}\n{table.metric} at {table.columns[-1]}" for table in tables]
    with figure(path, max(4.8, 1.3 * len(tables) + 2.4), 3.4) as drawn:
        axis = drawn.subplots()
        for number, row in enumerate(rows):
            cells = [table.cell(row, table.columns[-1]) for table in tables]
            xs = [place + 0.8 * ((number + 0.5) / len(rows) - 0.5) for place in range(len(tables))]
            axis.bar(xs, [cell.centre for cell in cells], 0.8 / len(rows), color=look(number)["color"], label=row)
            ranges = [[abs(cell.centre - cell.spread[end]) for cell in cells] for end in (0, 1)]
            axis.errorbar(xs, [cell.centre for cell in cells], ranges, fmt="none", ecolor="black", elinewidth=0.8)
        axis.set_axisbelow(True)
        axis.grid(visible=False, axis="x")
        axis.set_xticks(range(len(tables)), names)
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def places(columns: Sequence[str]) -> tuple[list[float], list[str], bool]:
    """Where budgets stand on an axis, how they are called there, and whether it is logarithmic: by their amount where all have one unit."""
    limits = [Budget.parse(column).limits[0] for column in columns]
    units = {limit.unit if isinstance(limit, Amount) else "" for limit in limits}
    if len(units) == 1 and "" not in units:
        return [limit.amount for limit in limits if isinstance(limit, Amount)], list(columns), len(columns) > 1
    return [float(k) for k in range(len(columns))], list(columns), False


def draw_curves(runs: pd.DataFrame, metric: str, path: Path) -> None:
    """Training loss and metric of each row's runs on their way, over updates (the paper's figures 6, 7 and 8)."""
    done = runs[runs["status"] == "finished"]
    with figure(path, 10.0, 3.8) as drawn:
        losses, metrics = drawn.subplots(1, 2)
        for number, (row, of_row) in enumerate(done.groupby("row", sort=False)):
            line = look(number)
            for budget_number, (_, some) in enumerate(of_row.groupby("budget", sort=False)):
                label = str(row) if budget_number == 0 else None
                curves = [curve(Path(folder), metric) for folder in some["folder"]]
                for axis, name in ((losses, "loss"), (metrics, metric)):
                    middle = _middle(curves, name)
                    if middle.empty:
                        continue
                    colour, dashes = line["color"], line["linestyle"]
                    axis.plot(
                        middle.index, middle["median"], color=colour, linestyle=dashes, linewidth=1.2, label=label
                    )
                    axis.fill_between(middle.index, middle["min"], middle["max"], color=colour, alpha=0.12, linewidth=0)
                    axis.plot(
                        middle.index[-1:], middle["median"].iloc[-1:], marker=line["marker"], color=colour, markersize=5
                    )
        losses.set(xlabel="updates", ylabel="training loss")
        losses.set_yscale("log")
        metrics.set(xlabel="updates", ylabel=metric)
        metrics.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _middle(curves: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
    """Median, least and greatest over seeds, at the updates that the first one logged, as far as all of them came."""
    parts = [c.dropna(subset=[name]).drop_duplicates("steps", keep="last") for c in curves]
    parts = [part for part in parts if not part.empty]
    if not parts:
        return pd.DataFrame()
    # Under a budget in counts all have logged the same updates, and nothing lies between.
    grid = parts[0]["steps"].astype(float).to_numpy()
    grid = grid[grid <= min(float(part["steps"].iloc[-1]) for part in parts)]
    values = [np.interp(grid, part["steps"].astype(float), part[name].astype(float)) for part in parts]
    return pd.DataFrame(values, columns=grid).agg(["median", "min", "max"]).T


def draw_study_schedules(schedules: Sequence[tuple[str, str]], budgets: Sequence[str], path: Path) -> None:
    """The rows' schedules over progress; those over a horizon of their own as over the full budget.

    Where budgets are shares of the full one, the linear schedule at each of them stands beside (the paper's figure 2).
    """
    # What is refined from other runs is another schedule in each.
    found = [(label, read_schedule(text)) for label, text in schedules if not is_refined(text)]
    limits = [(budget, Budget.parse(budget).limits[0]) for budget in budgets]
    shares = [(name, limit.amount / 100) for name, limit in limits if isinstance(limit, Amount) and limit.unit == "%"]
    drawn = [(label, s) for label, s in found if isinstance(s, Schedule)]
    if drawn:
        draw_schedules(drawn, path, shares if len(shares) == len(budgets) > 1 else ())


def draw_ranks(found: Ranks, rows: Sequence[str], path: Path) -> None:
    """The critical-difference figure of a study's rows: average ranks, and bars over those that cannot be told apart (Demsar 2006)."""
    if found.pairwise is None:
        return
    import scikit_posthocs

    with figure(path, 7.0, 0.9 + 0.22 * len(found.mean)) as drawn, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = drawn.subplots()
        scikit_posthocs.critical_difference_diagram(
            found.mean, found.pairwise, ax=axes, alpha=ALPHA,
            label_fmt_left="{label} ({rank:.2f})", label_fmt_right="({rank:.2f}) {label}",
            color_palette={row: look(number)["color"] for number, row in enumerate(rows)}, text_h_margin=0.02, label_props={"fontsize": 8}, elbow_props={"linewidth": 0.9}, crossbar_props={"linewidth": 2.2},
        )  # fmt: skip
        p = "" if math.isnan(found.p) else f"; Friedman's p = {found.p:.2g}"
        axes.set_title(f"Average rank over {found.blocks} blocks of task and budget{p}", fontsize=9, pad=14)
