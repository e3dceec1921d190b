"""Schedules at small budgets: the median and the spread of the metric over seeds, as a Markdown table.

    python benchmarks/small_budgets.py fashion-mnist --budgets 1% 5% 10% --jobs 2

Runs are kept in --out under their hash, so that an interrupted table goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from budgeted.core.record import RunFolder, Spec


def train(spec: Spec, out: Path, root: Path | None, rate: float | None) -> dict[str, Any]:
    """One run, or its result where it is finished."""
    done = out / spec.name
    if done.exists() and (result := RunFolder.open(done).result):
        return result
    shutil.rmtree(done, ignore_errors=True)
    import torch

    from budgeted.tasks.registry import load
    from budgeted.train.loop import fit

    torch.set_num_threads(1)
    task = load(spec.task)
    if rate is not None:
        task.rate = rate  # type: ignore[misc]
    rows = fit(task, spec, RunFolder.create(out, spec), root=root)
    while True:
        try:
            next(rows)
        except StopIteration as end:
            return end.value


def main() -> None:
    """Run the grid and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task")
    parser.add_argument("--schedules", nargs="+", default=["const", "step-d2", "cosine", "linear"])
    parser.add_argument("--budgets", nargs="+", default=["1%", "5%", "10%"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, help="another base rate than the task's")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    given = parser.parse_args()
    root = Path(os.environ["BUDGETED_DATA"]) if "BUDGETED_DATA" in os.environ else None
    grid = list(itertools.product(given.schedules, given.budgets, range(given.seeds)))
    # One thread a run and plain float32: the same numbers however many run side by side.
    specs = [Spec(given.task, budget, schedule, seed, deterministic=True) for schedule, budget, seed in grid]
    out = given.out if given.rate is None else given.out / f"rate-{given.rate:g}"
    began = time.monotonic()
    with ProcessPoolExecutor(given.jobs, get_context("spawn")) as pool:
        waiting = [pool.submit(train, spec, out, root, given.rate) for spec in specs]
        results = {cell: future.result() for cell, future in zip(grid, waiting, strict=True)}
    for title, pick in (
        ("best evaluation, batch norm as trained (the paper's protocol)", raw),
        ("last evaluation, batch norm refreshed", fresh),
    ):
        print(f"\n{title}\n")
        print("| schedule |" + "".join(f" {budget} |" for budget in given.budgets))
        print("|---|" + "---|" * len(given.budgets))
        for schedule in given.schedules:
            cells = [[pick(results[schedule, budget, seed]) for seed in range(given.seeds)] for budget in given.budgets]
            print(
                f"| {schedule} |"
                + "".join(f" {100 * statistics.median(c):.1f} ({100 * min(c):.1f}-{100 * max(c):.1f}) |" for c in cells)
            )
    print(f"\n{len(grid)} runs in {(time.monotonic() - began) / 60:.1f} min")


def raw(result: dict[str, Any]) -> float:
    """The best evaluation without a refresh."""
    return max(
        row["accuracy_raw"] if "accuracy_raw" in row else row["accuracy"]
        for row in RunFolder(Path(result["run_dir"])).rows()
        if "accuracy" in row
    )


def fresh(result: dict[str, Any]) -> float:
    """What the run put out."""
    return result["metric"]["final"]


if __name__ == "__main__":
    main()
