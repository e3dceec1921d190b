"""How updates are computed fastest on this machine: memory format and number format, measured in a few updates."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import BudgetedError
from ..core.text import nearest
from .data import Batch
from .process import random_state_kept
from .threads import are_free as threads_are_free

_WORTHWHILE = 1.1  # a speed-up below this is not worth other numerics
_PATIENCE = 2.0  # times the best whole pass that a forward pass may take before its rival is given up
_SPREAD = 1.15  # and one below this not worth all threads
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the number of dimensions: images, videos
_HOPELESS = 4.0  # times as long as in float32, that a product in bf16 may take for bf16 to be tried at all
_BRIEF = 0.2  # seconds of a pass over a whole batch, up to which it is measured whole


@dataclass(frozen=True, slots=True)
class Precision:
    """A memory format and a number format."""

    name: str
    channels_last: bool
    dtype: torch.dtype

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        model = model.to(device)
        for dimensions, layout in _LAYOUTS.items():
            wanted = layout if self.channels_last else torch.contiguous_format
            for p in itertools.chain(model.parameters(), model.buffers()):
                if p.ndim == dimensions:
                    p.data = p.data.contiguous(memory_format=wanted)
        return model

    def prepare(self, batch: Batch) -> Batch:
        """The batch in the memory format of the weights."""
        layout = _LAYOUTS.get(getattr(batch.inputs, "ndim", 0))  # of a list, a model makes batches itself
        if layout is None:
            return batch
        wanted = layout if self.channels_last else torch.contiguous_format
        return Batch(batch.inputs.contiguous(memory_format=wanted), batch.targets)

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(device.type, self.dtype)


PRECISIONS = {
    p.name: p
    for p in (
        Precision("float32", False, torch.float32),
        Precision("float32-channels-last", True, torch.float32),
        Precision("bf16", False, torch.bfloat16),
        Precision("bf16-channels-last", True, torch.bfloat16),
    )
}


def named(name: str) -> Precision:
    """The precision of that name.

    Raises:
        BudgetedError: where it is unknown.
    """
    if name not in PRECISIONS:
        known = ", ".join(["auto", *PRECISIONS])
        raise BudgetedError(f"precision '{name}' is unknown; it is one of {known}{nearest(name, PRECISIONS)}")
    return PRECISIONS[name]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was found fastest, and the seconds of one forward and backward pass that it was chosen by."""

    precision: Precision
    threads: int
    seconds: dict[str, float]
    whole_batch: tuple[float, int] | None = None  # seconds of a pass over one, where it was measured, and its samples


def fastest(model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor], device: torch.device) -> Choice:
    """Measure one thread against all, and with the better number the precisions.

    A quarter of the batch has to do where a whole one would take long. bf16 must win by a tenth, since it changes the
    numbers; a processor without units for it may take minutes for one pass, so a small product is timed before. On a CPU
    all threads must win by a sixth: others may have a use for the cores. How many are used may change on the way; see
    `threads`. One thread is first, since a busy neighbour slows it little and all of them manyfold, and
    each rival is given up where it is far behind.
    The model is copied and the random state kept, so that neither is touched.
    """
    convolutional = any(isinstance(module, nn.Conv2d | nn.Conv3d) for module in model.modules())
    exact, *others = [p for p in PRECISIONS.values() if p.channels_last == convolutional or p.name == "float32"]
    if device.type == "cpu" and _bf16_over_float32() > _HOPELESS:
        others = [p for p in others if p.dtype == torch.float32]
    few, trials, most = _quarter(batch), 2, torch.get_num_threads()
    free = device.type == "cpu" and threads_are_free(most)

    def seconds_of(precision: Precision, threads: int, patience: float = math.inf) -> float:
        torch.set_num_threads(threads)
        try:
            return _time(precision, copy.deepcopy(model), few, loss, device, trials, patience)
        finally:
            torch.set_num_threads(most)

    threads = 1 if free else most
    with random_state_kept():  # dropout draws from it, and a task's own loss from any
        if 4 * (best := seconds_of(exact, threads)) < _BRIEF:
            few, trials = batch, 4
            best = seconds_of(exact, threads)
        seconds: dict[str, float] = {}
        if free:
            seconds["one thread"] = best
            together = seconds_of(exact, most, best)
            if _SPREAD * together < best:
                best, threads = together, most
        seconds[exact.name] = best
        for precision in others:
            try:
                took = seconds_of(precision, threads, _PATIENCE * min(seconds.values()))
            except RuntimeError:  # bf16 lacks some operations
                if precision.dtype == torch.float32:
                    raise
                continue
            if math.isfinite(took):
                seconds[precision.name] = took
    measured = [p for p in (exact, *others) if p.name in seconds]
    floats = min((p for p in measured if p.dtype == torch.float32), key=lambda p: seconds[p.name])
    quickest = min(measured, key=lambda p: seconds[p.name])
    chosen = quickest if seconds[floats.name] > _WORTHWHILE * seconds[quickest.name] else floats
    return Choice(chosen, threads, seconds, _extrapolated(seconds[chosen.name], few, batch))


def whole_batch(
    precision: Precision,
    model: nn.Module,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    device: torch.device,
) -> tuple[float, int]:
    """Seconds of a forward and backward pass over a batch, from one over a quarter of it, and its samples; nothing is touched."""
    few = _quarter(batch)
    with random_state_kept():
        seconds = _time(precision, copy.deepcopy(model), few, loss, device, 2)
    return _extrapolated(seconds, few, batch)


def _extrapolated(seconds: float, few: Batch, batch: Batch) -> tuple[float, int]:
    return seconds * len(batch.targets) / len(few.targets), len(batch.targets)


def _quarter(batch: Batch) -> Batch:
    few = max(2, -(-len(batch.targets) // 4))  # batch norm needs two
    return Batch(batch.inputs[:few], batch.targets[:few])


@functools.cache  # a study's worker asks for each of its runs
def _bf16_over_float32() -> float:
    """Times as long as in float32 that a small matrix product takes in bf16, on a CPU."""

    def seconds(dtype: torch.dtype) -> float:
        square, best = torch.ones(256, 256, dtype=dtype), math.inf
        for _ in range(3):
            began = time.perf_counter()
            square @ square
            best = min(best, time.perf_counter() - began)
        return best

    return seconds(torch.bfloat16) / seconds(torch.float32)


def _time(
    precision: Precision,
    model: nn.Module,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    device: torch.device,
    trials: int,
    patience: float = math.inf,
) -> float:
    """Seconds of one forward and backward pass: the shortest of some, after one to warm up.

    Infinite where a forward pass alone takes longer than `patience`: a processor without bf16 may take a hundred times as long.
    """
    model = precision.place(model, device).train()
    batch = precision.prepare(batch)
    best = float("inf")
    for trial in range(trials):
        began = time.monotonic()
        with precision.autocast(device):
            value = loss(model, batch)
        if time.monotonic() - began > patience:
            return math.inf
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if trial:
            best = min(best, time.monotonic() - began)
    return best
