"""What an update spends beside itself and its time: samples, tokens, FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .data import Batch
from .flops import Flops

_NOTHING = nullcontext()


class Tally:
    """Adds up what the micro-batches of one update spend, until the update is charged.

    Args:
        samples, tokens, flops: what each update spends, where that is constant.
        tokens_in: the number of tokens in a batch.
        limited: the resources that the budget limits: FLOPs are counted only where they are one.
    """

    def __init__(
        self,
        samples: float,
        tokens: float,
        flops: float,
        tokens_in: Callable[[Any], float] | None,
        limited: set[str],
    ) -> None:
        self.per_step = samples, tokens, flops
        self.limited = limited
        self.said = False  # whether the update under way spends more than that
        self._tokens_in, self._counter = tokens_in, Flops()
        self._samples = self._tokens = self._flops = 0.0

    def add(self, samples: float, tokens: float, flops: float) -> None:
        self._samples += samples
        self._tokens += tokens
        self._flops += flops
        self.said = True

    def around(self, batch: Any) -> AbstractContextManager[None]:
        """Count what is in a batch, and, where they are limited, the FLOPs of what happens inside."""
        samples, tokens, flops = self.per_step
        if not samples:
            self._samples += batch_size(batch)
        if not tokens and self._tokens_in is not None:
            self._tokens += self._tokens_in(batch)
        self.said = True
        return self._counter.around(batch) if "flops" in self.limited and not flops else _NOTHING

    def aside(self) -> AbstractContextManager[None]:
        """A context for what is no part of an update, such as an evaluation."""
        return self._counter.aside() if "flops" in self.limited else _NOTHING

    def close(self) -> None:
        """Count no more."""
        self._counter.close()

    def take(self) -> tuple[float, float, float]:
        """All that was said for the update that happened."""
        samples, tokens, flops = self.per_step
        counted = self._counter.take() if "flops" in self.limited else 0.0
        spent = samples + self._samples, tokens + self._tokens, flops + self._flops + counted
        self._samples = self._tokens = self._flops = 0.0
        self.said = False
        return spent


def batch_size(batch: Any) -> int:
    """Samples in a batch: its targets, or the length of the first tensor found in it."""
    if isinstance(batch, Batch):
        return len(batch.targets)
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 0
    for part in batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list | tuple) else ():
        if size := batch_size(part):
            return size
    return 0
