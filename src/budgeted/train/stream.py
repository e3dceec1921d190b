"""Training data that is read from files while it trains: threads decode samples ahead of the updates that want them.

Which samples a batch holds, and what their augmentation draws, is a pure function of (seed, epoch), whatever the number of
threads, so a resumed run meets the very batches that an uninterrupted one would have met.

Threads are enough: decoders release the interpreter's lock. Nothing is pickled or copied between processes, no worker is left
behind by a kill, and no more than `ahead` batches are in memory.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Protocol

import torch

from ..core.errors import BudgetWarning, TaskError
from .data import Batch

_MOST_SKIPPED = 100  # samples that may be unreadable, however many there are
_SHARE_SKIPPED = 0.01  # and the share of them
_TOLD = 5  # that are told one by one


class Unreadable(Exception):
    """A sample that cannot be read: which file, and why."""


class Source(Protocol):
    """Samples that are read one by one, by several threads at once."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index: int, random: Random | None) -> Any:
        """A sample: augmented by what `random` draws, or as it is to be evaluated.

        Raises:
            Unreadable: where its file is damaged.
        """


Join = Callable[[list[Any], torch.device], Batch]


@dataclass(slots=True)
class Skipped:
    """Samples that could not be read, up to a limit; others stand in for them where an epoch must stay as long as it is."""

    of: int
    why: dict[int, str] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        return min(_MOST_SKIPPED, max(1, int(_SHARE_SKIPPED * self.of)))

    def add(self, index: int, why: str) -> None:
        """Take note of one.

        Raises:
            TaskError: where they are more than the limit.
        """
        if index in self.why:
            return
        self.why[index] = why
        if len(self.why) > self.limit:
            raise TaskError(
                f"{len(self.why)} of {self.of:,} samples cannot be read, and {self.limit} may be skipped; the first: "
                f"{next(iter(self.why.values()))}; the last: {why}. Get them again, or take them out of the data set"
            )
        if len(self.why) <= _TOLD:
            more = "; further ones are only counted" if len(self.why) == _TOLD else ""
            warnings.warn(f"skipped {why}{more}", BudgetWarning, stacklevel=4)


