"""Precisions: each trains, and finding the fastest changes nothing."""

from __future__ import annotations

import functools
import math
import random
import time

import numpy as np
import pytest
import torch
from torch import nn

from budgeted import BudgetedError
from budgeted.train.data import Batch
from budgeted.train.precision import PRECISIONS, fastest, named, whole_batch
from budgeted.train.process import random_state

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8 * 36, 4)
    )


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(32) % 4
    return Batch(torch.randn(32, 3, 6, 6, generator=generator) + targets[:, None, None, None], targets)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch.inputs), batch.targets)


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_precision_trains(name):
    precision = named(name)
    model, data = precision.place(network(), CPU), precision.prepare(batch())
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    assert data.inputs.is_contiguous(memory_format=layout)
    assert model[0].weight.is_contiguous(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    values = []
    for _ in range(30):
        with precision.autocast(CPU):
            output = model(data.inputs)
            value = nn.functional.cross_entropy(output, data.targets)
        assert output.dtype == precision.dtype
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.5 * values[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_inputs_that_are_no_images_stay_as_they_are():
    flat = Batch(torch.ones(4, 3), torch.ones(4))
    assert named("bf16-channels-last").prepare(flat) is flat


def test_an_unknown_precision_is_a_sentence():
    with pytest.raises(
        BudgetedError, match=r"precision 'bf61' is unknown; it is one of auto, .*did you mean 'bf16'\?$"
    ):
        named("bf61")


def drawing(model, batch):
    """A loss that draws from every generator, as augmentation may."""
    return loss(model, batch) * (1 + torch.rand(()) + random.random() + np.random.rand())


def state_of_everything(model: nn.Module) -> list:
    state = random_state()
    flags = torch.tensor([torch.get_num_threads(), model.training])
    weights = [tensor.clone() for tensor in model.state_dict().values()]
    return [*weights, state["torch"], state["numpy"][1], torch.tensor(state["python"][1]), flags]


@pytest.mark.parametrize("measure", [fastest, functools.partial(whole_batch, named("bf16-channels-last"))])
def test_measuring_touches_neither_model_nor_random_state(measure):
    model = network().eval()
    before = state_of_everything(model)
    measure(model, batch(), drawing, CPU)
    after = state_of_everything(model)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert model[0].weight.is_contiguous()


def test_the_fastest_is_one_that_was_measured():
    choice = fastest(network(), batch(), loss, CPU)
    assert choice.precision.name in choice.seconds
    assert choice.whole_batch[0] > 0
    assert choice.whole_batch[1] == len(batch().targets)


@pytest.mark.parametrize(("samples", "seconds"), [(32, 4.0), (6, 3.0), (2, 1.0), (1, 1.0)])
def test_a_batch_costs_what_its_quarter_does_so_many_times(monkeypatch, samples, seconds):
    """A quarter is two samples at least: batch norm needs them."""
    whole, sizes = batch(), []

    def one_second(precision, model, few, *_):
        sizes.append(len(few.targets))
        return 1.0

    monkeypatch.setattr("budgeted.train.precision._time", one_second)
    data = Batch(whole.inputs[:samples], whole.targets[:samples])
    assert whole_batch(named("float32"), network(), data, loss, CPU) == (seconds, samples)
    assert sizes == [min(samples, max(2, -(-samples // 4)))]


def test_the_seconds_of_a_whole_batch_are_of_what_was_chosen(monkeypatch):
    """That of one thread, where it is chosen; and so many times a quarter's where a pass is long."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("budgeted.train.precision._time", lambda *_: 3.0 if torch.get_num_threads() == 1 else 2.9)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: monkeypatch.setattr(torch, "get_num_threads", lambda: n))
    torch.set_num_threads(2)
    choice = fastest(nn.Linear(4, 4), batch(), loss, CPU)
    assert (choice.threads, choice.whole_batch) == (1, (12.0, len(batch().targets)))


@pytest.mark.parametrize("convolutional", [True, False])
def test_the_fastest_is_chosen_and_bf16_only_where_it_is_worthwhile(monkeypatch, convolutional):
    monkeypatch.setattr("budgeted.train.precision._HOPELESS", math.inf)
    model = network() if convolutional else nn.Linear(4, 4)
    costs = {"float32": 3.0, "float32-channels-last": 2.0, "bf16": 1.0, "bf16-channels-last": 1.0}

    def choice(changes) -> str:
        monkeypatch.setattr("budgeted.train.precision._time", lambda precision, *_: (costs | changes)[precision.name])
        return fastest(model, batch(), loss, CPU).precision.name

    end = "-channels-last" if convolutional else ""
    assert choice({}) == f"bf16{end}"
    # Less than a tenth slower than bf16:
    assert choice({"float32": 1.05, "float32-channels-last": 1.08}) == "float32"


def test_a_model_that_bf16_cannot_compute_is_trained_in_float32(monkeypatch):
    monkeypatch.setattr("budgeted.train.precision._HOPELESS", math.inf)

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("not implemented for 'BFloat16'")
            return self.inner(x)

    data = Batch(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    choice = fastest(Exact(), data, loss, CPU)
    assert choice.precision.name == "float32"
    assert set(choice.seconds) <= {"float32", "one thread"}


def test_batch_norm_is_given_two_samples_where_the_batch_has_them():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    assert fastest(model, Batch(torch.randn(4, 3), torch.tensor([0, 1, 2, 0])), loss, CPU).precision.name in PRECISIONS


@pytest.mark.parametrize(("alone", "threads"), [(1.0, 1), (1.1, 1), (1.2, 2)])
def test_all_threads_must_win_by_a_sixth(monkeypatch, alone, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: monkeypatch.setattr(torch, "get_num_threads", lambda: n))
    torch.set_num_threads(2)
    monkeypatch.setattr("budgeted.train.precision._time", lambda *_: 1.0 if torch.get_num_threads() == 2 else alone)
    choice = fastest(nn.Linear(4, 4), batch(), loss, CPU)
    assert choice.threads == threads
    assert torch.get_num_threads() == 2


def test_a_model_that_fails_in_float32_fails():
    data = Batch(torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        fastest(nn.Linear(3, 3), data, loss, CPU)


def test_a_rival_that_is_far_slower_is_given_up_in_its_first_forward_pass(monkeypatch):
    """Processors without bf16 take a hundred times as long; a budget in time pays for finding out."""
    passes = []

    def slow_in_bf16(model, given):
        if torch.is_autocast_enabled("cpu"):
            passes.append("bf16")
            time.sleep(0.5)
        return loss(model, given)

    monkeypatch.setattr("budgeted.train.precision._HOPELESS", math.inf)
    monkeypatch.setattr("budgeted.train.precision._PATIENCE", 2.0)
    choice = fastest(network(), batch(), slow_in_bf16, CPU)
    assert passes == ["bf16"]
    assert "bf16-channels-last" not in choice.seconds
    assert choice.precision.dtype == torch.float32


def test_where_a_product_in_bf16_is_hopeless_no_pass_of_the_model_is_tried(monkeypatch):
    tried = []

    def note(model, given):
        tried.append(torch.is_autocast_enabled("cpu"))
        return loss(model, given)

    monkeypatch.setattr("budgeted.train.precision._HOPELESS", 0.0)
    choice = fastest(network(), batch(), note, CPU)
    assert tried
    assert not any(tried)
    assert choice.precision.dtype == torch.float32


def test_batches_of_lists_are_measured_and_left_as_they_are():
    """Detection: images of several sizes, and for each what is on it."""
    images = [torch.rand(3, 8 + k, 9) for k in range(8)]

    def by_itself(model, given):
        assert isinstance(given.inputs, list)
        return torch.stack([model(x[None]).square().mean() for x in given.inputs]).mean()

    model = nn.Conv2d(3, 2, 3)
    data = Batch(images, [{"boxes": torch.zeros(k, 4)} for k in range(8)])
    assert named("bf16-channels-last").prepare(data) is data
    assert fastest(model, data, by_itself, CPU).whole_batch[1] == 8


def test_videos_have_a_memory_format_of_their_own():
    precision = named("float32-channels-last")
    model = precision.place(nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), CPU)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    clips = precision.prepare(Batch(torch.rand(2, 3, 4, 5, 6), torch.zeros(2)))
    assert clips.inputs.is_contiguous(memory_format=torch.channels_last_3d)
