"""Muon: against its definition, PyTorch's Muon for matrices, and PyTorch's AdamW for the rest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import budgeted
from budgeted.tasks.models import resnet18
from budgeted.train.muon import Muon, matrices, orthogonal

A, B, C = 3.4445, -4.7750, 2.0315
SHAPES = [(4, 9), (9, 4), (9, 40), (16, 16), (64, 16), (32, 288), (1, 5)]


def as_defined(m: Tensor, steps: int) -> Tensor:
    """Jordan et al.'s iteration word for word, in float64 on the whole matrix."""
    x = m.double()
    x = x.T if len(m) > m.shape[1] else x
    x = x / x.norm()
    for _ in range(steps):
        square = x @ x.T
        x = A * x + (B * square + C * square @ square) @ x
    return x.T if len(m) > m.shape[1] else x


def drawn(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


class Net(nn.Module):
    """Has each kind of parameter: an embedding with a head tied to it, a matrix, filters, a bias, a norm, a row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.line = nn.Linear(6, 5)
        self.filters = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.LayerNorm(5)
        self.row = nn.Linear(5, 1, bias=False)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight


def with_gradients(model: nn.Module, seed: int) -> nn.Module:
    for p, gradient in zip(model.parameters(), drawn(*(p.shape for p in model.parameters()), seed=seed), strict=True):
        p.grad = gradient.contiguous(memory_format=torch.channels_last) if channels_last(p) else gradient
    return model


def channels_last(p: Tensor) -> bool:
    return p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_the_iteration_on_squares_is_that_on_whole_matrices(steps):
    given = drawn(*SHAPES)
    for m, found in zip(given, orthogonal(given, steps), strict=True):
        assert found.shape == m.shape
        torch.testing.assert_close(found.double(), as_defined(m, steps), rtol=0, atol=1e-4)


def test_directions_that_hardly_occur_are_no_noise():
    """Singular values over six orders of magnitude: what float32 cannot tell from nothing must not grow."""
    (m,) = drawn((32, 200))
    m *= torch.logspace(0, -6, 200)
    torch.testing.assert_close(orthogonal([m])[0].double(), as_defined(m, 5), rtol=0, atol=1e-3)


def test_what_has_few_directions_stays_bounded():
    """However many steps, and in bfloat16: rounding makes singular values of the squares negative."""
    left, right = drawn((64, 3), (3, 300))
    for steps in (5, 50):
        assert torch.linalg.matrix_norm(orthogonal([left @ right], steps)[0], 2) < 1.25
        with torch.autocast("cpu", torch.bfloat16):
            rough = orthogonal([left @ right, *drawn((48, 48), (10, 900))], steps)
        assert max(torch.linalg.matrix_norm(m.float(), 2) for m in rough) < 1.5


def test_singular_values_come_near_one():
    for m in orthogonal(drawn((64, 300), (300, 64), (16, 500))):
        values = torch.linalg.svdvals(m)
        assert values.min() > 0.6
        assert values.max() < 1.25


def test_no_gradient_is_no_direction():
    assert not orthogonal([torch.zeros(3, 4)])[0].any()


def test_half_precision_is_computed_in_float32():
    (m,) = drawn((8, 30))
    found = orthogonal([m.bfloat16()])[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), as_defined(m.bfloat16(), 5), rtol=0, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch has its own Muon from 2.9 on")
def test_matrices_move_as_by_pytorchs_muon():
    """Within what its bfloat16 leaves."""
    ours, theirs = nn.Linear(40, 12, bias=False), nn.Linear(40, 12, bias=False)
    theirs.load_state_dict(ours.state_dict())
    begin = ours.weight.detach().clone()
    mine = Muon(ours, lr=0.03, momentum=0.95, weight_decay=0.2)
    other = torch.optim.Muon(
        theirs.parameters(), lr=0.03, momentum=0.95, weight_decay=0.2, adjust_lr_fn="match_rms_adamw"
    )
    for seed in range(5):
        with_gradients(ours, seed), with_gradients(theirs, seed)
        mine.step(), other.step()
    moved, difference = (ours.weight - begin).norm(), (ours.weight - theirs.weight).norm()
    assert difference < 0.02 * moved


def test_the_rest_moves_as_by_adamw():
    ours = Net()
    theirs = copy.deepcopy(ours)
    rest = matrices(theirs)[1]
    mine = Muon(ours, lr=0.03, betas=(0.8, 0.9), eps=1e-6)
    other = torch.optim.AdamW(rest, lr=0.03, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.0, fused=True)
    for seed in range(3):
        with_gradients(ours, seed), with_gradients(theirs, seed)
        mine.step(), other.step()
    assert len(rest) == 5
    assert all(torch.equal(a, b) for a, b in zip(matrices(ours)[1], rest, strict=True))


def test_which_parameters_are_matrices():
    net = Net()
    turned, rest = matrices(net)
    assert [id(p) for p in turned] == [id(net.line.weight), id(net.filters.weight)]
    named = (net.embed.weight, net.line.bias, net.norm.weight, net.norm.bias, net.row.weight)
    assert [id(p) for p in rest] == [id(p) for p in named]


def test_filters_move_alike_in_either_memory_format():
    net, other = nn.Conv2d(6, 10, 3), nn.Conv2d(6, 10, 3)
    other.load_state_dict(net.state_dict())
    other.to(memory_format=torch.channels_last)
    assert channels_last(other.weight)
    for model in (net, other):
        optimizer = Muon(model)
        for seed in range(3):
            with_gradients(model, seed)
            optimizer.step()
    assert channels_last(other.weight)
    torch.testing.assert_close(net.weight, other.weight)


def test_an_entry_moves_as_far_as_by_adamw():
    """The root of the mean square of a full matrix's step is 0.2 of the rate, as AdamW's typically is."""
    net = nn.Linear(300, 200, bias=False)
    before = net.weight.detach().clone()
    optimizer = Muon(with_gradients(net, 0), lr=0.01, weight_decay=0.0)
    optimizer.step()
    step = (net.weight - before).square().mean().sqrt()
    assert 0.7 * 0.002 < step < 1.2 * 0.002


def test_it_goes_on_from_its_state_to_the_bit():
    straight, resumed = Net(), Net()
    first = Muon(straight)
    for seed in range(2):
        with_gradients(straight, seed)
        first.step()
    resumed.load_state_dict(straight.state_dict())
    second = Muon(resumed, lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimizer in ((straight, first), (resumed, second)):
        with_gradients(model, 9)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_parameters_without_gradients_are_left_alone():
    net = with_gradients(Net(), 0)
    net.line.weight.grad = net.norm.bias.grad = None
    before = copy.deepcopy(net.state_dict())
    Muon(net).step()
    still = {name for name, value in net.state_dict().items() if torch.equal(value, before[name])}
    assert still == {"line.weight", "norm.bias"}


def test_a_closure_gives_its_loss():
    net, (inputs,) = nn.Linear(3, 2), drawn((5, 3))

    def closure():
        loss = net(inputs).square().mean()
        loss.backward()
        return loss

    assert Muon(net).step(closure) > 0


def test_a_budget_drives_both_groups():
    net = Net()
    optimizer = Muon(net, lr=0.04)
    run = budgeted.attach(optimizer, "4 steps")
    rates = []
    while not run.done:
        with_gradients(net, 0)
        optimizer.step()
        rates.append([group["lr"] for group in optimizer.param_groups])
    assert rates == [[0.04, 0.04], [0.03, 0.03], [0.02, 0.02], [0.0, 0.0]]  # the end is set after the last update


def test_a_network_learns():
    """Ten random images and labels, told apart after thirty updates."""
    torch.manual_seed(0)
    net, (images,) = resnet18(10, 8).to(memory_format=torch.channels_last), drawn((10, 3, 32, 32))
    optimizer, labels = Muon(net), torch.arange(10)
    run = budgeted.attach(optimizer, "30 steps")
    while not run.done:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"lr": -1.0}, "lr is at least 0, and is -1"),
        ({"weight_decay": float("nan")}, "weight_decay is at least 0, and is nan"),
        ({"momentum": 1.0}, "momentum is from 0 to below 1, and is 1"),
        ({"betas": (0.9, 1.5)}, "beta2 is from 0 to below 1, and is 1.5"),
        ({"betas": 0.9}, r"betas are a pair such as \(0\.9, 0\.99\), and are 0\.9"),
        ({"steps": 0}, "steps are a whole number, at least 1, and are 0"),
        ({"steps": 2.5}, r"steps are a whole number, at least 1, and are 2\.5"),
    ],
)
def test_impossible_values_are_said(given, why):
    with pytest.raises(ValueError, match=why):
        Muon(nn.Linear(2, 2), **given)
