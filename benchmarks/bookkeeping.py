"""What attach() adds to an optimizer update, against what torch's schedulers add.

    python benchmarks/bookkeeping.py --rounds 250
    python benchmarks/bookkeeping.py --rounds 125 --guard      # fails where bookkeeping has become dearer by half

The optimizer's own step does nothing, so what is left of a bare step is torch's wrapper around it. Every round times all
loops one after another, in an order of its own, so that what slows the machine slows all of them. What a loop adds is
its time less that of the bare loop in the same round; its ratio is that over what LambdaLR adds in the same round. Rounds
are short, a few milliseconds, and the clock is the thread's own processor time. Shown are medians and quartiles over
them. A ledger of time takes the other loops' turns for a stall, one in a round: with 25 updates in a round it would see
nothing but stalls.
"""

import argparse
import gc
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from side_by_side import draw, ratios
from torch.optim.lr_scheduler import LambdaLR, LinearLR, OneCycleLR

import budgeted

Loop = Callable[[int], None]
ENDLESS = 10**9  # updates in a budget that no benchmark ends
REFERENCE, BARE = "LambdaLR", "bare step"
# Of what LambdaLR adds, on a quiet machine; dearer by more than half is a regression.
ON_RECORD = {"attach: steps": 0.31, "attach: time": 0.45, "attach: time or steps": 0.58}


class Idle(torch.optim.SGD):
    """An optimizer that has what schedules turn, and does nothing."""

    def step(self, closure=None):
        return None


def optimizer() -> torch.optim.Optimizer:
    return Idle([torch.nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9)


def driven_by(scheduler_of: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]) -> Loop:
    opt = optimizer()
    schedule = scheduler_of(opt).step
    step = opt.step  # as the scheduler wrapped it

    def loop(updates: int) -> None:
        for _ in range(updates):
            step()
            schedule()

    return loop


def attached(budget: str, schedule: str = "linear", asked: bool = False) -> Loop:
    opt = optimizer()
    run = budgeted.attach(opt, budget, schedule)
    step = opt.step

    def loop(updates: int) -> None:
        for _ in range(updates):
            step()

    def asking(updates: int) -> None:
        for _ in range(updates):
            step()
            if run.done:
                return

    return asking if asked else loop


def bare() -> Loop:
    step = optimizer().step

    def loop(updates: int) -> None:
        for _ in range(updates):
            step()

    return loop


def loops() -> dict[str, Loop]:
    return {
        BARE: bare(),
        REFERENCE: driven_by(lambda o: LambdaLR(o, lambda t: 1.0 - t / ENDLESS)),
        "LinearLR": driven_by(lambda o: LinearLR(o, 1.0, 0.0, ENDLESS)),
        "OneCycleLR": driven_by(lambda o: OneCycleLR(o, 0.1, total_steps=ENDLESS)),
        "attach: steps": attached(f"{ENDLESS} steps"),
        "attach: steps, run.done": attached(f"{ENDLESS} steps", asked=True),
        "attach: time": attached("1000h"),
        "attach: time, run.done": attached("1000h", asked=True),
        "attach: time or steps": attached(f"1000h or {ENDLESS} steps"),
        "attach: steps, one-cycle": attached(f"{ENDLESS} steps", "one-cycle"),
    }


def measure(rounds: int, updates: int, seed: int) -> dict[str, list[float]]:
    """Seconds of one update, by loop and round."""
    timed = loops()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    order = random.Random(seed)
    for loop in timed.values():
        loop(10 * updates)
    gc.collect()
    gc.disable()  # or it would fall into one loop or another
    for _ in range(rounds):
        for name in order.sample(list(timed), len(timed)):
            began = time.thread_time()
            timed[name](updates)
            seconds[name].append((time.thread_time() - began) / updates)
    gc.enable()
    return seconds


def quartiles(values: list[float], form: str) -> tuple[str, str]:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:{form}}", f"{low:{form}} - {high:{form}}"


def added(seconds: dict[str, list[float]], name: str) -> list[float]:
    """Seconds that a loop adds to the bare one, round by round."""
    return [a - b for a, b in zip(seconds[name], seconds[BARE], strict=True)]


def regressions(times: dict[str, list[float]]) -> list[str]:
    """A sentence for each loop that has become dearer by more than half."""
    found = []
    for name, recorded in ON_RECORD.items():
        ratio = statistics.median(times[name])
        if ratio > 1.5 * recorded:
            found.append(
                f"{name} costs {ratio:.2f} of {REFERENCE}, {ratio / recorded:.1f} times the {recorded} on record"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=250)
    parser.add_argument("--updates", type=int, default=200, help="updates in a round of each loop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--guard", action="store_true", help="exit with 1 where a ratio is half as high again as on record"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the ratios")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds must be at least 2: there are no quartiles of less")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")

    seconds = measure(args.rounds, args.updates, args.seed)
    table = Table(
        title=f"What an update costs besides the update: {args.rounds} rounds of {args.updates}; torch {torch.__version__}"
    )
    for heading in ("loop", "µs an update", "quartiles", "µs added", "quartiles", f"of {REFERENCE}'s", "quartiles"):
        table.add_column(heading, justify="left" if heading == "loop" else "right")
    more = {name: added(seconds, name) for name in seconds if name != BARE}
    times = {name: ratios(values, more[REFERENCE]) for name, values in more.items()}
    for name, values in seconds.items():
        row = quartiles([1e6 * value for value in values], ".2f")
        if name != BARE:
            row += quartiles([1e6 * value for value in more[name]], ".2f")
            row += quartiles(times[name], ".3f")
        table.add_row(name, *row)
    Console(width=None if Console().is_terminal else 120).print(table)
    draw(args.plot, f"what a schedule adds to an update, times {REFERENCE}'s", times)
    if args.guard and (found := regressions(times)):
        sys.exit("bookkeeping has become dearer: " + "; ".join(found))


if __name__ == "__main__":
    main()
