"""Norms of the gradients that updates are made with, between two logged rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .losses import Mean

_EVERY = 256  # to twice as many updates each is measured; from there to four times as many every second, and so on


class Norms(Mean):
    """The mean norm since the last logged row, of some updates: which ones depends on nothing but their number."""

    @staticmethod
    def due(step: int) -> bool:
        """Whether the norm of the update after so many is measured.

        >>> [step for step in range(510, 520) if Norms.due(step)]
        [510, 511, 512, 514, 516, 518]
        """
        return step % (1 << max(0, (step // _EVERY).bit_length() - 1)) == 0


def norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, on their device; 0 where there are none."""
    gradients = [dense(p.grad) for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms: Tensor = torch.stack(torch._foreach_norm(gradients))
    total: Tensor = torch.linalg.vector_norm(norms.float())
    return total


def dense(gradient: Tensor) -> Tensor:
    """The gradient, or the values of a sparse one."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient
