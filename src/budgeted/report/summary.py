"""How a run ended, for people."""

from __future__ import annotations

from typing import Any

from ..core.text import format_duration, format_number


def print_summary(result: dict[str, Any]) -> None:
    """Print the result of a run as a few lines."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    metric, spent = result["metric"], result["spent"]
    table = Table(box=SIMPLE_HEAD, show_header=False)
    table.add_row(
        metric["name"], f"{metric['final']:.4f}, best {metric['best']:.4f} at p = {result['best_at']['progress']:.2f}"
    )
    table.add_row("budget", f"{result['budget']}, ended by {result['stopped_by']}")
    table.add_row(
        "spent", f"{int(spent['steps']):,} updates, {int(spent['samples']):,} samples, {_seconds(spent['seconds'])}"
    )
    aside = ", ".join(f"{name} {_seconds(seconds)}" for name, seconds in result["activities"].items())
    table.add_row("of which", aside)
    table.add_row("rate", f"{result['schedule']}; the last update ran at {result['last_factor']:.3g} of the base rate")
    if result["evaluations_skipped"]:
        table.add_row("left out", f"{result['evaluations_skipped']} evaluations, to spare the budget")
    if result["within_warmup"]:
        table.add_row("note", "the budget ended within the warm-up")
    table.add_row("run folder", result["run_dir"])
    Console().print(table)


def _seconds(seconds: float) -> str:
    return format_duration(round(seconds)) if seconds >= 60 else f"{format_number(round(seconds, 2))}s"
