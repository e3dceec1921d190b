"""How well runs at small budgets tell which configuration is the better one at the full budget (Li et al., appendices A and B).

Kendall's tau between the ranks at a small budget and those at the full one: (tau + 1) / 2 is about the probability that a
pair of configurations is ranked rightly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from scipy import stats

from ..core.errors import StudyError
from ..core.manifest import Manifest
from ..core.text import format_number, nearest
from .results import value_of
from .statistics import Array, resampled_taus
from .tables import budget_size, reported

_RESAMPLES = 2_000
_LEAST = 3  # configurations that can be ranked
_LEARNED = 0.1  # of the way from a guess to the best configuration: one that came less far could not be trained
_CONFIGURATION = ("model", "optimizer", "lr", "average", "subset")


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over configurations, and the paper's."""

    value: float
    low: float = math.nan
    high: float = math.nan
    paper: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Ranking:
    """What small budgets tell of the full one, for one task.

    Args:
        task, metric: whose, and what of it.
        reference: the schedule and the budget of the ranks that are to be predicted.
        configurations: those that were ranked.
        left_out: the others, and why.
        schedules, budgets: rows and columns.
        tau: Kendall's tau-b by schedule and budget (table 6).
        mean: the mean of the metric over configurations (table 7).
        normalised: the same, each divided by its own figure at the full budget (table 8).
        ranked: how many configurations each cell rests on.
        repeatable: the mean tau between the reference ranks of single seeds; NaN with one seed.
        seeds: of the reference.
        metrics: of each configuration in the order of `configurations`, by schedule and budget; NaN where missing.
        target: of each at the full budget.
    """

    task: str
    metric: str
    reference: tuple[str, str]
    configurations: tuple[str, ...]
    left_out: Mapping[str, str]
    schedules: tuple[str, ...]
    budgets: tuple[str, ...]
    tau: Mapping[tuple[str, str], Estimate]
    mean: Mapping[tuple[str, str], Estimate]
    normalised: Mapping[tuple[str, str], Estimate]
    ranked: Mapping[tuple[str, str], int]
    repeatable: float
    seeds: int
    metrics: Mapping[tuple[str, str], tuple[float, ...]]
    target: tuple[float, ...]

    @property
    def tables(self) -> tuple[tuple[str, Mapping[tuple[str, str], Estimate]], ...]:
        """The three tables, with what they show."""
        schedule, budget = self.reference
        return (
            (f"Kendall's tau between the ranks at a budget and those of {schedule} at {budget}", self.tau),
            (f"{self.metric}, mean over configurations", self.mean),
            (
                f"{self.metric} as a share of the same configuration's with {schedule} at {budget}, mean",
                self.normalised,
            ),
        )


def rankings(manifest: Manifest, runs: pd.DataFrame, reference: str | None = None) -> list[Ranking]:
    """The ranking of each task of a study.

    The configurations are the models, optimizers, rates and so on of its rows; the schedules are what predicts.

    Args:
        manifest: of the study.
        runs: its runs, as `results.runs_of` gives them.
        reference: the schedule whose ranks at the largest budget are to be predicted; the study's own `ranks`, else linear, else
            the only one.

    Raises:
        StudyError: for a study that holds fewer than three configurations that can be ranked, or has one budget.
    """
    rows = manifest.content["study"].get("rows")
    if not rows:
        raise StudyError(
            f"'{manifest.path}' is no study with rows, so its configurations are not known; give a study's folder"
        )
    plans = {row["label"]: row for row in rows}
    frame = runs.assign(
        schedule=[plans[label]["schedule"] for label in runs["row"]],
        configuration=[_configuration(plans[label]) for label in runs["row"]],
    )
    chosen = _reference(manifest, list(dict.fromkeys(frame["schedule"])), reference)
    return [_ranking(manifest, str(task), some, chosen) for task, some in frame.groupby("task", sort=False)]


def _configuration(row: Mapping[str, Any]) -> str:
    parts = [(name, row.get(name)) for name in _CONFIGURATION if row.get(name) is not None]
    words = [str(v) if name in ("model", "optimizer", "average") else f"{name} {_shown(v)}" for name, v in parts]
    return ", ".join(words) or "the task's own"


def _shown(value: Any) -> str:
    return format_number(value) if isinstance(value, float) else str(value)


def _reference(manifest: Manifest, schedules: Sequence[str], wanted: str | None) -> str:
    study = manifest.content["study"]
    if wanted is not None and wanted not in schedules:
        raise StudyError(
            f"study '{study['name']}' has no schedule '{wanted}'{nearest(wanted, schedules) or ';'} it has {', '.join(schedules)}"
        )
    known = [wanted, study.get("ranks"), "linear" if "linear" in schedules else None]
    known.append(schedules[0] if len(schedules) == 1 else None)
    found: str | None = next((schedule for schedule in known if schedule is not None), None)
    if found is None:
        raise StudyError(
            f"study '{study['name']}' has the schedules {', '.join(schedules)}; say with --reference whose ranks are to be predicted"
        )
    return found


