"""How updates are computed fastest on this machine: memory format and number format, measured in a few updates."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.errors import BudgetedError
from ..core.text import nearest
from .data import Batch

_WORTHWHILE = 1.1  # a speed-up below this is not worth other numerics


@dataclass(frozen=True, slots=True)
class Precision:
    """A memory format and a number format."""

    name: str
    channels_last: bool
    dtype: torch.dtype

    def place(self, model: nn.Module, device: torch.device) -> nn.Module:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return model.to(device).to(memory_format=layout)

    def prepare(self, batch: Batch) -> Batch:
        """The batch in the memory format of the weights."""
        if batch.inputs.dim() != 4:
            return batch
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return Batch(batch.inputs.contiguous(memory_format=layout), batch.targets)

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


def fastest(
    model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor], device: torch.device
) -> tuple[Precision, dict[str, float]]:
    """The precision with the shortest update, and the seconds that each took.

    The model is copied and the random state kept, so that neither is touched. bf16 must win by a tenth, since it changes the numbers.
    """
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    rivals = [p for p in PRECISIONS.values() if p.channels_last == convolutional or p.name == "float32"]
    seconds: dict[str, float] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout draws from it
        for precision in rivals:
            try:
                seconds[precision.name] = _time(precision, copy.deepcopy(model), batch, loss, device)
            except RuntimeError:  # bf16 lacks some operations
                if precision.dtype == torch.float32:
                    raise
    exact = min((p for p in rivals if p.dtype == torch.float32), key=lambda p: seconds[p.name])
    best = named(min(seconds, key=lambda name: seconds[name]))
    worthwhile = seconds[exact.name] > _WORTHWHILE * seconds[best.name]
    return (best if worthwhile else exact), seconds


def _time(
    precision: Precision,
    model: nn.Module,
    batch: Batch,
    loss: Callable[[nn.Module, Batch], Tensor],
    device: torch.device,
) -> float:
    """Seconds of one forward and backward pass: the shorter of two, after one to warm up."""
    model = precision.place(model, device).train()
    batch = precision.prepare(batch)
    best = float("inf")
    for trial in range(3):
        began = time.monotonic()
        with precision.autocast(device):
            value = loss(model, batch)
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if trial:
            best = min(best, time.monotonic() - began)
    return best
