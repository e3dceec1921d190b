"""Losses between two rows, kept on the device so that no update waits for one."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import NonFiniteLoss

_UNSEEN = 256  # losses of a device that may go unread


class Losses:
    """The losses since the last row."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._seen = 0  # of these, known to be finite
        self._step = 0

    def add(self, loss: Tensor, step: int) -> None:
        """Take the loss of the update that made `step` updates.

        Raises:
            NonFiniteLoss: at once on a CPU; on a device when the losses are next read.
        """
        self._values.append(loss)
        self._step = step
        if loss.device.type == "cpu" or len(self._values) - self._seen >= _UNSEEN:
            self.check()

    def check(self) -> None:
        """Read what was not read yet.

        Raises:
            NonFiniteLoss: naming the first update whose loss was NaN or infinite.
        """
        unseen = self._values[self._seen :]
        if not unseen:
            return
        finite = torch.isfinite(torch.stack(unseen)).tolist()
        if not all(finite):
            update = self._step - len(unseen) + 1 + finite.index(False)
            raise NonFiniteLoss(f"the loss was NaN or infinite at update {update}; try a lower base rate, or a warm-up")
        self._seen = len(self._values)

    def mean(self) -> float | None:
        """The mean since the last call, or None where there were none."""
        if not self._values:
            return None
        self.check()
        mean = torch.stack(self._values).float().mean().item()
        self._values.clear()
        self._seen = 0
        return mean
