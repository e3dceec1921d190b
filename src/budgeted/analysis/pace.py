"""What a budget comes to in updates, and updates in other units, at the pace of runs that have been trained."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd

from ..core.budget import Amount, Budget, Cap, Terms
from ..core.errors import BudgetError, StudyError
from ..core.record import RunFolder


@final
@dataclass(frozen=True, slots=True)
class Pace:
    """How updates, epochs, shares of the full budget and what runs spend hang together.

    Args:
        steps_per_epoch: updates in an epoch; None where it is unknown.
        full: the full budget; None where it is unknown.
        spent: of each resource (seconds, samples, ...) the median over runs of what one update spent.
    """

    steps_per_epoch: int | None
    full: Budget | None
    spent: Mapping[str, float]

    def steps(self, budget: Budget) -> float:
        """The updates that a budget buys; of several limits, the one that is reached first.

        Raises:
            StudyError: for what the study cannot count: a moment, or a unit that it knows nothing of.
        """
        return min(self._steps(cap, budget) for cap in self._caps(budget))

    def _caps(self, budget: Budget) -> tuple[Cap, ...]:
        units = {limit.unit for limit in budget.limits if isinstance(limit, Amount)}
        if "%" in units and self.full is None:
            raise StudyError(f"'{budget}': these runs know no full budget to take a share of; write epochs or updates")
        if "ep" in units and self.steps_per_epoch is None:
            raise StudyError(
                f"'{budget}': how long an epoch is is not known of these runs; write '5000 steps', or a time"
            )
        try:
            return budget.caps(Terms(self.steps_per_epoch, self.full))
        except BudgetError as error:
            raise StudyError(str(error)) from None

    def _steps(self, cap: Cap, budget: Budget) -> float:
        if cap.resource == "steps":
            return cap.amount
        if cap.resource == "clock":
            raise StudyError(f"'{budget}' ends at a moment, which is no amount; write how long it is, such as 2h")
        if not self.spent.get(cap.resource):
            known = ", ".join(name for name in ("updates", "epochs", *self.spent))
            raise StudyError(f"'{budget}': these runs did not count {cap.resource}; write it in one of {known}")
        return cap.amount / self.spent[cap.resource]

    def amounts(self, steps: float) -> dict[str, float]:
        """So many updates in each unit that is known: steps, epochs, share (of the full budget) and seconds."""
        found = {"steps": steps}
        if self.steps_per_epoch is not None:
            found["epochs"] = steps / self.steps_per_epoch
        if self.full is not None:
            found["share"] = steps / self.steps(self.full)
        if "seconds" in self.spent:
            found["seconds"] = steps * self.spent["seconds"]
        return found


def pace_of(facts: Mapping[str, Any], runs: pd.DataFrame) -> Pace:
    """The pace of some finished runs of one task.

    Args:
        facts: what their study's file says of the task.
        runs: as `results.runs_of` gives them; what one update spends is their median.
    """
    done = runs[runs["status"] == "finished"].drop_duplicates("run")
    rates: dict[str, list[float]] = {}
    for folder in done["folder"]:
        result = RunFolder(Path(folder)).result or {}
        for resource, amount in result.get("spent", {}).items():
            if resource != "steps" and amount and result["spent"]["steps"]:
                rates.setdefault(resource, []).append(amount / result["spent"]["steps"])
    full = None if facts.get("full_budget") is None else Budget.parse(facts["full_budget"])
    spent = {resource: statistics.median(some) for resource, some in rates.items()}
    return Pace(facts.get("steps_per_epoch") or _epoch(done), full, spent)


def _epoch(done: pd.DataFrame) -> int | None:
    """Updates in an epoch, from runs whose budget was in epochs."""
    found: list[tuple[float, float]] = []
    for budget, steps in zip(done["budget"], done["steps"], strict=True):
        (limit, *others) = Budget.parse(budget).limits
        if not others and isinstance(limit, Amount) and limit.unit == "ep":
            found.append((limit.amount, float(steps)))
    if not found:
        return None
    longest, steps = max(found)  # of which the least was rounded off
    return round(steps / longest)
