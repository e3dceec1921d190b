"""Randomness that can be put back, and exact repetition."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
import torch

from budgeted.train.process import determinism, random_state, random_state_kept, seed, set_random_state


def draws() -> list[float]:
    """From every generator, in each way that keeps something back for the next draw."""
    numbers = [random.random(), random.gauss(0, 1), float(np.random.rand()), float(np.random.randn())]
    return [*numbers, *torch.rand(3).tolist(), torch.randn(()).item(), *torch.randperm(5).tolist()]


def through_a_checkpoint(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture(autouse=True)
def _kept():
    with random_state_kept():
        yield


@pytest.mark.parametrize("number", [0, 1, 2**32 - 1])
def test_the_same_seed_gives_the_same_draws(number):
    seed(number)
    first = draws()
    draws()
    seed(number)
    assert draws() == first
    seed(number ^ 1)
    other = draws()
    assert all(a != b for a, b in zip(first[:4], other[:4], strict=True))
    assert first[4:7] != other[4:7]


@pytest.mark.parametrize("before", [0, 1, 400])
def test_random_states_go_through_a_checkpoint(before):
    """Also half way through a pair of normal numbers, of which the second is kept for the next draw."""
    seed(3)
    for _ in range(before):
        draws()
    state = random_state()
    first = [draws() for _ in range(3)]
    seed(9)
    set_random_state(through_a_checkpoint(state))
    assert [draws() for _ in range(3)] == first
    set_random_state(state)  # it was not changed by what was drawn since
    assert [draws() for _ in range(3)] == first


def test_the_state_of_a_generator_is_tensors_numbers_and_text():
    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        if isinstance(value, list | tuple):
            return [leaf for item in value for leaf in leaves(item)]
        return [value]

    assert {type(leaf) for leaf in leaves(random_state())} <= {torch.Tensor, int, float, str, type(None)}


def test_a_state_without_numpy_leaves_numpy_alone():
    state = random_state()
    del state["numpy"]
    np.random.seed(5)
    expected = np.random.RandomState(5).rand()
    set_random_state(state)
    assert np.random.rand() == expected


def test_more_gpus_than_there_are_do_not_stop_a_resume(monkeypatch):
    """A run may go on on a smaller machine."""
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=0: taken.append((device, state.tolist())))
    set_random_state(random_state() | {"cuda": [torch.ones(2, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8)]})
    assert taken == [(0, [1, 1])]


def test_what_is_drawn_inside_is_as_if_it_had_not_been():
    seed(3)
    expected = draws()
    seed(3)
    with random_state_kept():
        draws()
        seed(8)
    assert draws() == expected


def broken() -> None:
    with random_state_kept():
        draws()
        raise KeyError("broken")


def test_what_is_drawn_inside_is_put_back_after_an_error_too():
    seed(3)
    expected = draws()
    seed(3)
    with pytest.raises(KeyError, match="broken"):
        broken()
    assert draws() == expected


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_determinism_is_given_back(monkeypatch, wanted, before):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    threads = torch.get_num_threads()
    outside = torch.are_deterministic_algorithms_enabled()
    try:
        torch.use_deterministic_algorithms(before)
        with determinism(wanted):
            assert torch.are_deterministic_algorithms_enabled() == (wanted or before)
            assert torch.backends.cudnn.benchmark == (not wanted)
            torch.set_num_threads(1)
        assert torch.are_deterministic_algorithms_enabled() == before
        assert torch.get_num_threads() == threads
    finally:
        torch.use_deterministic_algorithms(outside)
