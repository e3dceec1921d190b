"""Is a time budget kept when things go wrong? `budgeted train` on a task that runs into trouble on purpose.

    python benchmarks/stress.py --runs 200 --jobs 4 --json stress.json --plot stress.png
    python benchmarks/stress.py --only 17 --out runs            # one of them again, its folder kept

Each run is a process of its own, timed from before its start until after its end. Its number, --seed and --seconds
decide its budget and its trouble, which `troubled.py` brings about by sleeping. What nobody could make up for is left
out: a long stall is over by 0.9 of the budget, and short ones take at most 1 % of it. Starting Python and PyTorch
counts: where that takes 5 s, give --seconds 10 20, or the short budgets go into it.

A run misses the aim where it ends later than its budget by more than one update and by more than 1 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table
from side_by_side import label_ends_and_rates
from troubled import VARIABLE, Trouble

TASK = f"{Path(__file__).with_name('troubled.py')}:Troubled"
LATE = 0.01  # of the budget, that a run may end over it
LAST_FACTOR = 0.005  # that the median run may be at, at its last update

# The kinds of trouble, each a draw of what differs from a quiet run. Where several meet, each has half the force.

Figures = dict[str, Any]
Draw = Callable[[random.Random, float], Figures]


def _stall(draw: random.Random, force: float) -> Figures:
    length = force * draw.uniform(0.05, 0.3)
    begin = draw.uniform(0.4, 0.9 - length)
    return {"stalls": [(begin, begin + length)], "in_data": draw.random() < 0.5}


def _bursts(draw: random.Random, force: float) -> Figures:
    stalls = []
    for _ in range(draw.randint(1, 4)):
        at = draw.uniform(0.4, 1.0)
        for _ in range(draw.randint(5, 15)):
            length = force * draw.uniform(0.002, 0.01)
            stalls.append((at, at + length))
            at += length + draw.uniform(0.002, 0.01)
    return {"stalls": stalls, "in_data": draw.random() < 0.5}


def _slow_down(draw: random.Random, force: float) -> Figures:
    at = draw.uniform(0.5, 0.95)
    return {"slow": (at, 2.0) if draw.random() < 0.5 else (0.0, at)}


def _evaluations(draw: random.Random, force: float) -> Figures:
    length = force * draw.uniform(0.05, 0.3)
    varying = draw.random() < 0.5  # within a factor of two
    return {"evaluations": [length * 2 ** draw.uniform(-0.5, 0.5) if varying else length for _ in range(12)]}


def _checkpoints(draw: random.Random, force: float) -> Figures:
    return {"save": force * draw.uniform(0.01, 0.1)}


def _disk(draw: random.Random, force: float) -> Figures:
    return {"sync": force * draw.uniform(0.002, 0.02)}


def _start(draw: random.Random, force: float) -> Figures:
    return {"start": force * draw.uniform(0.1, 0.4)}


SINGLE: dict[str, Draw] = {
    "long stall": _stall,
    "bursts of stalls": _bursts,
    "slow-down": _slow_down,
    "slow evaluations": _evaluations,
    "slow checkpoints": _checkpoints,
    "slow disk": _disk,
    "slow start": _start,
}
SEVERAL = "two or three of these"
KINDS = ("quiet", *SINGLE, SEVERAL)


def planned(number: int, seed: int, seconds: Sequence[float]) -> tuple[str, float, Trouble]:
    """The kind, the budget in seconds and the trouble of a run."""
    draw = random.Random(f"{seed}-{number}")
    kind = KINDS[number % len(KINDS)]
    figures: Figures = {"update": 0.002 * 10 ** draw.random(), "batch_norm": draw.random() < 0.5}
    budget = round(draw.uniform(*seconds), 1)
    names = [kind] if kind in SINGLE else draw.sample(list(SINGLE), draw.randint(2, 3)) if kind == SEVERAL else []
    for name in names:
        drawn = SINGLE[name](draw, 1.0 if len(names) == 1 else 0.5)
        figures |= {**drawn, "stalls": [*figures.get("stalls", []), *drawn.get("stalls", [])]}
    return kind, budget, Trouble(**figures)


@dataclass(frozen=True)
class Outcome:
    """One run, as seen from outside, and what it says of itself."""

    number: int
    kind: str
    budget: float
    trouble: Trouble
    set_up: float  # seconds from the start of the process until it could train
    wall: float  # seconds from before the start of the process until after its end
    said: str  # what it said where it was refused
    spent: float = 0.0  # seconds by its own account
    steps: int = 0
    factor: float = 1.0  # of the base rate, at the last update
    progress: float = 0.0

    @property
    def late(self) -> float:
        return self.wall - self.budget

    @property
    def missed(self) -> bool:
        """Whether it ended over its budget by more than one update and more than 1 %."""
        return not self.said and self.late > max(LATE * self.budget, self.trouble.update_seconds(1.0))


def train(number: int, seed: int, seconds: Sequence[float], folder: Path, starting: Lock) -> Outcome:
    """One run in a process of its own; the next one starts when this one trains, as starting takes all of a core."""
    kind, budget, trouble = planned(number, seed, seconds)
    command = [sys.executable, "-m", "budgeted.cli.main", "train", TASK, "--budget", f"{budget}s", "--json"]
    # Measuring number formats would only run into the trouble before training does.
    command += ["--seed", str(number), "--precision", "float32", "--out", str(folder)]
    with starting:
        began = time.monotonic()
        given = {"trouble": asdict(trouble), "began": began, "seconds": budget}
        environment = os.environ | {"OMP_NUM_THREADS": "1", VARIABLE: json.dumps(given)}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not any(folder.glob("*/environment.json")):
            time.sleep(0.02)
        set_up = time.monotonic() - began
    printed, said = process.communicate()
    outcome = partial(Outcome, number, kind, budget, trouble, set_up, time.monotonic() - began)
    if process.returncode == 2:
        return outcome(said.strip())
    if process.returncode:
        raise RuntimeError(f"run {number} ended with exit code {process.returncode}: {said}")
    result = json.loads(printed)
    spent = result["spent"]
    return outcome("", spent["seconds"], spent["steps"], result["last_factor"], result["progress"])


# What came out

# Set-up, in seconds; end minus budget, twice; rate of the last update / base; progress
HEADINGS = (
    "trouble",
    "runs",
    "refused",
    "set-up",
    "over",
    "missed",
    "end, from outside",
    "by its own account",
    "rate",
    "p",
)


def spread(values: Sequence[float], form: str) -> str:
    """The least, the median and the greatest."""
    return " ".join(f"{value:{form}}" for value in (min(values), statistics.median(values), max(values)))


def row(title: str, outcomes: Sequence[Outcome]) -> list[str]:
    """Figures of some runs; of those that were refused, their number alone."""
    ran = [o for o in outcomes if not o.said]
    figures = [title, str(len(outcomes)), str(len(outcomes) - len(ran)), spread([o.set_up for o in outcomes], ".1f")]
    if not ran:
        return figures
    return [
        *figures,
        f"{sum(o.late > 0 for o in ran) / len(ran):.0%}",
        str(sum(o.missed for o in ran)),
        spread([o.late for o in ran], "+.2f"),
        spread([o.spent - o.budget for o in ran], "+.2f"),
        spread([o.factor for o in ran], ".4f"),
        f"{min(o.progress for o in ran):.3f}",
    ]


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row a kind, and all together."""
    drawn = Table(title="Seconds and rates: least, median, greatest")
    for heading in HEADINGS:
        drawn.add_column(heading, justify="left" if heading == "trouble" else "right")
    for kind in KINDS:
        if of_kind := [o for o in outcomes if o.kind == kind]:
            drawn.add_row(*row(kind, of_kind))
    drawn.add_section()
    drawn.add_row(*row("all", outcomes))
    return drawn


