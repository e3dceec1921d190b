"""Weights averaged beside the raw ones."""

from __future__ import annotations

import copy
import io
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from budgeted import BudgetedError
from budgeted.train.averaging import Averaged, Ema, Lawa, read_average
from budgeted.train.data import Batch
from budgeted.train.evaluation import with_fresh_statistics

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
UPDATES = 40


@pytest.fixture(autouse=True)
def _one_thread():
    """Several are no faster on networks of this size, and many times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )


def train(model: nn.Module, averaged: Averaged, first: int = 0, last: int = UPDATES, watch=lambda _: None) -> None:
    """So many updates, the same ones whoever makes them."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    device, dtype = (each := next(model.parameters())).device, each.dtype
    for k in range(first, last):
        inputs = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(k)).to(device, dtype)
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        averaged.update((k + 1) / UPDATES)
        watch(k)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one: nn.Module, other: nn.Module) -> bool:
    """To the last bit, buffers too."""
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


AVERAGES = [Ema(), Ema(0.9), Ema(share=1.0), Lawa(), Lawa(3, 0.1)]
each_average = pytest.mark.parametrize("average", AVERAGES, ids=str)


# The formulas


@pytest.mark.parametrize(
    ("average", "of_torch"),
    [
        (Ema(0.9), get_ema_multi_avg_fn(0.9)),
        (Ema(0.999), get_ema_multi_avg_fn(0.999)),
        (Ema(share=1.0), get_swa_multi_avg_fn()),
    ],
    ids=["ema(0.9)", "ema(0.999)", "the mean of all"],
)
def test_an_exponential_average_is_torchs_to_the_last_bit(average, of_torch):
    model = network()
    averaged, theirs = average.start(model), AveragedModel(model, multi_avg_fn=of_torch)

    def watch(k: int) -> None:
        theirs.update_parameters(model)
        ours = weights(averaged.model())
        assert all(torch.equal(ours[name], tensor) for name, tensor in weights(theirs.module).items())

    train(model, averaged, watch=watch)


@pytest.mark.parametrize("average", [Lawa(3, 0.1), Lawa(1, 0.25), Lawa(5, 0.05)], ids=str)
def test_lawa_is_the_mean_of_the_last_snapshots_to_torchs_last_bit(average):
    model, snapshots = network(), []
    averaged = average.start(model)

    def watch(k: int) -> None:
        if (k + 1) % round(UPDATES * average.share) == 0:
            snapshots.append(copy.deepcopy(model))
        if snapshots:
            theirs = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())
            for snapshot in snapshots[-average.count :]:
                theirs.update_parameters(snapshot)
            ours = weights(averaged.model())
            assert all(torch.equal(ours[name], tensor) for name, tensor in weights(theirs.module).items())

    train(model, averaged, watch=watch)
    assert len(snapshots) == round(1 / average.share)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 1.0])
def test_a_share_weighs_by_a_power_of_the_time_and_looks_back_by_that_share(share):
    """Averaging the numbers of the updates gives the mean update in the average: t less s/(1 + s) t."""
    model = nn.Linear(1, 1, bias=False).double()
    averaged, t = Ema(share=share).start(model), 5000
    for k in range(1, t + 1):
        model.weight.data.fill_(k)
        averaged.update(0.0)
    assert t - averaged.model().weight.item() == pytest.approx(share / (1 + share) * t, rel=0.01)


def test_weights_of_single_updates_under_a_share():
    """Update i of t counts for about i^(1/s - 1), whatever t is."""
    share, t = 0.25, 2000

    def part(update: int) -> float:
        model = nn.Linear(1, 1, bias=False).double()
        averaged = Ema(share=share).start(model)
        for k in range(1, t + 1):
            model.weight.data.fill_(k == update)
            averaged.update(0.0)
        return averaged.model().weight.item()

    assert part(1500) / part(750) == pytest.approx(2**3, rel=0.01)
    assert part(1000) == pytest.approx(1 / share * 1000**3 / t**4, rel=0.01)


@each_average
def test_the_initial_weights_have_no_part(average):
    model = nn.Linear(1, 1, bias=False)
    averaged = average.start(model)
    model.weight.data.fill_(7.0)
    for k in range(UPDATES):
        averaged.update((k + 1) / UPDATES)
    assert averaged.model().weight.item() == 7.0


