"""Studies on disk without a training: a run is its result, as `budgeted train` writes one."""

from __future__ import annotations

import json
from pathlib import Path

from budgeted.core.manifest import Manifest
from budgeted.core.record import RunFolder, Spec


class Shelf:
    """A folder that runs with made-up results are put into."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def put(
        self, spec: Spec, best: float, final: float | None = None, *, at: float = 1.0, steps: int = 100, shared: int = 0
    ):
        folder = RunFolder.create(self.out, spec)
        result = {
            "schedule": spec.schedule,
            "budget": spec.budget,
            "maximize": True,
            "metric": {"name": "accuracy", "best": best, "final": best if final is None else final},
            "best_at": {"steps": steps, "progress": at},
            "spent": {"steps": steps, "samples": 8 * steps, "seconds": 1.0},
            "wall_seconds": 1.0,
            "shared_updates": shared,
            "final": {"accuracy": best if final is None else final},
        }
        folder.write("result", result)
        rows = [
            {"steps": k, "progress": k / steps, "spent": k / steps, "factor": 1.0, "lr": 0.1, "loss": 1.0 / k,
             **({"accuracy": best * k / steps} if k % 50 == 0 else {})}
            for k in range(1, steps + 1)
        ]  # fmt: skip
        (folder.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder

    def study(
        self, cells: dict, *, missing=(), maximize=True, paper=None, task="t", steps=None, facts=None, **more
    ) -> Manifest:
        """A study of `{(row, budget): [values by seed]}`; a value of None is a run that is not finished.

        `steps` are the updates of each budget, 100 where they are not given; `facts` are added to what is known of the task.
        """
        listed = []
        for (row, budget), values in cells.items():
            for seed, value in enumerate(values):
                spec = Spec(task, budget.replace("%", "ep"), row.replace(" ", "_"), seed, lr=1.0 + len(listed))
                if isinstance(value, str):
                    RunFolder.create(self.out, spec).write("error", {"error": value, "traceback": ""})
                elif value is not None:
                    values = value if isinstance(value, tuple) else (value,)
                    self.put(spec, *values, steps=(steps or {}).get(budget, 100))
                listed.append(
                    {"task": task, "row": row, "budget": budget, "seed": seed, "run": spec.name,
                     "spec": {f: getattr(spec, f) for f in Spec.__dataclass_fields__}}
                )  # fmt: skip
        rows = [{"label": row, "schedule": "linear"} for row in dict.fromkeys(row for row, _ in cells)]
        study = {
            "name": "s", "title": "A study & its <title>", "value": "best", "figures": ["budgets", "schedules", "curves"],
            "paper": paper, "budgets": list(dict.fromkeys(b for _, b in cells)), "rows": rows, **more,
        }  # fmt: skip
        known = {
            "full_budget": "100ep",
            "steps_per_epoch": 10,
            "metric": "accuracy",
            "maximize": maximize,
            "warmup": None,
        } | (facts or {})
        return Manifest.write(self.out, study, {task: known}, listed)
