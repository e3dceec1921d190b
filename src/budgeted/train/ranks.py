"""The processes of one run, and what they say to each other beside the gradients.

They have a gloo group of their own, so that this never mixes with what the model's gradients are exchanged over, and
waits for no GPU.
"""

from __future__ import annotations

import datetime as dt
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist

from ..core.errors import BudgetedError
from ..core.text import format_duration

Reduction = Literal["min", "max", "sum"]


def several_ranks() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class RanksApart(BudgetedError):
    """The processes of a run cannot reach each other, or are not at the same update."""


class Ranks:
    """All ranks of `torch.distributed`; each makes one at the same point, and each method is called on all of them.

    Args:
        timeout: seconds after which a rank that does not answer is given up, and the run with it.

    Raises:
        RanksApart: where a rank has ended or does not answer; so does each method.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()
        self._timeout = timeout
        self._apart: str | None = None  # what happened, if the others cannot be reached any more
        self._group: Any = None
        with self._in_touch():
            self._group = dist.new_group(backend="gloo", timeout=dt.timedelta(seconds=timeout))

    def sum(self, figures: Sequence[float]) -> list[float]:
        """The sum of each figure over the ranks, the same on all of them to the last bit."""
        vector = torch.tensor(figures, dtype=torch.float64)
        with self._in_touch():
            dist.all_reduce(vector, group=self._group)
        return vector.tolist()

    def gather(self, mine: Any) -> list[Any]:
        """What each rank has to say, in their order."""
        said: list[Any] = [None] * self.count
        with self._in_touch():
            dist.all_gather_object(said, mine, group=self._group)
        return said

    def agree(self, value: int, op: Reduction = "min") -> int:
        """The lowest (`min`), the highest (`max`) or the sum (`sum`) of the ranks' whole numbers."""
        number = torch.tensor(int(value))  # a truth is one too
        with self._in_touch():
            dist.all_reduce(number, getattr(dist.ReduceOp, op.upper()), group=self._group)
        return int(number)

    def close(self) -> None:
        """Let go of the connections."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    @contextmanager
    def _in_touch(self) -> Iterator[None]:
        if self._apart is not None:
            raise RanksApart(self._apart)
        try:
            yield
        except RuntimeError as error:
            reason = str(error).partition(". ")[0]  # advice of gloo's own follows
            self._apart = (
                f"rank {self.rank} of {self.count} cannot reach the others: one of them has ended, or gave no answer for "
                f"{format_duration(self._timeout)}; see what it said, and resume from the last checkpoint ({reason})"
            )
            # Whatever this rank does next, those who wait for it learn of it at once if nothing holds the connections.
            traceback.clear_frames(error.__traceback__)
            self.close()
            raise RanksApart(self._apart) from error
