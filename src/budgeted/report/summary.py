"""How a run ended, for people."""

from __future__ import annotations

from typing import Any

from ..core.text import format_seconds


def print_summary(result: dict[str, Any]) -> None:
    """Print the result of a run as a few lines."""
    metric, spent = result["metric"], result["spent"]
    aside = ", ".join(f"{name} {format_seconds(seconds)}" for name, seconds in result["activities"].items())
    lines = {
        metric["name"]: f"{metric['final']:.4f}, best {metric['best']:.4f} at p = {result['best_at']['progress']:.2f}",
        "budget": f"{result['budget']}, ended by {result['stopped_by']}{_over(result['overrun_seconds'])}",
        "spent": f"{int(spent['steps']):,} updates, {int(spent['samples']):,} samples, {format_seconds(spent['seconds'])}",
        "of which": aside,
        "rate": f"{result['schedule']}; the last update ran at {result['last_factor']:.3g} of the base rate",
    }
    left_out = [f"{result['evaluations_skipped']} evaluations"] if result["evaluations_skipped"] else []
    if left_out := left_out + result["left_out"]:
        lines["left out"] = f"{', '.join(left_out)}, to spare the budget"
    if skipped := result.get("skipped_samples"):  # older results have none
        lines["skipped"] = f"{skipped} samples that cannot be read"
    if result["within_warmup"]:
        lines["note"] = "the budget ended within the warm-up"
    for number, sentence in enumerate(result.get("diagnosis", ())):
        lines["diagnosis" if not number else " " * number] = sentence
    lines["run folder"] = result["run_dir"]
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"  {name:{width}}  {line}")  # not wrapped: the folder is there to be copied


def _over(seconds: float) -> str:
    return f", {format_seconds(seconds)} over it" if seconds >= 0.01 else ""
