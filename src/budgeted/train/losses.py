"""Losses between two logged rows, kept on the device so that no update waits for one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.errors import NonFiniteLoss

_UNREAD = 256  # losses of a device that may go unread


class Losses:
    """The losses since the last logged row."""

    def __init__(self) -> None:
        self._unread: list[Tensor] = []
        self._step = 0
        self._sum, self._count = 0.0, 0

    def add(self, loss: Tensor, step: int) -> None:
        """Take the loss of the update that made `step` updates.

        Raises:
            NonFiniteLoss: at once on a CPU; on a device when the losses are next read.
        """
        self.note(loss, step)
        if loss.device.type == "cpu":
            self.check()

    def note(self, loss: Tensor, step: int) -> None:
        """The same for a loss that another run has looked at: it is read when the mean is asked for."""
        self._unread.append(loss)
        self._step = step
        if len(self._unread) >= _UNREAD:
            self.check()

    def check(self) -> None:
        """Read what was not read yet.

        Raises:
            NonFiniteLoss: naming the first update whose loss was NaN or infinite.
        """
        if not self._unread:
            return
        values = torch.stack(self._unread).tolist()
        for update, value in enumerate(values, self._step - len(values) + 1):
            if not math.isfinite(value):
                raise NonFiniteLoss(f"the loss was {value} at update {update}; try a lower base rate, or a warm-up")
        self._unread.clear()
        self._sum, self._count = self._sum + sum(values), self._count + len(values)

    def mean(self) -> float | None:
        """The mean since the last restart, or None where there were none."""
        self.check()
        return self._sum / self._count if self._count else None

    def restart(self) -> None:
        """Begin the next mean."""
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, float]:
        """The sum and the number of losses since the last restart."""
        self.check()
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self._sum, self._count = state["sum"], int(state["count"])
