"""Which accuracy do the same seconds buy? What people do today with so many seconds, on one task.

    python benchmarks/equal_time.py --task fashion-mnist --seconds 30 60 180 --seeds 5 --json equal.json --plot equal.png
    python benchmarks/equal_time.py --task cifar10-narrow --only budgeted-train lightning-cosine --json equal.json

Who they are and what makes them comparable stands in `contenders.py`. For each seed every contender trains under every
budget once, in a random order, one at a time; so what a slow hour did to one it did to the others, and differences to
`budgeted-train` are taken seed by seed. Accuracy is that of the final model on the task's validation images;
Keras' is of the best by those images. `budgeted-train` pays for its evaluations, checkpoints and curve out of its seconds, as
a person who runs it does, and a plain loop has none of them: `--only budgeted-train budgeted-attach elapsed-share` tells
the loop from what comes with it. Seconds count from the call of training: imports and reading the data
are in nobody's. A contender that ends late had more time than the others, so the end stands beside the accuracy.
A file of figures that exists already is gone on with: what is in it is not run again.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, PACKAGE_OF, PACKAGES, Plan, classification, collect
from side_by_side import circumstances, installed, show

REFERENCE = "budgeted-train"
USUAL = (
    REFERENCE,
    "budgeted-train-muon",
    "elapsed-share",
    "lightning-cosine",
    "fastai-one-cycle",
    "keras-early-stopping",
    "schedule-free-sgd",
    "schedule-free-adamw",
)
HEADINGS = ("contender", "seeds", "accuracy", f"minus {REFERENCE}", "end minus budget, s", "updates")


def plans(given: argparse.Namespace, contenders: Sequence[str]) -> Iterator[Plan]:
    """Seed after seed, each in an order of its own."""
    for seed in range(given.seeds):
        each = [Plan(name, given.task, seconds, seed) for seconds in given.seconds for name in contenders]
        yield from random.Random(seed).sample(each, len(each))


def mean(values: Sequence[float], form: str) -> str:
    """The mean, and the least and the greatest; one alone as it is."""
    if len(values) < 2:
        return "".join(f"{value:{form}}" for value in values)
    return f"{statistics.fmean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def accuracies(rows: Sequence[dict[str, Any]], name: str, seconds: float) -> dict[int, float]:
    """Of a contender under one budget, by seed."""
    of = [row for row in rows if (row["contender"], row["seconds"]) == (name, seconds)]
    return {row["seed"]: row["outcome"]["accuracy"] for row in of}


def line(rows: Sequence[dict[str, Any]], name: str, seconds: float) -> list[str]:
    """A contender under one budget."""
    found, reference = accuracies(rows, name, seconds), accuracies(rows, REFERENCE, seconds)
    pairs = [found[seed] - reference[seed] for seed in found.keys() & reference.keys() if name != REFERENCE]
    outcomes = [row["outcome"] for row in rows if (row["contender"], row["seconds"]) == (name, seconds)]
    ends = mean([outcome["seconds"] - seconds for outcome in outcomes], "+.2f")
    updates = mean([outcome["updates"] for outcome in outcomes], ".0f")
    return [name, str(len(found)), mean(list(found.values()), ".4f"), mean(pairs, "+.4f"), ends, updates]


def plot(rows: Sequence[dict[str, Any]], names: Sequence[str], budgets: Sequence[float], path: Path) -> None:
    """Mean accuracy over the budget, with the range of the seeds; side by side where they would hide each other."""
    from budgeted.report.style import figure, look

    with figure(path, 7.5, 4.5) as drawn:
        axes = drawn.subplots()
        for number, name in enumerate(names):
            found = {seconds: list(accuracies(rows, name, seconds).values()) for seconds in sorted(budgets)}
            found = {seconds: values for seconds, values in found.items() if values}
            places = [seconds * 1.02 ** (number - len(names) / 2) for seconds in found]
            means = [statistics.fmean(values) for values in found.values()]
            below = [centre - min(values) for centre, values in zip(means, found.values(), strict=True)]
            above = [max(values) - centre for centre, values in zip(means, found.values(), strict=True)]
            axes.errorbar(places, means, (below, above), label=name, markersize=4, elinewidth=0.8, **look(number))
        axes.set_xscale("log")
        axes.set_xticks(budgets, [f"{seconds:g} s" for seconds in budgets])
        axes.minorticks_off()
        axes.set(xlabel="budget", ylabel="validation accuracy of the final model")
        drawn.legend(loc="outside right upper")


def main() -> None:
    """Run them one after another; a table a budget."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--task", type=classification, default="fashion-mnist", help="or cifar10-narrow, 'fashion-mnist(augment=0)'"
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[30.0, 60.0, 180.0], help="the budgets")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=USUAL, metavar="CONTENDER")
    parser.add_argument("--json", type=Path, dest="figures", help="a file for every run's figures")
    parser.add_argument("--plot", type=Path, help="a picture of accuracy over the budget")
    given = parser.parse_args()
    about, names = circumstances(PACKAGES), installed(given.only, PACKAGE_OF)
    rows = collect(list(plans(given, names)), given.figures, about)
    for seconds in given.seconds:
        lines = [line(rows, name, seconds) for name in names if accuracies(rows, name, seconds)]
        show(f"{given.task}, {seconds:g} s: mean, and least to greatest", HEADINGS, lines, about)
    if given.plot:
        plot(rows, names, given.seconds, given.plot)


if __name__ == "__main__":
    main()
