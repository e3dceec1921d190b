"""Seconds from the start of the command to the first update: what each try costs before anything is learned.

    python benchmarks/startup.py
    python benchmarks/startup.py --rounds 20 --json startup.json
    python benchmarks/startup.py --only "budgeted train: digits,Lightning Trainer"

Each start is a fresh process: Python, the imports, the data, the model, what a trainer sets up, and one update. The scripts are in
benchmarks/startup/, as short as each library's documentation has them, with nothing to log, save or show; all
but digits train the same MLP (64-128-10) on a batch of 64 random samples. `budgeted train` is the command at its defaults, under a
budget in time: it makes its run folder and measures which precision and how many threads are fastest. digits has its
own network, and reads its data from scikit-learn.

A script prints the monotonic clock, which all processes of a machine share, once the optimizer has made an update, and is ended then.
Rounds have all of them, one after another, each round in an order of its own. The first round fills the file cache and is not
counted: after a boot or an installation, reading the libraries off the disk comes on top. Ratios are of the same round; shown
is their median, with the least and the greatest, or the quartiles of more than ten rounds.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from side_by_side import chosen, circumstances, draw, installed, keep, ratios, show, spread

SCRIPTS = Path(__file__).parent / "startup"
TRAIN = ("-m", "budgeted.cli.main", "train")
REFERENCE = "plain loop"
MARK = "first update at "
PACKAGES = ("lightning", "accelerate", "transformers", "keras")
# By name: what Python is given, and the package that it takes.
CONTENDERS: dict[str, tuple[Sequence[str], str]] = {
    REFERENCE: (["plain_loop.py"], "torch"),
    "attach": (["attached_loop.py"], "budgeted"),
    "budgeted train: own task": ([*TRAIN, "budgeted_own_task.py:Own", "--budget", "10min"], "budgeted"),
    "budgeted train: digits": ([*TRAIN, "budgeted_digits.py:NotedDigits", "--budget", "10min"], "budgeted"),
    "accelerate": (["accelerate_loop.py"], "accelerate"),
    "Lightning Trainer": (["lightning_trainer.py"], "lightning"),
    "transformers Trainer": (["transformers_trainer.py"], "transformers"),
    "Keras": (["keras_fit.py"], "keras"),
}


def start(name: str) -> float:
    """Seconds to the first update of a fresh process, which is ended there."""
    command = [sys.executable, *CONTENDERS[name][0]]
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryFile("w+") as said:
        if TRAIN[0] in command:
            command += ["--out", out]
        began = time.monotonic()
        with subprocess.Popen(command, cwd=SCRIPTS, stdout=subprocess.PIPE, stderr=said, text=True) as process:
            assert process.stdout is not None
            moment = next((line.removeprefix(MARK) for line in process.stdout if line.startswith(MARK)), None)
            process.kill()
        if moment is None:
            said.seek(0)
            raise RuntimeError(f"{name} ended before an update:\n{said.read()}")
    return float(moment) - began


def measure(names: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds by contender and round, but for the first round."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in range(rounds + 1):
        for name in order.sample(names, len(names)):
            seconds[name].append(start(name))
    return {name: values[1:] for name, values in seconds.items()}


def main() -> None:
    """Start them in interleaved rounds, and print how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="that are counted")
    parser.add_argument("--only", metavar="NAME,...", help=f"some contenders: {', '.join(CONTENDERS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="a file for the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the ratios")
    given = parser.parse_args()
    packages = {name: package for name, (_, package) in CONTENDERS.items()}
    names = installed(chosen(parser, given.only, CONTENDERS, REFERENCE), packages)
    seconds = measure(names, given.rounds)
    times = {name: ratios(values, seconds[REFERENCE]) for name, values in seconds.items()}
    rows = [(name, spread(values), spread(times[name])) for name, values in seconds.items()]
    about = circumstances(PACKAGES)
    title = f"From the command to the first update: {given.rounds} rounds"
    show(title, ("what is started", "seconds", f"times the {REFERENCE}"), rows, about)
    draw(given.plot, f"time to the first update, times the {REFERENCE}'s", times)
    keep(given.json, about, seconds)


if __name__ == "__main__":
    main()
