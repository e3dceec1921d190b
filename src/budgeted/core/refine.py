"""The schedule that a problem asks for by itself, from the gradient norms of a run (Defazio, Cutkosky, Mehta & Mishchenko 2023).

"When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement", algorithm 1: with G_t the norm of the gradient at
update t, smoothed by a median filter, and w_t = G_t^-2 (for SGD; G_t^-1 for Adam and its kin),

    s_t = w_t (w_{t+1} + ... + w_T),    divided by its greatest value.

With a steady norm that is the linear schedule; where the norm falls towards the end, as it does when the rate decays, the
last updates are made longer; where it is high at the start, a warm-up comes out by itself.
"""

from __future__ import annotations

import contextlib
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .errors import RunFolderError, ScheduleError
from .record import RunFolder, Spec
from .schedule import Points

SMOOTHING = 0.1  # of the run, over which the median is taken
_INTERVALS = 50  # of the piecewise-linear result
_LEAST = 10  # norms
_ADAPTIVE = re.compile(r"(schedule-free-)?(n|r)?adam|amsgrad|rmsprop|adagrad|adamax", re.IGNORECASE)
_NAMED = re.compile(r"refined\((.*)\)", re.DOTALL)


def refined(
    history: Sequence[tuple[float, float]],
    *,
    smoothing: float = SMOOTHING,
    power: float = 2.0,
    intervals: int = _INTERVALS,
) -> Points:
    """The schedule refined from a history of gradient norms.

    Args:
        history: pairs of progress, 0 to 1, and norm, in order; at least ten.
        smoothing: the share of the run that the median filter spans, 0 to 1.
        power: w is the norm to minus this power: 2 for SGD, 1 for Adam and its kin.
        intervals: of the piecewise-linear schedule.

    Raises:
        ScheduleError: for too short a history, or norms that are not positive and finite.

    >>> steady = refined([(k / 100, 2.0) for k in range(101)])
    >>> round(steady(0.5), 6), steady(1.0)
    (0.5, 0.0)
    """
    if len(history) < _LEAST:
        raise ScheduleError(
            f"a refined schedule needs at least {_LEAST} gradient norms, and the run has {len(history)}; log more updates, "
            "or take a longer run"
        )
    if not 0 <= smoothing <= 1:
        raise ScheduleError(
            f"smoothing is the share of the run that the median is taken over, 0 to 1, and is {smoothing}"
        )
    if strange := next((norm for _, norm in history if not 0 < norm < float("inf")), None):
        raise ScheduleError(f"gradient norms are positive and finite, and one is {strange}")
    if any(not norm for _, norm in history):
        raise ScheduleError("gradient norms are positive, and one is 0: there is nothing left to weigh")
    smooth = _median_filtered(_resampled(history, 4 * intervals), max(1, round(smoothing * 4 * intervals)))
    weights = [norm**-power for norm in smooth]
    after, factors = 0.0, [0.0] * len(weights)
    for t in reversed(range(len(weights))):
        # The middle of an interval: half of its own weight comes after it, which makes a steady norm exactly linear.
        factors[t] = weights[t] * (after + weights[t] / 2)
        after += weights[t]
    return _points(factors, intervals)


def _resampled(history: Sequence[tuple[float, float]], count: int) -> list[float]:
    """The norm at the middle of each of so many equal parts of the run: their mean there, or that of the nearest ones."""
    found: list[list[float]] = [[] for _ in range(count)]
    for p, norm in history:
        found[min(int(p * count), count - 1)].append(norm)
    known = [((k + 0.5) / count, statistics.fmean(norms)) for k, norms in enumerate(found) if norms]
    between = Points(((0.0, known[0][1]), *known, (1.0, known[-1][1])))
    return [between.factor((k + 0.5) / count) for k in range(count)]


def _median_filtered(values: Sequence[float], width: int) -> list[float]:
    """Medians of windows; before the start the first value goes on, after the end the last ones are mirrored, as in the paper."""
    half = width // 2
    padded = [values[0]] * half + list(values) + list(values[::-1][: half + 1])
    return [statistics.median(padded[k : k + 2 * half + 1]) for k in range(len(values))]


def _points(factors: Sequence[float], intervals: int) -> Points:
    """The curve at even intervals, 1 at its highest and 0 at the end, in figures of four digits."""
    middles = [((k + 0.5) / len(factors), factor) for k, factor in enumerate(factors)]
    first = max(0.0, factors[0] + (factors[0] - factors[1]) / 2)
    curve = Points(((0.0, first), *middles, (1.0, 0.0)))
    values = [curve.factor(k / intervals) for k in range(intervals + 1)]
    highest = max(values)
    return Points(tuple((round(k / intervals, 6), float(f"{v / highest:.4g}")) for k, v in enumerate(values)))


def of_run(path: Path) -> Points:
    """The schedule refined from the gradient norms in a run's folder.

    Raises:
        RunFolderError: where there is no run.
        ScheduleError: where it is not finished, or has logged too few norms.
    """
    folder = RunFolder.open(path)
    if folder.result is None:
        raise ScheduleError(f"refined:{path}: the run is not finished; its norms are known up to where it is")
    return from_folder(folder)


def from_folder(folder: RunFolder) -> Points:
    """The same of a folder that is known to be a finished run's."""
    history = [(row["progress"], row["gradient"]) for row in folder.rows() if row.get("gradient") is not None]
    try:
        return refined(history, power=1.0 if _ADAPTIVE.match(_optimizer(folder)) else 2.0)
    except ScheduleError as error:
        raise ScheduleError(f"the run in '{folder.path}': {error}") from None


def _optimizer(folder: RunFolder) -> str:
    """The name of what the run was trained with: a task's own is known once it is made."""
    with contextlib.suppress(RunFolderError):
        return str(folder.read("environment").get("optimizer", folder.spec.optimizer or ""))
    return folder.spec.optimizer or ""


def is_refined(schedule: str) -> bool:
    """Whether a run's schedule is refined from that of another run, as `refined(linear)` is."""
    return _NAMED.fullmatch(schedule) is not None


def inner(schedule: str) -> str:
    """The schedule of that other run: `linear` of `refined(linear)`."""
    found = _NAMED.fullmatch(schedule)
    return found[1].strip() if found else schedule


def source(spec: Spec) -> Spec | None:
    """The run whose norms another one's schedule is refined from, which differs in its schedule alone; None for others."""
    return replace(spec, schedule=inner(spec.schedule)) if is_refined(spec.schedule) else None


def sources(specs: Iterable[Spec]) -> list[Spec]:
    """The runs that some others are refined from."""
    return [other for spec in specs if (other := source(spec)) is not None]


def resolved(spec: Spec, runs: Path) -> str:
    """The text of a run's schedule, with the points themselves where it is refined from another run.

    Args:
        spec: of the run.
        runs: the folder that both are in.

    Raises:
        ScheduleError: where the other run is not finished.
    """
    other = source(spec)
    if other is None:
        return spec.schedule
    folder = RunFolder.finished(runs, other)
    if folder is None:
        raise ScheduleError(
            f"schedule '{spec.schedule}' is refined from the run with schedule '{other.schedule}' and else the same options, "
            f"which is not finished in '{runs}' (it would be '{other.name}'); train that one first"
        )
    return str(from_folder(folder))
