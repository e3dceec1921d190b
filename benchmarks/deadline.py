"""Who ends when the time is over, and at which rate? What people do today with so many seconds, quiet and in trouble.

    OMP_NUM_THREADS=1 python benchmarks/deadline.py --seconds 10 20 60 --runs 5 --json deadline.json --plot deadline.png
    OMP_NUM_THREADS=1 python benchmarks/deadline.py --only budgeted-train elapsed-share --troubles stall

All train the small network of `digits`. Who they are and what makes them comparable stands in `contenders.py`. A round
has every contender under every budget and every trouble once, in a random order, one at a time. Within a
round all meet the same trouble at the same moment:

- `quiet`: none;
- `stall`: training stands still for 15 % of the budget, once, and is over it by 0.9 of the budget;
- `slow-down`: updates take three times as long from a moment between 0.3 and 0.8 of the budget until the end;
- `neighbours`: each core has another process that takes all it gets, for 30 % of the budget.

No trouble comes before a fifth of the budget, so that no probe of the speed is spoilt by it.

Seconds count from the call of training, so imports are in nobody's. `budgeted-train-process` alone is the whole
command from outside, imports included, as a person waits for it; where starting Python and PyTorch takes most of a budget, it says so and fails.
An early end is time that was paid for and not used; the worst is the latest end. A file of figures that exists already is gone on with.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, PACKAGE_OF, PACKAGES, Plan, Span, classification, collect
from side_by_side import circumstances, installed, label_ends_and_rates, show, spread

TROUBLES = ("quiet", "stall", "slow-down", "neighbours")
STALL, BUSY = 0.15, 0.3  # of the budget
HEADINGS = ("trouble, contender", "runs", "end minus budget, s", "worst", "rate of the last update / base", "accuracy")


def trouble(kind: str, draw: random.Random) -> dict[str, Span]:
    """What goes wrong, and when, as `contenders.Trouble` has it."""
    moment = draw.random()
    match kind:
        case "stall":
            begin = 0.3 + moment * (0.6 - STALL)
            return {"stall": [begin, begin + STALL]}
        case "slow-down":
            return {"slow": [0.3 + 0.5 * moment, 2.0]}
        case "neighbours":
            begin = 0.2 + 0.5 * moment
            return {"busy": [begin, begin + BUSY]}
    return {}


def plans(given: argparse.Namespace, contenders: Sequence[str]) -> Iterator[Plan]:
    """Round after round, each in an order of its own."""
    for number in range(given.seed, given.seed + given.runs):
        draw = random.Random(number)
        each = []
        for kind in given.troubles:
            for seconds in given.seconds:
                met = trouble(kind, random.Random(f"{number}-{kind}-{seconds:g}"))
                each += [Plan(name, given.task, seconds, number, kind, met) for name in contenders]
        yield from draw.sample(each, len(each))


def late(rows: Sequence[dict[str, Any]]) -> list[float]:
    """The seconds after the budget at which each run ended."""
    return [row["outcome"]["seconds"] - row["seconds"] for row in rows]


def line(kind: str, name: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """A contender in a trouble under one budget."""
    ends = late(rows)
    factors, accuracies = ([row["outcome"][of] for row in rows] for of in ("factor", "accuracy"))
    figures = [spread(ends, "+.2f"), f"{max(ends):+.2f}", spread(factors, ".4f"), spread(accuracies, ".4f")]
    return [f"{kind}, {name}", str(len(rows)), *figures]


def plot(rows: Sequence[dict[str, Any]], names: Sequence[str], kinds: Sequence[str], path: Path) -> None:
    """When each run ended and at which rate, a dot a run, a colour a trouble."""
    from budgeted.report.style import COLOURS, MARKERS, figure

    with figure(path, 9.0, 1.2 + 0.42 * len(names)) as drawn:
        ends, rates = drawn.subplots(1, 2, sharey=True)
        for number, kind in enumerate(kinds):
            of_kind = [row for row in rows if row["kind"] == kind]
            heights = [names.index(row["contender"]) + 0.7 * ((number + 0.5) / len(kinds) - 0.5) for row in of_kind]
            look = {"s": 14, "color": COLOURS[number], "marker": MARKERS[number], "alpha": 0.6, "linewidths": 0}
            shares = [end / row["seconds"] for end, row in zip(late(of_kind), of_kind, strict=True)]
            ends.scatter(shares, heights, label=kind, **look)
            rates.scatter([row["outcome"]["factor"] for row in of_kind], heights, **look)
        for axes in (ends, rates):
            axes.axvline(0.0, color="black", linewidth=0.8)
        label_ends_and_rates(ends, rates, names)
        rates.set_xlim(-2e-5, 2.0)
        drawn.legend(loc="outside upper center", ncols=len(kinds))


def main() -> None:
    """Run them one after another; a table a budget."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, nargs="+", default=[10.0, 20.0, 60.0], help="the budgets")
    parser.add_argument("--runs", type=int, default=5, help="rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--task", type=classification, default="digits")
    parser.add_argument("--troubles", nargs="+", choices=TROUBLES, default=TROUBLES)
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="CONTENDER")
    parser.add_argument("--json", type=Path, dest="figures", help="a file for every run's figures")
    parser.add_argument("--plot", type=Path, help="a picture of ends and rates")
    given = parser.parse_args()
    about, names = circumstances(PACKAGES), installed(given.only, PACKAGE_OF)
    rows = collect(list(plans(given, names)), given.figures, about)
    for seconds in given.seconds:
        groups = {
            (kind, name): [r for r in rows if (r["seconds"], r["kind"], r["contender"]) == (seconds, kind, name)]
            for kind in given.troubles
            for name in names
        }
        lines = [line(*group, of_group) for group, of_group in groups.items() if of_group]
        show(f"{given.task}, {seconds:g} s: median, and least to greatest", HEADINGS, lines, about)
    if given.plot:
        plot(rows, names, given.troubles, given.plot)


if __name__ == "__main__":
    main()
