"""What a study costs beside its training: two workers against one, the overhead of a run, and a report over many runs.

    python benchmarks/studies.py

1. Runs an hour of a study of digits on two workers against one, in turn, `--rounds` times.
2. Runs of about a second on one worker: the share of the time that goes into updates and evaluations, which are timed alone.
3. A report over so many run folders (`--folders`): seconds for the table alone, and for all files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from budgeted.core.manifest import Manifest
from budgeted.core.record import RunFolder, Spec
from budgeted.report.study import Report
from budgeted.study.conduct import conduct
from budgeted.study.plan import Row, Study
from budgeted.study.processes import Processes
from budgeted.study.work import Options
from budgeted.tasks import registry

SIDE_BY_SIDE = Study("side", (Row("linear"), Row("cosine"), Row("htd")), ("8ep",), tuple(range(10)), ("digits",))
ONE_SECOND = Study("second", (Row("linear"),), ("20ep",), tuple(range(20)), ("digits",), evaluations=20)


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


def main() -> None:
    """Measure the three and print them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folders", type=int, default=2000)
    given = parser.parse_args()
    ratios = [seconds(SIDE_BY_SIDE, 1) / seconds(SIDE_BY_SIDE, 2) for _ in range(given.rounds)]
    print(f"two workers against one: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    shares = []
    for _ in range(given.rounds):
        alone, whole = bare(ONE_SECOND), seconds(ONE_SECOND, 1) / len(ONE_SECOND.seeds)
        shares.append(alone / whole)
        print(f"a run: {whole:.3f} s, of which updates and evaluations {alone:.3f} s, {alone / whole:.0%}")
    print(f"share of training: median {statistics.median(shares):.0%}")
    with tempfile.TemporaryDirectory() as out:
        manifest = shelve(Path(out), given.folders)
        began = time.monotonic()
        report = Report(manifest)
        table = time.monotonic() - began
        report.write(manifest.path)
        print(
            f"a report over {given.folders:,} runs: {table:.1f} s for the table, {time.monotonic() - began:.1f} s with all files"
        )


if __name__ == "__main__":
    main()
