"""Runs an hour of one grid, by `budgeted study` and by what people do without it; and what a study costs beside its training.

    python benchmarks/studies.py
    python benchmarks/studies.py --rounds 5 --schedules linear,cosine --budgets 10,30 --seeds 5 --json studies.json
    python benchmarks/studies.py --only "budgeted study,Ray Tune"      # the plain script, which is compared with, is always there
    python benchmarks/studies.py workers                              # two workers against one
    python benchmarks/studies.py overhead                             # how much of a run's time its updates and evaluations are
    python benchmarks/studies.py report --folders 2000                # seconds that a report over so many run folders takes

The grid is schedules x budgets in epochs x seeds of digits. Each contender trains all of it, from the command to its end, start
included, two runs at a time with one thread each:

- `budgeted study --jobs 2`, with `--no-share` too, so that it is seen what common beginnings save, and with its report too;
- `xargs -P 2` over `budgeted train`, with the options that make each the very run of the study, to the bit;
- `xargs -P 2` over a script in plain PyTorch (benchmarks/studies/plain_digits.py), which is what the others are compared with;
- Ray Tune at its defaults, but without a dashboard, with that script's function, one CPU a trial.

All make the same numbers of updates and evaluations, of the same network, batch size and recipe, on data in memory; the updates
are checked. The plain script is as lean as it can be: it is spared the deterministic mode of studies, and writes its figures
alone, where budgeted keeps rows, traces and checkpoints. Its batches come in an order of its own, so its accuracies are alike
and not the same. Only `budgeted study with report` makes tables and figures; for the others that remains to be done.

Rounds have all contenders, one after another, each round in an order of its own; a grid of one run comes first, which fills the
file cache and is not counted. Ratios are of the same round; shown is their median, with the least and the greatest, or the
quartiles of more than ten rounds. `Updates made` are fewer where runs share what they begin with. The shorter the runs, the
more of the time is starts: a process that imports PyTorch, scikit-learn and an optimizer's lazy parts needs seconds for that.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from side_by_side import chosen, circumstances, draw, keep, ratios, show, spread

from budgeted.core.manifest import Manifest
from budgeted.core.record import RunFolder, Spec
from budgeted.report.study import Report
from budgeted.study.conduct import conduct
from budgeted.study.plan import Row, Study
from budgeted.study.processes import Processes
from budgeted.study.work import Options
from budgeted.tasks import registry

JOBS = "2"
SCRIPTS = Path(__file__).parent / "studies"
BUDGETED = (sys.executable, "-m", "budgeted.cli.main")
# Those of a study's runs, which for `budgeted train` are options.
AS_IN_STUDIES = ("--deterministic", "--precision", "float32-channels-last", "--no-refresh", "--no-curve")
STEPS_PER_EPOCH = 23  # of digits
PACKAGES = ("ray", "scikit-learn")
SIDE_BY_SIDE = Study("side", (Row("linear"), Row("cosine"), Row("htd")), ("8ep",), tuple(range(10)), ("digits",))
ONE_SECOND = Study("second", (Row("linear"),), ("20ep",), tuple(range(20)), ("digits",), evaluations=20)


@dataclass(frozen=True)
class Grid:
    """What everybody trains."""

    schedules: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: int

    def runs(self) -> list[tuple[str, int, int]]:
        return list(itertools.product(self.schedules, self.epochs, range(self.seeds)))

    def toml(self) -> str:
        """As a study's file; a list in JSON is one in TOML too."""
        budgets = [f"{epochs}ep" for epochs in self.epochs]
        return f'task = "digits"\nbudgets = {json.dumps(budgets)}\nseeds = {self.seeds}\nschedules = {json.dumps(self.schedules)}\n'


class Trained(NamedTuple):
    """What came out of a grid."""

    seconds: float
    accuracies: list[float]  # the best ones of each run
    updates: int  # made, of all runs
    runs_per_hour: float


# The contenders: a command that trains the grid into a folder, and what it reads from its input.
Contender = Callable[[Grid, Path], tuple[list[str], str]]


def study(*options: str) -> Contender:
    def command(grid: Grid, out: Path) -> tuple[list[str], str]:
        (out / "grid.toml").write_text(grid.toml(), encoding="utf-8")
        place = ["--out", str(out), "--jobs", JOBS, "--device", "cpu"]
        return [*BUDGETED, "study", str(out / "grid.toml"), *place, *options], ""

    return command


def loop(each: Sequence[str], arguments: str) -> Contender:
    """So many at a time, each with its arguments from a line."""

    def command(grid: Grid, out: Path) -> tuple[list[str], str]:
        lines = (arguments.format(schedule, epochs, seed) + "\n" for schedule, epochs, seed in grid.runs())
        return ["xargs", "-P", JOBS, "-L", "1", *each, "--out", str(out)], "".join(lines)

    return command


