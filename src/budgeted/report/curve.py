"""A run's curve: loss, metric and rate over the budget."""

from __future__ import annotations

from typing import Any

from ..core.record import PROBED, ROW, RunFolder
from .style import COLOURS, figure


def draw_curve(folder: RunFolder) -> None:
    """Draw `curve.png` in a run's folder from its rows."""
    rows = list(folder.rows())
    spec = folder.spec
    # Progress waits for a warm-up of absolute length.
    over = "spent" if sum(r["progress"] == 0 for r in rows) > 1 else "progress"
    with figure(folder.path / "curve.png", 6.4, 4.4) as drawn:
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        losses = [(r[over], r["loss"]) for r in rows if r["loss"] is not None]
        if losses:
            upper.plot(*zip(*losses, strict=True), color=COLOURS[0], linewidth=1.2)
            if min(loss for _, loss in losses) > 0:
                upper.set_yscale("log")
        upper.set_ylabel("training loss (line)", color=COLOURS[0])
        metric = _metric(rows)
        if metric:
            right = upper.twinx()
            points = [(r[over], r[metric]) for r in rows if r.get(metric) is not None]
            right.plot(*zip(*points, strict=True), color=COLOURS[1], marker="o", markersize=4, clip_on=False)
            right.set_ylabel(f"{metric} (dots)", color=COLOURS[1])
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
        # A row holds the rate of the update that led to it.
        rates = [(0.0, rows[0]["factor"]), *((r[over], r["factor"]) for r in rows)] if rows else [(0.0, 0.0)]
        lower.plot(*zip(*rates, strict=True), color=COLOURS[2], drawstyle="steps-pre")
        xlabel = "progress through the budget" if over == "progress" else "share of the budget that is spent"
        lower.set(xlabel=xlabel, ylabel="rate / base", xlim=(0, 1))
        lower.set_ylim(bottom=0)
        drawn.suptitle(f"{spec.task}, {spec.schedule}, {spec.budget}, seed {spec.seed}", fontsize=10)


def _metric(rows: list[dict[str, Any]]) -> str | None:
    """The figure that evaluations log first: the task's metric."""
    return next((key for row in rows for key in row if key not in {*ROW, *PROBED} and row[key] is not None), None)
