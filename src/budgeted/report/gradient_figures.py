"""The full gradient's norm and the rate on the way of a study's runs (the paper's figures 4, 5 b and 6 b)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..analysis.tables import budget_size
from .style import figure, look

_RATE = "#000000"


def draw_norms(probes: pd.DataFrame, path: Path) -> None:
    """The norm in colour and the rate in black over progress: a row of panels for each row of the study, one for each budget.

    Where a row has several budgets, the last panel lays their norms over one another.

    Args:
        probes: of one task, as `gradients.probes_of` gives them.
        path: its ending names the format.
    """
    there = probes[probes["full_gradient"].notna()]
    rows = list(dict.fromkeys(there["row"]))
    budgets = sorted(dict.fromkeys(there["budget"]), key=budget_size)
    several = len(budgets) > 1
    with figure(path, 2.4 * (len(budgets) + several) + 0.6, 2.1 * len(rows) + 0.4) as drawn:
        panels = drawn.subplots(len(rows), len(budgets) + several, squeeze=False)
        for row, of_row in zip(rows, panels, strict=True):
            cells = {b: there[(there["row"] == row) & (there["budget"] == b)] for b in budgets}
            for number, (budget, cell) in enumerate(cells.items()):
                axis = of_row[number]
                if cell.empty:
                    axis.set_visible(False)
                    continue
                _draw_cell(axis, cell, look(number, markers=False))
                axis.set_title(f"{row}, {budget}", fontsize=8)
            if several:
                _overlay(of_row[-1], row, {b: c for b, c in cells.items() if not c.empty}, list(cells))
        for axis in panels[:, 0]:
            axis.set_ylabel("norm of the full gradient", fontsize=8)
        for axis in panels[-1]:
            axis.set_xlabel("progress")


def _draw_cell(axis: Any, cell: pd.DataFrame, line: dict[str, Any]) -> None:
    for _, run in cell.groupby("seed"):
        axis.plot(run["progress"], run["full_gradient"], color=line["color"], linewidth=0.6, alpha=0.4)
        if (errors := 2 * run["full_gradient_error"].fillna(0.0)).any():
            low, high = run["full_gradient"] - errors, run["full_gradient"] + errors
            axis.fill_between(run["progress"], low.clip(lower=0), high, color=line["color"], alpha=0.15, linewidth=0)
    middle = _middle(cell, "full_gradient")
    axis.plot(middle.index, middle, color=line["color"], linewidth=1.6)
    axis.set(xlim=(0, 1))
    axis.set_ylim(bottom=0, top=1.15 * float(middle.iloc[1:].max()) if len(middle) > 1 else None)
    rate = axis.twinx()
    rates = _middle(cell, "factor")
    rate.plot(rates.index, rates, color=_RATE, linewidth=1.0)
    rate.set_ylim(bottom=0, top=1.15 * max(float(rates.max()), 1e-12))
    rate.set_yticks([0, float(f"{rates.max():.2g}")])
    rate.tick_params(labelsize=7)
    rate.grid(visible=False)


def _overlay(axis: Any, row: str, cells: dict[str, pd.DataFrame], budgets: Sequence[str]) -> None:
    if len(cells) < 2:
        axis.set_visible(False)
        return
    highest = 0.0
    for budget, cell in cells.items():
        middle = _middle(cell, "full_gradient")
        highest = max(highest, float(middle.iloc[1:].max()))
        axis.plot(middle.index, middle, label=budget, **look(budgets.index(budget), markers=False))
    axis.set(xlim=(0, 1), ylim=(0, 1.15 * highest))
    axis.set_title(f"{row}, all budgets", fontsize=8)
    axis.legend(fontsize=7)


def _middle(cell: pd.DataFrame, name: str) -> pd.Series:
    """The median over seeds at each probe; by their number, since a budget in time puts them elsewhere in each run."""
    numbered = cell.assign(number=cell.groupby("seed").cumcount()).dropna(subset=[name])
    by = numbered.groupby("number")
    return pd.Series(by[name].median().to_numpy(), index=by["progress"].median().to_numpy())


def draw_rates(probes: pd.DataFrame, path: Path) -> None:
    """Equivalent rates over progress, on a logarithmic axis: the median over all weights and the middle 80 %; of SGD, its own rate.

    Lines are from the optimizer's state, dots from how far the weights moved in one update.

    Args:
        probes: of one task.
        path: its ending names the format.
    """
    with figure(path, 6.4, 3.8) as drawn:
        axis = drawn.subplots()
        for number, (row, of_row) in enumerate(probes.groupby("row", sort=False)):
            largest = max(dict.fromkeys(of_row["budget"]), key=budget_size)
            cell, line = of_row[of_row["budget"] == largest], look(number, markers=False)
            adaptive = cell["equivalent_rate"].notna().any()
            name = "equivalent_rate" if adaptive else "factor"
            middle = _middle(cell[cell["full_gradient"].notna()], name)
            middle = middle[middle > 0]
            axis.plot(middle.index, middle, label=f"{row}, {largest}", **line)
            if adaptive:
                low, high = (_middle(cell, f"equivalent_rate_{end}") for end in ("low", "high"))
                axis.fill_between(low.index, low, high, color=line["color"], alpha=0.15, linewidth=0)
                moved = _middle(cell, "applied_rate")
                axis.plot(moved.index, moved, linestyle="none", marker="o", markersize=3, color=line["color"])
        axis.set_yscale("log")
        axis.set(xlabel="progress", ylabel="rate / 0.1 of momentum SGD", xlim=(0, 1))
        axis.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