@dataclass(frozen=True, slots=True)
class Stream:
    """Batches of samples that threads read from files.

    Args:
        source: the samples.
        batch_size: samples of one update.
        join: makes a batch on the device from a list of samples.
        device: where batches go.
        groups: of each sample, the group of which its batches are made; None for one group. Batches of one aspect ratio need
            less padding.
        whole: whether a smaller last batch of a group is left out, since batch norm needs samples; never the only one.
        workers: threads that read.
        ahead: batches that are read before they are wanted.
        chosen: the samples that are used; None for all.
    """

    source: Source
    batch_size: int
    join: Join
    device: torch.device
    groups: Sequence[int] | None = None
    whole: bool = False
    workers: int = field(default_factory=lambda: readers())
    ahead: int = 3
    chosen: tuple[int, ...] | None = None
    skipped: Skipped = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "skipped", Skipped(len(self.source)))

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        return sum(map(self._used, self._group_sizes()))

    def __len__(self) -> int:
        return sum(-(-self._used(size) // self.batch_size) for size in self._group_sizes())

    def epoch(self, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The shuffled, augmented batches of an epoch, from the `first` on."""
        return (batch for batch, _ in self.shares(seed, epoch, first))

    def shares(
        self, seed: int, epoch: int, first: int = 0, rank: int = 0, count: int = 1
    ) -> Iterator[tuple[Batch, int]]:
        """Of each batch of an epoch the rows of one rank, which alone are read, and how many the whole batch has.

        Args:
            seed, epoch, first: as of `epoch`.
            rank: takes every `count`-th row from this one on; the first row where there is none for it.
            count: ranks that share each batch.
        """
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)
        every = self._all()
        batches = self._cut([every[place] for place in torch.randperm(len(every), generator=random).tolist()])
        if self.groups is not None:
            batches = [batches[place] for place in torch.randperm(len(batches), generator=random).tolist()]
        batches = batches[first:]
        shares = [batch[rank::count] or batch[:1] for batch in batches]
        for batch, samples in zip(batches, self._read(shares, f"{seed} {epoch}"), strict=True):
            yield self.join(samples, self.device), len(batch)

    def in_order(self, batch_size: int | None = None) -> Iterator[Batch]:
        """The samples as they are to be evaluated, in their order; those that cannot be read are left out."""
        size, every = batch_size or self.batch_size, self._all()
        batches = [every[start : start + size] for start in range(0, len(every), size)]
        for samples in self._read(batches, None):
            if samples:
                yield self.join(samples, self.device)

    def subset(self, share: float, seed: int) -> Stream:
        """A random part of the samples, the same one for the same share and seed; at least one.

        Args:
            share: of the samples, above 0 and at most 1.
            seed: of the draw.
        """
        every = self._all()
        random = torch.Generator().manual_seed((seed + 1) * 1_000_003 - 2)  # that of no epoch
        places = torch.randperm(len(every), generator=random)[: max(1, round(share * len(every)))]
        part = replace(self, chosen=tuple(every[place] for place in places.tolist()))
        object.__setattr__(part, "skipped", self.skipped)  # of the source: what cannot be read is told once
        return part

    def _all(self) -> Sequence[int]:
        return range(len(self.source)) if self.chosen is None else self.chosen

    def _group_sizes(self) -> Iterable[int]:
        if self.groups is None:
            return [len(self._all())]
        return Counter(self.groups[index] for index in self._all()).values()

    def _used(self, size: int) -> int:
        """Of so many samples of a group, those of an epoch."""
        return size - size % self.batch_size if self.whole and size >= self.batch_size else size

    def _cut(self, order: Sequence[int]) -> list[Sequence[int]]:
        """Batches of samples of one group each, in the order given; as many whatever the order."""
        kinds: dict[int, list[int]] = {}
        for index in order:
            kinds.setdefault(0 if self.groups is None else self.groups[index], []).append(index)
        batches: list[Sequence[int]] = []
        for kind in sorted(kinds):
            of_kind = kinds[kind]
            starts = range(0, self._used(len(of_kind)), self.batch_size)
            batches += [of_kind[start : start + self.batch_size] for start in starts]
        return batches

    def _read(self, batches: Iterable[Sequence[int]], draw: str | None) -> Iterator[list[Any]]:
        """The samples of each batch, the next ones under way."""
        pool = ThreadPoolExecutor(self.workers, "reader")
        waiting = iter(batches)

        def begin() -> Iterator[list[tuple[int, Future[Any]]]]:
            for batch in waiting:
                yield [(index, pool.submit(self._sample, index, draw)) for index in batch]

        under_way = begin()
        try:
            ready = deque(itertools.islice(under_way, self.ahead))
            while ready:
                samples = [self._result(index, future, draw) for index, future in ready.popleft()]
                ready.extend(itertools.islice(under_way, 1))
                yield [sample for sample in samples if sample is not None]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _sample(self, index: int, draw: str | None) -> Any:
        return self.source.read(index, None if draw is None else Random(f"{draw} {index}"))

    def _result(self, index: int, future: Future[Any], draw: str | None) -> Any:
        """What was read; in training, for a sample that cannot be read, the next one that can."""
        try:
            return future.result()
        except Unreadable as error:
            self.skipped.add(index, str(error))
        if draw is None:
            return None
        every = self._all()
        place = every.index(index)
        for step in range(1, len(every)):
            other = every[(place + step) % len(every)]
            try:
                return self._sample(other, draw)
            except Unreadable as error:
                self.skipped.add(other, str(error))
        raise TaskError(f"no sample can be read; the first: {next(iter(self.skipped.why.values()))}")


def readers() -> int:
    """Threads that read: as many as there are processors beside the one that trains, from 1 to 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores - 1, 16))
