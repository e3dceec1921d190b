"""One run in several processes, as torchrun starts them: each batch is split over the ranks, and rank 0 keeps the record."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from .data import Batch, TrainingData
from .stream import Stream

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Team:
    """One process among those that train one run together."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls) -> Team:
        """The processes that torchrun started, brought in touch with each other; a team of one elsewhere."""
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if int(os.environ.get("WORLD_SIZE", "1")) == 1:
                return cls()
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which evaluates, writes and answers."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this rank on its machine, or the CPU."""
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu")

    def firsts(self, value: T) -> T:
        """Rank 0's value, on all ranks."""
        if self.count == 1:
            return value
        carried = [value if self.leads else None]
        dist.broadcast_object_list(carried, src=0)
        return carried[0]  # type: ignore[return-value]

    def everyones(self, value: T) -> list[T]:
        """The values of all ranks, on each of them."""
        if self.count == 1:
            return [value]
        gathered: list[Any] = [None] * self.count
        dist.all_gather_object(gathered, value)
        return gathered

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model that averages its gradients over the ranks."""
        if self.count == 1:
            return model
        return nn.parallel.DistributedDataParallel(model)

    def parts(self, train: TrainingData, seed: int, epoch: int, first: int) -> Iterator[tuple[Batch, float]]:
        """What this rank trains on of each batch of an epoch, and what its mean loss weighs; see `part`.

        Of samples that are read from files, a rank reads its own alone.
        """
        if self.count == 1:
            return ((batch, 1.0) for batch in train.epoch(seed, epoch, first))
        if isinstance(train, Stream):
            shares = train.shares(seed, epoch, first, self.rank, self.count)
            return ((batch, self._weight(whole)) for batch, whole in shares)
        return map(self.part, train.epoch(seed, epoch, first))

    def part(self, batch: Batch) -> tuple[Batch, float]:
        """The rows of this rank in a batch, and what their mean loss weighs, so that the ranks' mean is the batch's own.

        A rank for which there is no row computes the first one, at no weight: all ranks must go through the model.
        """
        size = len(batch.targets)
        rows = slice(self.rank, None, self.count) if self.rank < size else slice(1)
        return Batch(batch.inputs[rows], batch.targets[rows]), self._weight(size)

    def _weight(self, size: int) -> float:
        return len(range(self.rank, size, self.count)) * self.count / size
