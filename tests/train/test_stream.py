"""Batches read by threads: which samples, in which order, whatever the threads do; damage counted; memory bounded."""

from __future__ import annotations

import itertools
import threading
import time
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from budgeted import BudgetWarning, TaskError
from budgeted.train.data import Batch
from budgeted.train.stream import Stream, Unreadable, readers
from budgeted.train.tally import batch_size

CPU = torch.device("cpu")


class Numbers:
    """Samples that are their own numbers, and what their augmentation drew."""

    def __init__(self, count, damaged=(), slow=0.0):
        self.count, self.damaged, self.slow = count, set(damaged), slow
        self.read_so_far = []

    def __len__(self):
        return self.count

    def read(self, index, random):
        time.sleep(self.slow * (index % 3))  # they become ready in another order than they were asked for
        if index in self.damaged:
            raise Unreadable(f"'{index}.jpg': truncated")
        self.read_so_far.append(index)
        return index, -1.0 if random is None else random.random()


def join(samples, device):
    return Batch(
        torch.tensor([[i, drawn] for i, drawn in samples], dtype=torch.float64), torch.tensor([i for i, _ in samples])
    )


def stream(count=20, batch_size=4, *, damaged=(), slow=0.0, **options):
    return Stream(Numbers(count, damaged, slow), batch_size, join, CPU, **options)


def flat(batches):
    return list(itertools.chain.from_iterable(batches))


def numbers(batches):
    return [batch.targets.tolist() for batch in batches]


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_every_sample_once(count, size, seed, epoch):
    data = stream(count, size, workers=2)
    batches = numbers(data.epoch(seed, epoch))
    assert sorted(flat(batches)) == list(range(count))
    assert len(batches) == len(data)
    assert all(len(batch) == size for batch in batches[:-1])


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_batches_depend_on_seed_and_epoch_alone(workers):
    """Neither on the number of threads, nor on which of them is first."""
    expected = list(stream(workers=1).epoch(3, 5))
    found = list(stream(workers=workers, slow=0.002).epoch(3, 5))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(expected, found, strict=True))
    assert numbers(stream().epoch(3, 6)) != numbers(expected)
    assert numbers(stream().epoch(4, 5)) != numbers(expected)


@given(st.integers(0, 5))
def test_a_resumed_epoch_goes_on_where_it_was(first):
    whole, rest = list(stream().epoch(0, 1)), list(stream().epoch(0, 1, first))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[first:], rest, strict=True))


def test_a_resumed_epoch_reads_nothing_of_what_was_trained_on():
    data = stream(workers=1)
    skipped = flat(numbers(stream().epoch(0, 1))[:3])
    list(data.epoch(0, 1, 3))
    assert not set(skipped) & set(data.source.read_so_far)


def test_augmentation_is_drawn_anew_in_each_epoch_and_not_at_all_for_evaluation():
    def drawn(epoch):
        return {int(i): d for batch in stream().epoch(0, epoch) for i, d in batch.inputs.tolist()}

    one, other = drawn(0), drawn(1)
    assert len(set(one.values())) == 20
    assert all(one[i] != other[i] for i in one)
    assert numbers(stream().in_order(7)) == [list(range(7)), list(range(7, 14)), list(range(14, 20))]
    assert all((batch.inputs[:, 1] == -1).all() for batch in stream().in_order())


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 6), st.integers(0, 3), st.booleans())
def test_batches_are_of_one_group_and_as_many_whatever_the_order(groups, size, epoch, whole):
    data = stream(len(groups), size, groups=groups, whole=whole)
    batches = numbers(data.epoch(0, epoch))
    assert all(len({groups[i] for i in batch}) == 1 for batch in batches)
    assert len(batches) == len(data)
    assert sum(map(len, batches)) == data.samples
    if not whole:
        assert sorted(flat(batches)) == list(range(len(groups)))


def test_a_last_batch_that_is_too_small_is_left_out_but_never_the_only_one():
    assert [len(b) for b in numbers(stream(10, 4, whole=True).epoch(0, 0))] == [4, 4]
    assert [len(b) for b in numbers(stream(3, 4, whole=True).epoch(0, 0))] == [3]


def test_a_subset_is_the_same_for_the_same_seed():
    some = stream(40).subset(0.25, 7)
    assert some.samples == 10
    assert sorted(flat(numbers(some.epoch(0, 0)))) == sorted(some.chosen) == sorted(stream(40).subset(0.25, 7).chosen)
    assert some.chosen != stream(40).subset(0.25, 8).chosen
    assert stream(40).subset(1e-9, 0).samples == 1


def test_no_more_than_a_few_batches_are_in_memory():
    """Whoever trains slowly is not overtaken by what reads."""
    data = stream(200, 4, workers=2, ahead=3)
    batches = data.epoch(0, 0)
    for taken in range(1, 6):
        next(batches)
        time.sleep(0.02)
        assert len(data.source.read_so_far) <= (taken + 3) * 4
    batches.close()


def test_readers_end_with_the_epoch():
    batches = stream(200, 4, workers=3).epoch(0, 0)
    next(batches)
    batches.close()
    deadline = time.monotonic() + 10
    while any(thread.name.startswith("reader") for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "threads are left over"
        time.sleep(0.01)


def test_damaged_samples_are_told_counted_and_replaced_where_an_epoch_must_stay_as_long_as_it_is():
    data = stream(200, 10, damaged=[17])
    with pytest.warns(BudgetWarning, match=r"skipped '17.jpg': truncated"):
        batches = numbers(data.epoch(0, 0))
    assert len(batches) == 20
    assert sorted(flat(batches)) == sorted([*range(17), 18, *range(18, 200)])
    assert list(data.skipped.why) == [17]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert numbers(data.epoch(0, 0)) == batches  # told once


def test_damaged_samples_are_left_out_of_an_evaluation():
    data = stream(200, 10, damaged=[17, 18])
    with pytest.warns(BudgetWarning, match="skipped"):
        found = flat(numbers(data.in_order()))
    assert found == [*range(17), *range(19, 200)]


def test_what_a_part_could_not_read_is_not_told_again():
    data = stream(200, 10, damaged=[17])
    part = data.subset(1.0, seed=0)
    with pytest.warns(BudgetWarning, match="skipped"):
        assert 17 not in flat(numbers(part.in_order()))
    assert list(data.skipped.why) == [17]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 17 not in flat(numbers(data.in_order()))


def test_more_damage_than_the_limit_stops_the_run():
    with (
        pytest.warns(BudgetWarning),
        pytest.raises(TaskError, match=r"3 of 200 samples cannot be read, and 2 may be skipped"),
    ):
        list(stream(200, 10, damaged=[3, 5, 8]).epoch(0, 0))
    assert stream(100_000).skipped.limit == 100
    assert stream(5).skipped.limit == 1


def test_a_set_of_one_damaged_sample_is_a_sentence():
    with pytest.warns(BudgetWarning), pytest.raises(TaskError, match="no sample can be read"):
        list(stream(1, 1, damaged=[0]).epoch(0, 0))


def test_other_errors_of_a_reader_are_not_swallowed():
    class Broken(Numbers):
        def read(self, index, random):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(Stream(Broken(4), 2, join, CPU).epoch(0, 0))


def test_samples_of_a_batch_are_its_targets():
    """Whatever its inputs look like: an image is a tensor of three channels."""
    assert batch_size(Batch([torch.zeros(3, 8, 8)] * 5, [{}] * 5)) == 5


def test_there_is_always_a_reader(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    assert readers() == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert readers() == 16