def _ranking(manifest: Manifest, task: str, frame: pd.DataFrame, reference: str) -> Ranking:
    study, facts = manifest.content["study"], manifest.content["tasks"][task]
    value, maximize = value_of(manifest, task), bool(facts["maximize"])
    of_reference = frame[frame["schedule"] == reference]
    budgets = sorted(dict.fromkeys(of_reference["budget"]), key=budget_size)
    full = budgets[-1]
    at_full = of_reference[of_reference["budget"] == full]
    target = _medians(at_full, value)
    left_out = dict(_unfit(at_full, target, facts.get("chance"), maximize))
    names = [name for name in dict.fromkeys(at_full["configuration"]) if name not in left_out]
    if len(names) < _LEAST:
        raise StudyError(
            f"study '{study['name']}', task '{task}': {len(names)} configurations are finished and trained with {reference} at "
            f"{full}, and ranks need at least {_LEAST}; a configuration is a row's model, optimizer, lr, average and subset"
        )
    columns = [b for b in sorted(dict.fromkeys(frame["budget"]), key=budget_size) if b != full]
    if not columns:
        raise StudyError(
            f"study '{study['name']}', task '{task}' has one budget, {full}; ranks are predicted from smaller ones"
        )
    metrics, cells = {}, ({}, {}, {})  # type: ignore[var-annotated]
    ranked: dict[tuple[str, str], int] = {}
    there = target.loc[names].to_numpy(float)
    signs = 1.0 if maximize else -1.0
    for (schedule, budget), some in frame[frame["budget"] != full].groupby(["schedule", "budget"], sort=False):
        found = _medians(some, value).reindex(names).to_numpy(float)
        key, both = (str(schedule), str(budget)), ~np.isnan(found)
        if both.sum() < _LEAST:
            continue
        metrics[key], ranked[key] = tuple(found), int(both.sum())
        papers = [_papers(study, task, table, key) for table in ("6", "7", "8")]
        cells[0][key] = _tau(signs * found[both], signs * there[both], papers[0])
        cells[1][key] = _mean(found[both], papers[1])
        cells[2][key] = _mean(found[both] / there[both], papers[2])
    schedules = tuple(dict.fromkeys(str(s) for s in frame["schedule"]))
    return Ranking(
        task, facts["metric"], (reference, full), tuple(names), left_out, schedules, tuple(columns), *cells, ranked,
        _repeatable(at_full, names, value), int(at_full["seed"].nunique()), metrics, tuple(there),
    )  # fmt: skip


def _medians(frame: pd.DataFrame, value: str) -> pd.Series:
    done = frame[frame["status"] == "finished"]
    return done.groupby("configuration", sort=False)[value].median().dropna()


def _unfit(frame: pd.DataFrame, target: pd.Series, chance: float | None, maximize: bool) -> list[tuple[str, str]]:
    """Configurations without a place at the full budget, and why."""
    found = []
    best = target.max() if maximize else target.min()
    for name, some in frame.groupby("configuration", sort=False):
        if name not in target:
            reasons = [str(reason) for reason in some["reason"] if isinstance(reason, str)]
            found.append((str(name), f"failed: {reasons[0]}" if reasons else "not finished"))
        elif chance is not None and (target[name] - chance) / (best - chance) < _LEARNED:
            found.append((str(name), f"cannot be trained: {target[name]:.4f}, where a guess gets {chance:g}"))
    return found


def _tau(found: Array, target: Array, paper: float | None) -> Estimate:
    tau = float(stats.kendalltau(found, target).statistic)
    low, high = _interval_of_tau(found, target)
    return Estimate(tau, low, high, paper)


def _interval_of_tau(one: Array, other: Array) -> tuple[float, float]:
    taus = resampled_taus(one, other, _RESAMPLES)
    if np.isnan(taus).all():
        return math.nan, math.nan
    low, high = np.nanpercentile(taus, [2.5, 97.5])
    return float(low), float(high)


def _mean(values: Array, paper: float | None) -> Estimate:
    draws = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
    return Estimate(float(values.mean()), float(low), float(high), paper)


def _repeatable(frame: pd.DataFrame, names: Sequence[str], value: str) -> float:
    done = frame[(frame["status"] == "finished") & frame["configuration"].isin(names)]
    wide = done.pivot_table(index="configuration", columns="seed", values=value).dropna()
    pairs = [(a, b) for k, a in enumerate(wide.columns) for b in wide.columns[k + 1 :]]
    taus = [stats.kendalltau(wide[a], wide[b]).statistic for a, b in pairs] if len(wide) >= _LEAST else []
    return float(np.mean(taus)) if taus else math.nan


def _papers(study: Mapping[str, Any], task: str, table: str, key: tuple[str, str]) -> float | None:
    if study.get("paper") != "6" or task != "cifar10":
        return None
    rows = [row for row in reported() if row["table"] == table and (row["schedule"], row["budget"]) == key]
    return float(rows[0]["value"]) if rows else None
