"""Means between two logged rows, of figures that stay on the device so that no update waits for one; losses among them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.errors import NonFiniteLoss

_UNREAD = 256  # figures of a device that may go unread


class Mean:
    """The mean of a figure since the last logged row."""

    def __init__(self) -> None:
        self._unread: list[Tensor] = []
        self._sum, self._count = 0.0, 0

    def keep(self, figure: Tensor) -> None:
        """Take a figure, which is read later."""
        self._unread.append(figure)
        if len(self._unread) >= _UNREAD:
            self.check()

    def check(self) -> None:
        """Read what was not read yet."""
        if self._unread:
            values = torch.stack(self._unread).tolist()
            self._require(values)
            self._unread.clear()
            for value in values:  # one by one, so that when it is read makes no difference
                self._sum += value
            self._count += len(values)

    def _require(self, values: Sequence[float]) -> None:
        """Refuse what must not be among the figures."""

    def mean(self) -> float | None:
        """The mean since the last restart, or None where there was none."""
        self.check()
        return self._sum / self._count if self._count else None

    def restart(self) -> None:
        """Begin the next mean."""
        self._sum, self._count = 0.0, 0

    def state_dict(self) -> dict[str, float]:
        """The sum and the number of figures since the last restart."""
        self.check()
        return {"sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a state."""
        self._sum, self._count = state["sum"], int(state["count"])


class Losses(Mean):
    """The losses since the last logged row; reading one that is NaN or infinite raises NonFiniteLoss."""

    def __init__(self) -> None:
        super().__init__()
        self._step = 0

    def add(self, loss: Tensor, step: int) -> None:
        """Take the loss of the update that made `step` updates.

        Raises:
            NonFiniteLoss: at once on a CPU; on a device when the losses are next read.
        """
        if loss.device.type != "cpu":
            self.note(loss, step)
            return
        self.check()
        self._step, value = step, loss.item()
        self._require((value,))
        self._sum += value
        self._count += 1

    def note(self, loss: Tensor, step: int) -> None:
        """The same for a loss that another run has looked at: it is read when the mean is asked for."""
        self._step = step
        self.keep(loss)

    def _require(self, values: Sequence[float]) -> None:
        """The first update whose loss was NaN or infinite is named."""
        for update, value in enumerate(values, self._step - len(values) + 1):
            if not math.isfinite(value):
                raise NonFiniteLoss(f"the loss was {value} at update {update}; try a lower base rate, or a warm-up")
