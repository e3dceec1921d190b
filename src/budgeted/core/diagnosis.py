"""What a run's own figures say of it: did the rate end low, did the gradient vanish with it, was any budget wasted (Li et al., section 5)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_CUT_OFF = 0.1  # of its highest factor: a rate that ends above it was not brought down
_LOW = 0.02  # of its highest: a rate below it moves the weights hardly any more
_GAIN = 0.02  # of all that was gained after the first evaluation: what comes after less is left is counted as nothing
_WASTED = 0.15  # of the budget, after its last gain
_EVALUATIONS = 5  # from which on it is said where the metric stood still
_SMALLER = "a smaller budget may buy as much (see `budgeted forecast`)"
_PART = 0.05  # of the rows at each end, whose mean norms are compared

Row = Mapping[str, Any]


def diagnose(rows: Sequence[Row], result: Mapping[str, Any]) -> list[str]:
    """Sentences about a finished run: the first tells how it ended, others what to do about it.

    Args:
        rows: as logged.
        result: its schedule, last factor, metric and where the best checkpoint was.
    """
    factors = [float(row["factor"]) for row in rows if row.get("factor") is not None and row["factor"] == row["factor"]]
    if not factors:
        return []
    highest, last = max(factors), float(result["last_factor"])
    sentences = [_how_it_ended(rows, result, last)]
    if highest > 0 and last > _CUT_OFF * highest:
        sentences.append(_cut_off(str(result["schedule"]), last / highest))
    else:
        sentences += _wasted(rows, result, highest)
    return sentences


def _how_it_ended(rows: Sequence[Row], result: Mapping[str, Any], last: float) -> str:
    parts = [f"the rate reached {last:.2g} of its base"]
    if (fell := _norms(rows)) is not None:
        what, share = fell
        parts.append(f"the {what} {'fell' if share < 1 else 'rose'} to {share:.2g} of its start")
    parts.append(f"the best {result['metric']['name']} was at p = {result['best_at']['progress']:.2f}")
    return f"{parts[0][0].upper()}{parts[0][1:]}, {', '.join([*parts[1:-1], f'and {parts[-1]}'])}."


def _norms(rows: Sequence[Row]) -> tuple[str, float] | None:
    """Which norm was measured, and what it came to as a share of its start."""
    full = [row["full_gradient"] for row in rows if row.get("full_gradient") is not None]
    if len(full) > 1 and full[0] > 0:
        return "full gradient's norm", full[-1] / full[0]
    norms = [row["gradient"] for row in rows if row.get("gradient") is not None]
    part = max(1, round(_PART * len(norms)))
    if len(norms) < 2 or not (start := sum(norms[:part])):
        return None
    return "norm of the batches' gradients", sum(norms[-part:]) / start


def _cut_off(schedule: str, share: float) -> str:
    ended = (
        f"The rate was still at {share:.0%} of its highest when the budget ended, so the run did not converge within it"
    )
    if " over " in schedule:
        return f"{ended}: leave the horizon out ('{schedule.partition(' over ')[0]}'), and the schedule ends where the budget does."
    if schedule == "linear" or schedule.startswith("points"):  # a run that was stopped before its end
        return f"{ended}."
    return f"{ended}: give it a schedule that ends low, such as linear."


def _wasted(rows: Sequence[Row], result: Mapping[str, Any], highest: float) -> Iterator[str]:
    """Whether the budget after the last gain was wasted, and on what: a rate that was down too early, or a task that was learned."""
    name = result["metric"]["name"]
    found = [(row["progress"], row[name]) for row in rows if row.get(name) is not None and math.isfinite(row[name])]
    if len(found) < _EVALUATIONS:
        return
    sign = 1.0 if result.get("maximize", True) else -1.0
    values = [sign * value for _, value in found]
    gained = max(values) - values[0]
    if gained <= 0 and values[-1] == max(values):
        yield f"Nothing was gained after the first evaluation, at p = {found[0][0]:.2f}: {_SMALLER}."
        return
    if gained <= 0:
        yield "No evaluation was better than the first: the base rate may be too high."
        return
    stood = next(p for (p, _), value in zip(found, values, strict=True) if value >= max(values) - _GAIN * gained)
    if 1 - stood < _WASTED:
        return
    low = _low_from(rows, highest)
    rest = f"After p = {stood:.2f} {name} gained no more than {_GAIN:.0%} of all that it gained"
    if low is not None and low < 1 - _WASTED:
        yield (
            f"{rest}: the rate was below {_LOW:.0%} of its highest from p = {low:.2f} on, and the budget after that bought next to "
            "nothing. A schedule that decays to the end, such as linear, uses it."
        )
    else:
        yield f"{rest}: {_SMALLER}."


def _low_from(rows: Sequence[Row], highest: float) -> float | None:
    """The progress from which on the rate was low to the end."""
    low = None
    for row in rows:
        if row.get("factor") is None or row["factor"] != row["factor"]:
            continue
        if row["factor"] > _LOW * highest:
            low = None
        elif low is None:
            low = float(row["progress"])
    return low
