"""Is a time budget kept? `budgeted train` from outside, with another process taking a core for part of each run.

    python benchmarks/deadline.py --runs 10 --seconds 20

Each run is a process of its own, timed from before its start until after its end. The neighbour spins for eight
seconds from a moment that differs from run to run; in every second run it spins on until the end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.table import Table


def run(number: int, seconds: float, task: str) -> tuple[float, float, float]:
    """Wall seconds, factor at the last update, and final metric of one disturbed run."""
    command = [sys.executable, "-m", "budgeted.cli.main", "train", task, "--budget", f"{seconds:g}s", "--json"]
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        trainer = subprocess.Popen([*command, "--out", out], stdout=subprocess.PIPE, text=True)
        time.sleep(seconds * (0.15 + 0.05 * (number % 8)))
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        if number % 2 == 0:
            time.sleep(0.4 * seconds)
            neighbour.kill()
        printed = trainer.communicate()[0]
        wall = time.monotonic() - began
        neighbour.kill()
        neighbour.wait()
    result = json.loads(printed)
    return wall, result["last_factor"], result["metric"]["final"]


def main() -> None:
    """Run them one after another and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--task", default="digits")
    given = parser.parse_args()
    table = Table("run", "end minus budget, s", "rate of the last update / base", "final metric")
    ends, factors = [], []
    for number in range(given.runs):
        wall, factor, metric = run(number, given.seconds, given.task)
        ends.append(wall - given.seconds)
        factors.append(factor)
        table.add_row(str(number), f"{ends[-1]:+.2f}", f"{factor:.5f}", f"{metric:.4f}")
    table.add_section()
    table.add_row(
        "range",
        f"{min(ends):+.2f} to {max(ends):+.2f}",
        f"median {statistics.median(factors):.5f}, worst {max(factors):.5f}",
        "",
    )
    Console().print(table)


if __name__ == "__main__":
    main()
