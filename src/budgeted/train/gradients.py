"""Norms of the gradients that updates are made with, between two logged rows."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_EVERY = 256  # to twice as many updates each is measured; from there to four times as many every second, and so on
_UNREAD = 256  # norms of a device that may go unread


class Norms:
    """The mean norm since the last logged row, of some updates: which ones depends on nothing but their number."""

    def __init__(self) -> None:
        self._unread: list[Tensor] = []
        self._sum, self._count = 0.0, 0

    @staticmethod
    def due(step: int) -> bool:
        """Whether the norm of the update after so many is measured.

        >>> [step for step in range(510, 520) if Norms.due(step)]
        [510, 511, 512, 514, 516, 518]
        """
        return step % (1 << max(0, (step // _EVERY).bit_length() - 1)) == 0

    def note(self, norm: Tensor) -> None:
        """Take a norm, which is read later."""
        self._unread.append(norm)
        if len(self._unread) >= _UNREAD:
            self._read()

    def _read(self) -> None:
        if self._unread:
            for value in torch.stack(self._unread).tolist():  # one by one, so that when it is read makes no difference
                self._sum += value
            self._count += len(self._unread)
            self._unread.clear()

    def mean(self) -> float | None:
        """The mean since the last restart, or None where none was measured."""
        self._read()
        return self._sum / self._count if self._count else None

    def restart(self) -> None:
        """Begin the next mean."""
        self._unread.clear()
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, float]:
        """The sum and the number of norms since the last restart."""
        self._read()
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self._sum, self._count = state["sum"], int(state["count"])


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