@each_average
def test_before_there_is_an_average_the_models_own_weights_are_given(average):
    model = network()
    averaged = average.start(model)
    model[5].weight.data.fill_(3.0)
    assert same(averaged.model(), model)
    averaged.load_state_dict(through_a_file(averaged.state_dict()))
    assert same(averaged.model(), model)


def test_snapshots_are_taken_where_a_point_is_reached_once_for_several_and_never_by_looking():
    model = nn.Linear(1, 1, bias=False)
    averaged, means = Lawa(2, 0.1).start(model), []
    for k, progress in enumerate([0.0, 0.05, 0.1, 0.1, 0.19, 0.2, 0.55, 0.6, 0.65, 0.7]):
        model.weight.data.fill_(k)
        averaged.update(progress)
        means.append(averaged.model().weight.item())
    #                 none: its own; 2,   2,   2,  (2 + 5)/2, (5 + 6)/2, (6 + 7)/2, -, (7 + 9)/2
    assert means == [0.0, 1.0, 2.0, 2.0, 2.0, 3.5, 5.5, 6.5, 6.5, 8.0]


@given(st.integers(1, 200))
def test_points_of_progress_that_floats_miss_by_a_bit_are_reached(points):
    model = nn.Linear(1, 1, bias=False)
    averaged = Lawa(1, 1 / points).start(model)
    for k in range(1, points + 1):
        model.weight.data.fill_(k)
        averaged.update(k / points)
        assert averaged.model().weight.item() == k


# The model


@each_average
def test_training_is_untouched_by_averages_and_by_looking_at_them(average):
    alone, watched = network(), network()
    train(alone, Ema().start(network()))
    averaged = average.start(watched)
    train(watched, averaged, watch=lambda _: averaged.model())
    assert same(alone, watched)


@each_average
def test_the_copy_has_buffers_of_the_model_and_is_not_changed_by_more_training(average):
    model = network()
    averaged = average.start(model)
    train(model, averaged, last=30)
    given_out = averaged.model()
    assert all(torch.equal(a, b) for a, b in zip(given_out.buffers(), model.buffers(), strict=True))
    assert not torch.equal(given_out[5].weight, model[5].weight)
    before = copy.deepcopy(given_out)
    train(model, averaged, first=30)
    assert same(given_out, before)


def test_batch_norm_is_refreshed_for_the_averaged_weights():
    model = network()
    averaged = Lawa().start(model)
    train(model, averaged)
    batch = Batch(torch.randn(64, 3, 6, 6), torch.zeros(64))
    fresh = with_fresh_statistics(averaged.model(), [batch], nullcontext())
    torch.testing.assert_close(fresh[1].running_mean, fresh[0](batch.inputs).mean((0, 2, 3)))
    assert not torch.allclose(fresh[1].running_mean, model[1].running_mean)


