"""The runs of a study as one table of numbers, a row a run."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from ..core.errors import RunFolderError, StudyError
from ..core.manifest import FOLDER, Manifest
from ..core.record import RunFolder, Spec

COLUMNS = (
    "task", "row", "budget", "seed", "run", "status", "reason", "value", "best", "final", "best_progress", "steps",
    "shared", "seconds", "folder",
)  # fmt: skip


def runs_of(manifest: Manifest) -> pd.DataFrame:
    """A row for each cell of a study and seed: `COLUMNS`, in the order of the study.

    `status` is finished, failed, unfinished or missing; figures of what is not finished are NaN. `value` is the figure that
    the study's tables show.

    Raises:
        StudyError: where the study has no cells.
    """
    if not manifest.content["cells"]:
        raise StudyError(f"study '{manifest.path}' has no runs")
    rows = []
    for cell in manifest.content["cells"]:
        found = _figures(manifest.runs, Spec(**cell["spec"]), cell.get("folder"))
        found["value"] = found.get(value_of(manifest, cell["task"]))
        rows.append({**{key: cell[key] for key in ("task", "row", "budget", "seed", "run")}, **found})
    figures = ("value", "best", "final", "best_progress", "steps", "shared", "seconds")
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(figures, float))


def value_of(manifest: Manifest, task: str) -> str:
    """Which figure of a task's runs a study is about: best, final or best_progress."""
    value = str(manifest.content["study"]["value"])
    return str(manifest.content["tasks"][task].get("judged_by", "best")) if value == "task" else value


def finals(runs: pd.DataFrame, metric: str) -> list[float]:
    """Another figure of each run's final model; NaN where there is none."""
    found = []
    for run in runs.itertuples():
        result = RunFolder(Path(str(run.folder))).result if run.status == "finished" else None
        found.append(_number(result["final"].get(metric)) if result is not None else math.nan)
    return found


def loose(out: Path) -> Manifest:
    """A study of whatever finished runs a folder holds: a row for each schedule, and what else they differ in.

    Raises:
        StudyError: where there are none.
    """
    cells, tasks = [], {}
    for path in sorted(out.glob("*/spec.json")):
        with contextlib.suppress(RunFolderError):
            folder = RunFolder.open(path.parent)
            spec, result = folder.spec, folder.result
            if result is None:
                continue
            label = ", ".join([str(result["schedule"]), *_differs(spec)])
            cells.append(
                {
                    "task": spec.task,
                    "row": label,
                    "budget": str(result["budget"]),
                    "seed": spec.seed,
                    "run": folder.path.name,
                    "folder": folder.path.name,
                    "spec": asdict(spec),
                }
            )
            tasks[spec.task] = {
                "metric": result["metric"]["name"],
                "maximize": _maximizes(folder, result),
                "full_budget": None,
            }
    if not cells:
        raise StudyError(
            f"there are no finished runs in '{out}'; train some with `budgeted train` or `budgeted study`, or name the folder they are in"
        )
    study = {
        "name": out.name or "runs",
        "title": f"The runs in {out}",
        "value": "best",
        "figures": ["budgets"],
        "paper": None,
    }
    cells = list({(c["task"], c["row"], c["budget"], c["seed"]): c for c in cells}.values())
    return Manifest(out / FOLDER / "all", {"schema": 1, "study": study, "tasks": tasks, "cells": cells})


def _differs(spec: Spec) -> Iterator[str]:
    """In what a run differs from one that was given nothing but a task, a budget, a schedule and a seed."""
    for field in fields(Spec):
        value = getattr(spec, field.name)
        if field.name not in ("task", "budget", "schedule", "seed") and value != field.default:
            yield str(value) if field.name in ("model", "optimizer", "average") else f"{field.name} {value}"


def _maximizes(folder: RunFolder, result: Mapping[str, Any]) -> bool:
    """Which way is better; of a run from before that was recorded, as it chose its best."""
    if "maximize" in result:
        return bool(result["maximize"])
    name, best = result["metric"]["name"], result["metric"]["best"]
    return all(row[name] is None or row[name] <= best for row in folder.rows() if name in row)


def _figures(out: Path, spec: Spec, name: str | None) -> dict[str, Any]:
    folder = RunFolder.finished(out, spec) if name is None else RunFolder(out / name)
    if folder is None:
        folder = RunFolder.unfinished(out, spec, changed=False)
        if folder is None:
            return {"status": "missing"}
        reason = folder.error
        return {"status": "unfinished" if reason is None else "failed", "reason": reason, "folder": str(folder.path)}
    result = folder.result
    assert result is not None
    return {
        "status": "finished",
        "best": _number(result["metric"]["best"]),
        "final": _number(result["metric"]["final"]),
        "best_progress": _number(result["best_at"]["progress"]),
        "steps": result["spent"]["steps"],
        "shared": result.get("shared_updates", 0),
        "seconds": result["wall_seconds"],
        "folder": str(folder.path),
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def curve(folder: Path, metric: str, points: int = 100) -> pd.DataFrame:
    """A run on its way: steps, progress, factor, loss and the metric, thinned to about so many rows beside evaluations."""
    try:
        lines = (folder / "rows.jsonl").read_bytes().split(b"\n")[:-1]
    except OSError:
        return pd.DataFrame(columns=["steps", "progress", "factor", "loss", metric])
    every, key = max(1, len(lines) // points), f'"{metric}":'.encode()
    chosen = [json.loads(line) for k, line in enumerate(lines) if k % every == 0 or key in line]
    names = ["steps", "progress", "spent", "factor", "lr", "loss", metric]
    return pd.DataFrame([{name: row.get(name) for name in names} for row in chosen], columns=names)


def saved(runs: pd.DataFrame) -> tuple[int, int]:
    """Updates of all finished runs, and how many of them were made for several runs at once."""
    done = runs[runs["status"] == "finished"].drop_duplicates("run")
    return int(done["steps"].sum()), int(done["shared"].sum())


def counts(runs: pd.DataFrame) -> dict[str, int]:
    """How many runs are finished, failed, unfinished and missing."""
    found: Iterable[tuple[Any, int]] = runs.drop_duplicates("run")["status"].value_counts().items()
    return {str(status): int(count) for status, count in found}
