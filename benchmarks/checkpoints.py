"""What periodic checkpoints cost a run in which nothing happens: updates a second with them against without.

    python benchmarks/checkpoints.py --task digits --seconds 65 --save-every 30 --rounds 3

Both run one after another in one process, `--rounds` times in turn, with one evaluation at the end. What a run without
checkpoints on the way does in its time is 1.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from budgeted.core.record import RunFolder, Spec
from budgeted.tasks import registry
from budgeted.train.loop import fit


def pace(task: str, seconds: float, save_every: float) -> tuple[float, int, float]:
    """Updates a second, checkpoints on the way, and megabytes of one."""
    spec = Spec(task, f"{seconds:g}s", "linear", precision="float32", evaluations=1)
    data = os.environ.get("BUDGETED_DATA")
    with tempfile.TemporaryDirectory() as parent:
        folder = RunFolder.create(Path(parent), spec)
        training = fit(registry.load(task), spec, folder, root=Path(data) if data else None, save_every=save_every)
        while True:
            try:
                next(training)
            except StopIteration as end:
                size = (folder.path / "last.pt").stat().st_size / 1e6
                saved = int(seconds / save_every) if math.isfinite(save_every) else 0
                return end.value["spent"]["steps"] / end.value["spent"]["seconds"], saved, size


def main() -> None:
    """Run them in turn and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", default="digits")
    parser.add_argument("--seconds", type=float, default=65)
    parser.add_argument("--save-every", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    pace(given.task, 15, math.inf)  # imports, and whatever else only the first run pays
    table = Table(
        "round", "updates/s without", f"with one each {given.save_every:g} s", "ratio", "checkpoints", "MB of one"
    )
    ratios = []
    for number in range(given.rounds):
        without, _, _ = pace(given.task, given.seconds, math.inf)
        with_them, saved, size = pace(given.task, given.seconds, given.save_every)
        ratios.append(with_them / without)
        table.add_row(str(number), f"{without:.1f}", f"{with_them:.1f}", f"{ratios[-1]:.3f}", str(saved), f"{size:.2f}")
    Console().print(table)
    print(f"ratio: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