@each_average
def test_halves_are_averaged_in_single_precision(average):
    """In bfloat16 a change of a thousandth would be lost in every update."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    averaged, progress = average.start(model), [(k + 1) / UPDATES for k in range(UPDATES)]
    values = [torch.tensor(1.0 + (k % 2) / 128, dtype=torch.bfloat16) for k in range(UPDATES)]
    reference = average.start(single := nn.Linear(1, 1, bias=False))
    for value, p in zip(values, progress, strict=True):
        model.weight.data.fill_(value)
        single.weight.data.fill_(value)
        averaged.update(p)
        reference.update(p)
    assert averaged.model().weight.dtype == torch.bfloat16
    assert torch.equal(averaged.model().weight, reference.model().weight.to(torch.bfloat16))
    if isinstance(average, Ema):
        assert averaged.state_dict()["weights"]["weight"].dtype == torch.float32


@each_average
def test_doubles_stay_doubles_beside_singles(average):
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()])
    averaged = average.start(model)
    averaged.update(1.0)
    assert [p.dtype for p in averaged.model().parameters()] == [torch.float32] * 2 + [torch.float64] * 2
    model[1].weight.data.add_(1e-12)
    assert not torch.equal(averaged.model()[1].weight, model[1].weight)


@each_average
def test_channels_last_gives_the_same_bits_in_its_own_layout(average):
    plain, last = network(), network().to(memory_format=torch.channels_last)
    averaged, other = average.start(plain), average.start(last)
    for k in range(UPDATES):
        for a, b in zip(plain.parameters(), last.parameters(), strict=True):
            change = torch.randn(a.shape, generator=torch.Generator().manual_seed(k)) / 9
            a.data.add_(change)
            b.data.add_(change)
        averaged.update((k + 1) / UPDATES)
        other.update((k + 1) / UPDATES)
    assert same(averaged.model(), other.model())
    loaded = average.start(last)
    loaded.load_state_dict(through_a_file(averaged.state_dict()))  # saved in the one layout, loaded in the other
    for each in (other, loaded):
        assert same(each.model(), averaged.model())
        assert each.model()[0].weight.is_contiguous(memory_format=torch.channels_last)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.table = nn.Parameter(torch.arange(3), requires_grad=False)  # no number to be averaged
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))


@each_average
def test_a_tied_parameter_counts_once_and_stays_tied(average):
    model = Tied()
    averaged = average.start(model)
    averaged.update(0.5)
    model.embedding.weight.data.add_(1.0)
    averaged.update(1.0)
    found = averaged.model()
    assert found.head.weight is found.embedding.weight
    assert not torch.equal(found.head.weight, model.head.weight)
    saved = averaged.state_dict()
    names = saved["weights"] if isinstance(average, Ema) else saved["snapshots"][0]
    assert set(names) == {"embedding.weight", "scale", "phase"}


@each_average
def test_frozen_parameters_keep_their_bits_until_they_are_thawed(average):
    model = Tied()
    model.scale.data.fill_(0.1)
    averaged = average.start(model)
    for k in range(UPDATES):
        averaged.update((k + 1) / UPDATES)
    assert torch.equal(averaged.model().scale, model.scale)
    assert not averaged.model().scale.requires_grad
    averaged = average.start(model)
    averaged.update(0.5)
    model.scale.requires_grad_(True)
    model.scale.data.fill_(1.0)
    model.phase.data.fill_(1j)
    averaged.update(1.0)
    found = averaged.model()
    assert 0.1 < found.scale.item() < 1.0
    assert 0 < found.phase[0].imag.item() < 1.0


# Resuming


@each_average
@pytest.mark.parametrize("interrupted", [1, 3, 20, 27])
def test_a_resume_gives_the_bits_of_a_run_that_was_not_interrupted(average, interrupted):
    whole = network()
    uninterrupted = average.start(whole)
    train(whole, uninterrupted)

    model = network()
    averaged = average.start(model)
    train(model, averaged, last=interrupted)
    saved = through_a_file({"model": model.state_dict(), "average": averaged.state_dict()})
    resumed = network()
    again = average.start(resumed)
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["average"])
    assert same(again.model(), averaged.model())
    train(resumed, again, first=interrupted)
    assert same(again.model(), uninterrupted.model())
    assert not same(again.model(), resumed)


@each_average
def test_a_state_that_was_saved_is_not_changed_by_more_training(average):
    model = network()
    averaged = average.start(model)
    train(model, averaged, last=30)
    saved = through_a_file(averaged.state_dict())
    before = averaged.model()
    train(model, averaged, first=30)
    averaged.load_state_dict(saved)
    assert all(torch.equal(a, b) for a, b in zip(averaged.model().parameters(), before.parameters(), strict=True))


def test_a_state_of_another_average_is_refused():
    state = Ema().start(network()).state_dict()
    with pytest.raises(BudgetedError, match="the state is of average 'ema', and this run has 'lawa'; give it that one"):
        Lawa().start(network()).load_state_dict(state)
    with pytest.raises(BudgetedError, match=r"this run has 'ema\(0.9\)'"):
        Ema(0.9).start(network()).load_state_dict(state)


@each_average
@pytest.mark.parametrize("other", [nn.Linear(4, 2), nn.Sequential(nn.Linear(3, 2)), nn.Linear(4, 2, bias=False)])
def test_a_state_of_another_model_is_refused(average, other):
    model = nn.Linear(3, 2)
    averaged = average.start(model)
    averaged.update(1.0)
    with pytest.raises(BudgetedError, match="the averaged weights are of another model than this one"):
        average.start(other).load_state_dict(averaged.state_dict())


@needs_cuda
@each_average
def test_averages_lie_on_the_models_device_and_resume_from_a_file_on_the_host(average):
    model = network().cuda()
    averaged = average.start(model)
    train(model, averaged)
    saved = torch.load(io.BytesIO(_bytes(averaged.state_dict())), map_location="cpu", weights_only=True)
    again = average.start(model)
    again.load_state_dict(saved)
    for each in (averaged, again):
        tensors = each.state_dict().get("weights") or each.state_dict()["snapshots"][0]
        assert all(tensor.is_cuda for tensor in tensors.values())
    assert same(again.model(), averaged.model())


def _bytes(state: dict) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


# Text


@pytest.mark.parametrize(
    ("text", "average"),
    [
        ("ema", Ema()), ("ema()", Ema(share=0.02)), (" EMA(0.999) ", Ema(0.999)), ("ema(decay=0.9)", Ema(decay=0.9)),
        ("ema(share=1/10)", Ema(share=0.1)), ("lawa", Lawa(5, 0.05)), ("lawa(3)", Lawa(3)), ("lawa(5, 0.05)", Lawa()),
        ("Lawa(count=8, share=1/100)", Lawa(8, 0.01)),
    ],
)  # fmt: skip
def test_what_a_person_writes(text, average):
    assert read_average(text) == average


averages = st.one_of(
    st.builds(Ema, st.floats(0, 1, exclude_min=True, exclude_max=True)),
    st.builds(Ema, st.none(), st.none() | st.floats(0, 1, exclude_min=True)),
    st.builds(Lawa, st.integers(1, 10**6 - 1), st.floats(0, 1, exclude_min=True)),
)


@given(averages)
def test_text_reads_back(average):
    assert read_average(str(average)) == average


@pytest.mark.parametrize(("average", "text"), [
    (Ema(), "ema"), (Ema(0.999), "ema(0.999)"), (Ema(share=0.1), "ema(share=0.1)"), (Lawa(), "lawa"), (Lawa(3), "lawa(3, 0.05)"),
])  # fmt: skip
def test_text(average, text):
    assert str(average) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("emma", "average 'emma': 'emma' is unknown; did you mean 'ema'\\? the names are ema, lawa"),
        ("swa(5)", "average 'swa\\(5\\)': 'swa' is unknown"),
        ("", "average '' is not understood; write a name such as ema, or one with arguments such as lawa\\(5, 0.05\\)"),
        ("ema 0.9", "average 'ema 0.9' is not understood"),
        ("ema((0.9)", "average 'ema\\(\\(0.9\\)': the parentheses do not match"),
        ("ema(0.9, 0.1)", "average 'ema\\(0.9, 0.1\\)': ema: give a decay or a share of the updates so far, not both"),
        ("ema(1)", "ema: decay is between 0 and 1, and is 1.0"),
        ("ema(0)", "ema: decay is between 0 and 1, and is 0.0"),
        ("ema(nan)", "ema: decay is between 0 and 1, and is nan"),
        ("ema(share=0)", "ema: share is of the updates so far, above 0 and at most 1, and is 0.0"),
        ("ema(share=2)", "ema: share is of the updates so far, above 0 and at most 1, and is 2.0"),
        ("ema(high)", "average 'ema\\(high\\)': these are not the arguments of ema; it has decay, share"),
        ("ema(linear)", "these are not the arguments of ema; it has decay, share"),
        ("lawa(5, 0.1, 2)", "these are not the arguments of lawa; it has count, share"),
        ("lawa(span=2)", "these are not the arguments of lawa; it has count, share"),
        ("lawa(0)", "lawa: count is a whole number of snapshots from 1, and is 0.0"),
        ("lawa(2.5)", "lawa: count is a whole number of snapshots from 1, and is 2.5"),
        ("lawa(inf)", "lawa: count is a whole number of snapshots from 1, and is inf"),
        ("lawa(5, 0)", "lawa: share is of the budget, between two snapshots, above 0 and at most 1, and is 0.0"),
    ],
)  # fmt: skip
def test_bad_input_gives_one_sentence(text, sentence):
    with pytest.raises(BudgetedError, match=sentence) as caught:
        read_average(text)
    assert "\n" not in str(caught.value)