def ray_tune(grid: Grid, out: Path) -> tuple[list[str], str]:
    given = ["--schedules", *grid.schedules, "--epochs", *map(str, grid.epochs), "--seeds", str(grid.seeds)]
    return [sys.executable, str(SCRIPTS / "ray_tune.py"), *given, "--jobs", JOBS, "--out", str(out)], ""


REFERENCE = "loop over a plain script"
CONTENDERS: dict[str, Contender] = {
    REFERENCE: loop([sys.executable, str(SCRIPTS / "plain_digits.py")], "--schedule {} --epochs {} --seed {}"),
    "loop over budgeted train": loop(
        [*BUDGETED, "train", "digits", "--device", "cpu", *AS_IN_STUDIES], "--schedule {} --budget {}ep --seed {}"
    ),
    "Ray Tune": ray_tune,
    "budgeted study --no-share": study("--no-report", "--no-share"),
    "budgeted study": study("--no-report"),
    "budgeted study with report": study(),
}


def trained(name: str, grid: Grid) -> Trained:
    """Train the grid in processes of its own, one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        command, lines = CONTENDERS[name](grid, Path(folder))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        began = time.monotonic()
        ended = subprocess.run(command, input=lines, env=environment, capture_output=True, text=True)
        seconds = time.monotonic() - began
        if ended.returncode:
            raise RuntimeError(f"{name} failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
        runs = found(Path(folder))
    wanted = sorted(epochs * STEPS_PER_EPOCH for _, epochs, _ in grid.runs())
    if sorted(run["updates"] for run in runs) != wanted:
        raise RuntimeError(f"{name} did not make the updates of the grid")
    made = sum(run["updates"] - run.get("shared", 0) for run in runs)
    return Trained(seconds, [run["accuracy"] for run in runs], made, 3600 * len(runs) / seconds)


def found(out: Path) -> list[dict[str, Any]]:
    """Accuracy and updates of each run: of run folders, or of the plain script's files."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("digits-*/result.json")]
    runs = [
        {"accuracy": result["metric"]["best"], "updates": result["spent"]["steps"], "shared": result["shared_updates"]}
        for result in results
    ]
    return runs + [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*.json")]


def in_rounds(names: Sequence[str], grid: Grid, rounds: int) -> dict[str, list[Trained]]:
    """What came out, by contender and round."""
    for name in names:
        trained(name, Grid(grid.schedules[:1], grid.epochs[:1], 1))
    outcomes: dict[str, list[Trained]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            outcomes[name].append(trained(name, grid))
    return outcomes


def measure_grid(given: argparse.Namespace) -> None:
    """Runs an hour of each contender."""
    grid = Grid(tuple(given.schedules.split(",")), tuple(map(int, given.budgets.split(","))), given.seeds)
    outcomes = in_rounds(installed(given.names), grid, given.rounds)
    speeds = {name: [each.runs_per_hour for each in rounds] for name, rounds in outcomes.items()}
    times = {name: ratios(values, speeds[REFERENCE]) for name, values in speeds.items()}
    rows = [
        (
            name,
            spread([each.seconds for each in rounds], ".1f"),
            spread(speeds[name], ".0f"),
            spread(times[name]),
            f"{statistics.median(each.updates for each in rounds):,.0f}",
            f"{statistics.median(itertools.chain.from_iterable(each.accuracies for each in rounds)):.4f}",
        )
        for name, rounds in outcomes.items()
    ]
    headings = ("two at a time", "seconds", "runs an hour", "times the plain loop", "updates made", "median accuracy")
    title = f"{len(grid.runs())} runs of digits, {given.schedules} x {given.budgets} epochs x {given.seeds} seeds, {given.rounds} rounds"
    about = circumstances(PACKAGES)
    show(title, headings, rows, about)
    draw(given.plot, f"runs an hour, times the {REFERENCE}'s", times)
    keep(given.json, about, {name: [each._asdict() for each in rounds] for name, rounds in outcomes.items()})


def installed(names: Sequence[str]) -> list[str]:
    """Those that can be run; a sentence about Ray Tune where a package of it is missing."""
    missing = [package for package in ("ray", "pyarrow") if importlib.util.find_spec(package) is None]
    if missing and "Ray Tune" in names:
        print(f"Ray Tune is left out: it needs {', '.join(missing)}; pip install 'ray[tune]'", file=sys.stderr)
    return [name for name in names if name != "Ray Tune" or not missing]


# What a study costs beside its training


def seconds(study: Study, workers: int) -> float:
    """From when the workers have begun to train until all is finished."""
    with tempfile.TemporaryDirectory() as out, Processes(workers) as engine:
        warm = replace(study, name="warm", budgets=("1ep",), seeds=tuple(range(90, 90 + 2 * workers)))
        for _ in conduct(warm, engine, Options(out)):
            pass
        began = time.monotonic()
        for _ in conduct(study, engine, Options(out)):
            pass
        return time.monotonic() - began


def bare(study: Study) -> float:
    """Seconds that the updates and evaluations of one of its runs take in a loop that does nothing else."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    task, cpu = registry.load("digits"), torch.device("cpu")
    data, model = task.data(None, cpu), task.model().to(memory_format=torch.channels_last)
    optimizer = task.optimizer(model)
    epochs, taken = int(study.budgets[0].removesuffix("ep")), []
    for _ in range(4):
        began = time.monotonic()
        for epoch in range(epochs):
            model.train()
            for batch in data.train.epoch(0, epoch):
                loss = task.loss(model, batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            model.eval()
            with torch.inference_mode():
                task.evaluate(model, data.validation)
        taken.append(time.monotonic() - began)
    return statistics.median(taken[1:])


def shelve(out: Path, count: int) -> Manifest:
    """A study of so many finished runs, copied from one that was trained."""
    study = Study("one", (Row("linear"),), ("20ep",), (0,), ("digits",))
    with Processes(1) as engine:
        for _ in conduct(study, engine, Options(str(out))):
            pass
    (run,) = (path for path in out.iterdir() if path.name.startswith("digits"))
    spec, cells = RunFolder.open(run).spec, []
    for k in range(count):
        copied = replace(spec, seed=1000 + k)
        shutil.copytree(run, out / copied.name)
        RunFolder(out / copied.name).write("spec", {f: getattr(copied, f) for f in Spec.__dataclass_fields__})
        row, budget = f"row {k % 40:02}", f"{k // 40 % 10 + 1}ep"
        cells.append(
            {"task": "digits", "row": row, "budget": budget, "seed": k // 400, "run": copied.name,
             "spec": {f: getattr(copied, f) for f in Spec.__dataclass_fields__}}
        )  # fmt: skip
    given = json.loads((out / "studies" / "one" / "study.json").read_text())
    wanted = {**given["study"], "budgets": [f"{k + 1}ep" for k in range(10)], "figures": ["budgets"], "rows": []}
    return Manifest.write(out, wanted, given["tasks"], cells)


def measure_workers(given: argparse.Namespace) -> None:
    """Runs an hour on two workers against one, in turn."""
    one, two = zip(*((seconds(SIDE_BY_SIDE, 1), seconds(SIDE_BY_SIDE, 2)) for _ in range(given.rounds)), strict=True)
    about, times = circumstances(), spread(ratios(one, two))
    rows = [("one", spread(one, ".1f"), ""), ("two", spread(two, ".1f"), times)]
    show("30 runs of digits, the start not counted", ("workers", "seconds", "times the runs an hour"), rows, about)
    keep(given.json, about, {"one": one, "two": two})


def measure_overhead(given: argparse.Namespace) -> None:
    """The share of a run on one worker that goes into updates and evaluations, which are timed alone."""
    count = len(ONE_SECOND.seeds)
    alone, whole = zip(*((bare(ONE_SECOND), seconds(ONE_SECOND, 1) / count) for _ in range(given.rounds)), strict=True)
    about = circumstances()
    rows = [("in a study", spread(whole, ".3f"), ""), ("alone", spread(alone, ".3f"), spread(ratios(alone, whole)))]
    show("A run of 460 updates and 20 evaluations", ("trained", "seconds", "share"), rows, about)
    keep(given.json, about, {"in a study": whole, "alone": alone})


def measure_report(given: argparse.Namespace) -> None:
    """Seconds of a report over many run folders: the table alone, and all files."""
    tables, wholes = [], []
    with tempfile.TemporaryDirectory() as out:
        manifest = shelve(Path(out), given.folders)
        for _ in range(given.rounds):
            began = time.monotonic()
            report = Report(manifest)
            tables.append(time.monotonic() - began)
            report.write(manifest.path)
            wholes.append(time.monotonic() - began)
    about = circumstances()
    rows = [("the table", spread(tables, ".1f")), ("all files", spread(wholes, ".1f"))]
    show(f"A report over {given.folders:,} runs", ("what", "seconds"), rows, about)
    keep(given.json, about, {"table": tables, "all": wholes})


MEASUREMENTS = {
    "grid": measure_grid,
    "workers": measure_workers,
    "overhead": measure_overhead,
    "report": measure_report,
}


def main() -> None:
    """Measure one thing, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=MEASUREMENTS, default="grid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schedules", default="linear,step-d2,const", help="of const, linear, cosine, step-d2")
    parser.add_argument("--budgets", default="5,10", metavar="EPOCHS,...")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--only", metavar="NAME,...", help=f"some contenders: {', '.join(CONTENDERS)}")
    parser.add_argument("--folders", type=int, default=2000, help="of `report`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the ratios")
    given = parser.parse_args()
    if given.plot and given.what != "grid":
        parser.error(f"--plot draws the grid of runs; {given.what} has no picture")
    given.names = chosen(parser, given.only, CONTENDERS, REFERENCE)
    MEASUREMENTS[given.what](given)


if __name__ == "__main__":
    main()
