"""A run's curve: loss, metric and rate over the budget."""

from __future__ import annotations

from ..core.record import RunFolder
from .style import COLOURS, figure


def draw_curve(folder: RunFolder) -> None:
    """Draw `curve.png` in a run's folder from its rows."""
    rows = list(folder.rows())
    spec = folder.spec
    with figure(folder.path / "curve.png", 6.4, 4.4) as drawn:
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        losses = [(r["progress"], r["loss"]) for r in rows if r.get("loss") is not None]
        if losses:
            upper.plot(*zip(*losses, strict=True), color=COLOURS[0], alpha=0.9, label="training loss")
            if min(loss for _, loss in losses) > 0:
                upper.set_yscale("log")
        upper.set_ylabel("training loss")
        metric = _metric(rows)
        if metric:
            right = upper.twinx()
            points = [(r["progress"], r[metric]) for r in rows if metric in r]
            right.plot(*zip(*points, strict=True), color=COLOURS[1], marker="o", markersize=3.5, label=metric)
            right.set_ylabel(metric)
            right.grid(visible=False)
            right.spines["right"].set_visible(True)
            lines = [*upper.get_lines(), *right.get_lines()]
            upper.legend(lines, [str(line.get_label()) for line in lines], loc="center right")
        lower.plot([r["progress"] for r in rows], [r["factor"] for r in rows], color=COLOURS[2], drawstyle="steps-post")
        lower.set(xlabel="progress through the budget", ylabel="rate / base", xlim=(0, 1))
        lower.set_ylim(bottom=0)
        drawn.suptitle(f"{spec.task}, {spec.schedule}, {spec.budget}, seed {spec.seed}", fontsize=10)


def _metric(rows: list[dict[str, float]]) -> str | None:
    """The figure that evaluations log first: the task's metric."""
    known = {"steps", "samples", "seconds", "progress", "factor", "lr", "loss", "spent", "left"}
    return next((key for row in rows for key in row if key not in known), None)
