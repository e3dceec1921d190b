"""One run, killed a hundred times at random moments and resumed each time: is the outcome that of a run left alone?

    python benchmarks/kills.py --kills 100
    python benchmarks/kills.py --kills 100 --signal TERM
    python benchmarks/kills.py --kills 5 --task "camvid(images=16, crop=65, batch=4, overfit=1)" --data DIR --budget 12steps

Each life of the run is a process of its own, forked from one that has PyTorch loaded, and dies by the signal that it sends
itself at a moment drawn by chance: while setting up, within an update, an evaluation, a checkpoint's serialization or a
row's write, before and after an fsync or a rename. At the end the weights, the best weights, the metric and the rows are
compared with those of a run that nobody disturbed, to the bit.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import os
import random
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a forked process has no threads but its own

import torch
from rich.console import Console
from rich.table import Table

import budgeted.cli.main
from budgeted.core.record import RowLog, RunFolder
from budgeted.core.trace import Trace
from budgeted.tasks import registry
from budgeted.train import checkpoint
from budgeted.train.session import Session

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # where tiny_task is

TINY = "tiny_task:Tiny"
RUN = ("--schedule", "cosine", "--deterministic", "--no-curve", "--json", "--average", "ema")
SAVE_EVERY = "20ms"

Moment = tuple[Any, str, int]


def moments(task: type) -> dict[str, Moment]:
    """Where a life may end: what is patched, and how often it is called in a life at most."""
    return {
        "set-up": (task, "model", 1),
        "update": (task, "loss", 120),
        "counted": (Session, "update", 120),
        "evaluation": (task, "evaluate", 12),
        "serialization": (torch, "save", 8),
        "row": (RowLog, "_write", 60),
        "fsync": (os, "fsync", 20),
        "rename": (os, "replace", 20),
        "checkpoint": (Session, "save", 8),
    }


def end_at(moment: Moment, count: int, before: bool, number: int) -> None:
    """Have this process send itself a signal at so many calls of what is patched."""
    owner, attribute, _ = moment
    real, calls = getattr(owner, attribute), 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count and before:
            os.kill(os.getpid(), number)
        result = real(*args, **kwargs)
        if calls == count and not before:
            os.kill(os.getpid(), number)
        return result

    setattr(owner, attribute, patched)


def live(arguments: tuple[str, ...], prepare: Callable[[], None] = lambda: None) -> tuple[int, str]:
    """One life: how the process ended, and what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        torch.set_num_threads(1)
        prepare()
        sys.argv = ["budgeted", *arguments]
        try:
            budgeted.cli.main.main()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(70)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def outcome(folder: RunFolder) -> dict[str, Any]:
    """What must not depend on how often the run was killed."""
    metric = (folder.result or {})["metric"]["name"]
    saved = checkpoint.load(folder.path / "last.pt", torch.device("cpu"))
    buffer = io.BytesIO()
    torch.save([saved["model"], saved["optimizer"], saved["average"], saved["random"]], buffer)
    best, note = checkpoint.read_weights(folder.path / "best.safetensors")
    result = folder.result or {}
    return {
        "weights": {name: tensor.tolist() for name, tensor in saved["model"].items()},
        "average": json.dumps(_plain(saved["average"])),
        "random": saved["random"]["torch"].tolist(),
        "best": ({name: tensor.tolist() for name, tensor in best.items()}, note),
        "metric": result.get("metric"),
        "steps": result["spent"]["steps"],
        "samples": result["spent"]["samples"],
        "rows": [(row["steps"], row["loss"], row["factor"], row.get(metric)) for row in folder.rows()],
        "trace": (folder.path / "trace.bin").read_bytes(),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Kill, resume, compare, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT", "USR1"], default="KILL")
    parser.add_argument("--task", default=TINY)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--budget", default="60ep")
    parser.add_argument("--evaluations", default="30")
    given = parser.parse_args()
    run = ("train", given.task, "--budget", given.budget, *RUN, "--evaluations", given.evaluations)
    run += ("--data", given.data) if given.data else ()
    run += ("--model", given.model) if given.model else ()
    places = moments(type(registry.load(given.task)))
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # the first optimizer imports for a second
    chance, number = random.Random(given.seed), getattr(signal, f"SIG{given.signal}")
    with tempfile.TemporaryDirectory() as root:
        code, said = live((*run, "--out", f"{root}/whole"))
        assert code == 0, (code, said)
        whole = outcome(RunFolder(next(Path(root, "whole").iterdir())))
        arguments = (*run, "--save-every", SAVE_EVERY, "--resume", "auto", "--out", f"{root}/killed")
        ends: collections.Counter[str] = collections.Counter()
        lives, kills = 0, 0
        while kills < given.kills:
            name = chance.choice(list(places))
            count, before = chance.randint(1, places[name][2]), chance.random() < 0.5
            code, said = live(arguments, lambda: end_at(places[name], count, before, number))  # noqa: B023 it runs at once
            lives += 1
            if code == 0:  # the run has ended before: from the start again, with what is left of the kills
                check(whole, Path(root, "killed"))
                for path in Path(root, "killed").iterdir():
                    path.rename(Path(root, f"done-{lives}"))
            elif code in (-number, 130):
                ends[f"{name}, {'before' if before else 'after'}"] += 1
                kills += 1
                if given.signal != "KILL":
                    require_nothing_lost(Path(root, "killed"))
            else:
                raise SystemExit(f"a life that was to end at {name} {count} ended with code {code}: {said}")
        code, said = live(arguments)
        assert code == 0, (code, said)
        check(whole, Path(root, "killed"))
    table = Table("moment", "kills")
    for moment, times in sorted(ends.items()):
        table.add_row(moment, str(times))
    Console().print(table)
    print(
        f"{kills} kills by SIG{given.signal} in {lives + 1} lives: every outcome equal to the undisturbed run's, to the bit"
    )


def require_nothing_lost(parent: Path) -> None:
    """After a signal that asks, the checkpoint is of the very last update."""
    for folder in parent.glob("[!.]*"):
        if (folder / "last.pt").exists():
            saved = checkpoint.load(folder / "last.pt", torch.device("cpu"))["run"]["ledger"]["spent"]["steps"]
            made = len(Trace.read(folder / "trace.bin"))
            if saved != made:
                raise SystemExit(f"{made} updates were made, and the checkpoint is of update {saved:g}")


def check(whole: dict[str, Any], parent: Path) -> None:
    """Compare the one run under `parent` with the undisturbed one."""
    found = outcome(RunFolder(next(path for path in parent.iterdir() if not path.name.startswith("."))))
    for name, value in whole.items():
        if found[name] != value:
            raise SystemExit(f"{name} differ: {str(found[name])[:300]} instead of {str(value)[:300]}")


if __name__ == "__main__":
    main()
