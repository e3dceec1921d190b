"""What probes found on the way of a study's runs, and how closely the full gradient's norm followed the rate (Li et al., figure 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ..core.errors import RunFolderError
from ..core.record import PROBED, RunFolder

_LEAST = 5  # probes for a correlation


def probes_of(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each probe of each finished run: task, row, budget, seed, steps, progress, factor, and what was found.

    `factor` is that of the update before; of a probe before the first update, that of the first row after it.

    Args:
        runs: as `results.runs_of` gives them.
    """
    found = []
    for run in runs[runs["status"] == "finished"].itertuples():
        try:
            rows = list(RunFolder(Path(str(run.folder))).rows())
        except RunFolderError:
            continue
        first = next((row["factor"] for row in rows if row.get("factor") is not None), None)
        for row in rows:
            if any(row.get(name) is not None for name in PROBED):
                factor = row["factor"] if row.get("factor") is not None else first
                place = {
                    "task": run.task,
                    "row": run.row,
                    "budget": run.budget,
                    "seed": run.seed,
                    "steps": row["steps"],
                }
                found.append(
                    {**place, "progress": row["progress"], "factor": factor, **{n: row.get(n) for n in PROBED}}
                )
    columns = ["task", "row", "budget", "seed", "steps", "progress", "factor", *PROBED]
    return pd.DataFrame(found, columns=columns).astype(dict.fromkeys(["progress", "factor", *PROBED], float))


def correlations(probes: pd.DataFrame) -> pd.DataFrame:
    """How closely the norm follows the rate in each cell: the mean over seeds of Pearson's and Spearman's coefficient.

    The probe before the first update is left out: its norm is that of random weights. `fell_to` is the norm at the end as a
    share of that at the first probe after it. A constant rate correlates with nothing: NaN.

    Args:
        probes: of one task, as `probes_of` gives them.
    """
    found = []
    after = probes[(probes["steps"] > 0) & probes["full_gradient"].notna()]
    for (row, budget), cell in after.groupby(["row", "budget"], sort=False):
        of_seeds = [_of_run(run) for _, run in cell.groupby("seed") if len(run) >= _LEAST]
        if of_seeds:
            pearson, spearman, fell = np.mean(of_seeds, axis=0)
            found.append({"row": row, "budget": budget, "pearson": pearson, "spearman": spearman, "fell_to": fell})
    return pd.DataFrame(found, columns=["row", "budget", "pearson", "spearman", "fell_to"])


def _of_run(run: pd.DataFrame) -> tuple[float, float, float]:
    norms, factors = run["full_gradient"].to_numpy(), run["factor"].to_numpy()
    fell = float(norms[-1] / norms[0]) if norms[0] else float("nan")
    if np.ptp(factors) == 0 or np.ptp(norms) == 0:
        return float("nan"), float("nan"), fell
    return float(stats.pearsonr(norms, factors).statistic), float(stats.spearmanr(norms, factors).statistic), fell