def verdict(outcomes: Sequence[Outcome]) -> str:
    """The aim, and what became of it."""
    ran = [o for o in outcomes if not o.said]
    if not ran:
        return "every run was refused: give longer budgets"
    missed = [str(o.number) for o in ran if o.missed]
    return (
        f"over by more than one update and {LATE:.0%}: {len(missed)} of {len(ran)} (aim: none)"
        f"{': runs ' + ', '.join(missed) if missed else ''}; "
        f"median rate of the last update: {statistics.median(o.factor for o in ran):.5f} of the base "
        f"(aim: at most {LAST_FACTOR}; one update of the median run is {1 / statistics.median(o.steps for o in ran):.5f} of it)"
    )


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Both distributions, a dot a run."""
    from budgeted.report.style import COLOURS, figure

    ran = [o for o in outcomes if not o.said]
    kinds = [kind for kind in KINDS if any(o.kind == kind for o in ran)]
    with figure(path, 8.0, 0.6 + 0.4 * len(kinds)) as drawn:
        ends, rates = drawn.subplots(1, 2, sharey=True)
        for axes, of, aim in ((ends, lambda o: o.late / o.budget, LATE), (rates, lambda o: o.factor, LAST_FACTOR)):
            for place, kind in enumerate(kinds):
                values = [of(o) for o in ran if o.kind == kind]
                heights = [place + 0.5 * (i / len(values) - 0.5) for i in range(len(values))]
                axes.scatter(values, heights, s=14, color=COLOURS[0], alpha=0.6, linewidths=0)
            axes.axvline(aim, color=COLOURS[1], linestyle="--", linewidth=1)
        label_ends_and_rates(ends, rates, kinds)
        rates.set_xlim(-2e-5, 1.5)


def main() -> None:
    """Run them side by side and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--only", type=int, nargs="+", help="the numbers of some runs, instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, nargs=2, default=(5.0, 20.0), help="the least and the greatest budget")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--out", type=Path, help="where to keep the run folders; else they are deleted")
    parser.add_argument("--json", type=Path, dest="figures", help="a file for every run's figures")
    parser.add_argument("--plot", type=Path, help="a picture of the two distributions")
    given = parser.parse_args()
    numbers = given.only or range(given.runs)
    starting = Lock()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(given.jobs) as pool:
        out = given.out or Path(temporary)
        runs = pool.map(
            lambda number: train(number, given.seed, given.seconds, out / f"{number:03}", starting), numbers
        )
        outcomes = list(track(runs, total=len(numbers), console=Console(stderr=True), transient=True))
    if given.figures:
        rows = [{**asdict(o), "late": o.late, "missed": o.missed} for o in outcomes]
        given.figures.write_text(json.dumps(rows, indent=1) + "\n")
    if given.plot:
        plot(outcomes, given.plot)
    console = Console(width=None if Console().is_terminal else 140)
    console.print(table(outcomes))
    console.print(verdict(outcomes))


if __name__ == "__main__":
    main()
