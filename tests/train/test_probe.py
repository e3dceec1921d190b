"""Probes: exact, unbiased on a sample, and without a trace."""

from __future__ import annotations

import copy
import datetime as dt
import math
import random
import re
import time

import numpy as np
import pytest
import torch
from torch import nn

import budgeted
from budgeted import BudgetedError
from budgeted.core.errors import BudgetError
from budgeted.train.data import Batch, Crop, Images
from budgeted.train.probe import _Total, equivalent_rate, full_gradient, watching
from fake_clock import Clock


def data(samples=40, inputs=5, dtype=torch.float64, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, inputs, generator=drawn, dtype=dtype)
    return Batch(x, torch.randint(0, 3, (samples,), generator=drawn))


def in_batches(whole: Batch, size: int):
    return [Batch(x, y) for x, y in zip(whole.inputs.split(size), whole.targets.split(size), strict=True)]


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch.inputs), batch.targets)


def plain(dtype=torch.float64):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def normed():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.5), nn.ReLU(), nn.Linear(7, 3)).double()


def by_autograd(model, batches, total):
    """The gradient of the mean loss, by one backward pass over the sum of all batches' losses."""
    mean = sum(loss(model, batch) * len(batch.targets) for batch in batches) / total
    return torch.cat([g.flatten() for g in torch.autograd.grad(mean, list(model.parameters()))]).norm().item()


@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_full_gradient_is_autograds_in_chunks_of_any_size(size):
    model, whole = plain(), data()
    found = full_gradient(model, loss, in_batches(whole, size))
    assert found.norm == pytest.approx(by_autograd(model, [whole], 40), rel=1e-12)
    assert (found.samples, found.error, found.of) == (40, None, None)


def test_batch_norm_uses_each_batchs_statistics_and_dropout_is_off():
    model, batches = normed(), in_batches(data(), 10)
    other = copy.deepcopy(model).train()
    other[2].eval()
    assert full_gradient(model, loss, batches).norm == pytest.approx(by_autograd(other, batches, 40), rel=1e-12)


def test_frozen_parameters_and_unused_ones_are_no_part_of_it():
    model = plain()
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model[0].weight.requires_grad_(False)
    grads = torch.autograd.grad(loss(model, data()), [model[0].bias, *model[2].parameters()])
    expected = torch.cat([g.flatten() for g in grads]).norm().item()
    assert full_gradient(model, lambda m, b: loss(m[:3], b), [data()]).norm == pytest.approx(expected, rel=1e-12)


def test_a_sparse_gradient_counts_like_a_dense_one():
    tokens, targets = torch.tensor([[0, 1], [2, 2], [1, 3]]), torch.tensor([0, 1, 2])
    norms = []
    for sparse in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.EmbeddingBag(4, 3, sparse=sparse, mode="sum")).double()
        norms.append(full_gradient(model, loss, [Batch(tokens, targets)] * 2).norm)
    assert norms[0] == pytest.approx(norms[1], rel=1e-12)


class Assigns(nn.Module):
    """Replaces a buffer instead of writing into it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.seen = self.seen + len(x)
        return x


def test_nothing_is_changed_to_the_bit():
    model = nn.Sequential(*normed(), Assigns())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in in_batches(data(), 10):
        loss(model, batch).backward()
        optimizer.step()
    loss(model, data()).backward()  # a gradient under way
    model[1].eval()  # frozen by its user
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))
    modes, buffers = [m.training for m in model.modules()], [id(b) for b in model.buffers()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    hooks = []
    for p in model.parameters():  # of optimizers in the backward pass, and of DDP
        p.register_post_accumulate_grad_hook(lambda p: hooks.append(p))

    def noisy(model, batch):
        random.random(), np.random.rand(), torch.rand(1)
        return loss(model, batch)

    full_gradient(model, noisy, in_batches(data(), 10))
    after = model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]
    torch.testing.assert_close(after, saved, rtol=0, atol=0)
    assert modes == [m.training for m in model.modules()]
    assert buffers == [id(b) for b in model.buffers()]
    assert float(model[-1].seen) == 80
    assert not hooks
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()


def test_all_is_put_back_after_an_error_too():
    model = normed().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="mat1"):
        full_gradient(model, loss, [data(), Batch(torch.ones(2, 4).double(), torch.zeros(2).long())])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert not model.training


def test_under_no_grad_and_inference_of_others_it_works_all_the_same():
    with torch.no_grad():
        assert full_gradient(plain(), loss, [data()]).norm > 0


def test_a_samples_norm_is_unbiased_and_its_error_honest():
    """Over many draws: the squares scatter around the true one, and about 95 % of the intervals cover it."""
    model, whole = plain(), data(2000, seed=3)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.3)
    truth = full_gradient(model, loss, [whole]).norm
    squares, covered, naive = [], 0, []
    for draw in range(200):
        order = torch.randperm(2000, generator=torch.Generator().manual_seed(draw))[:400]
        part = Batch(whole.inputs[order], whole.targets[order])
        found = full_gradient(model, loss, in_batches(part, 10), of=2000)
        squares.append(found.norm**2)
        naive.append(full_gradient(model, loss, in_batches(part, 10)).norm ** 2)
        covered += abs(found.norm - truth) <= 2 * found.error
    error = np.std(squares) / math.sqrt(200)
    assert abs(np.mean(squares) - truth**2) < 3 * error
    assert np.mean(naive) - truth**2 > 3 * error  # which is why the norm of the mean is not taken
    assert covered >= 0.9 * 200


def test_half_of_a_small_set_is_unbiased_too():
    """Batches of a finite set pull against each other; where the gradient is small beside its noise that would be most of it."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(32, 4, generator=drawn, dtype=torch.float64)
    x = x - x.mean(0) + 0.05
    w = nn.Linear(4, 1, bias=False).double()
    truth = full_gradient(w, lambda m, b: m(b).mean(), [x]).norm ** 2
    squares = []
    for _ in range(600):
        total = _Total(list(w.parameters()), paired=True)
        for part in x[torch.randperm(32, generator=drawn)[:16]].split(2):
            total.add([part.mean(0, keepdim=True)], 2)
        products, sizes = zip(*total._products, strict=True)
        weights = [n * m for n, m in zip(sizes, range(2, 16, 2), strict=True)]
        pairs = sum(float(p) * w for p, w in zip(products, weights, strict=True)) / sum(weights)
        squares.append(0.5 * pairs + 0.5 * total.norm() ** 2)
        norm, _ = total.estimate(32)
        assert norm == pytest.approx(math.sqrt(max(squares[-1], 0.0)))
    assert abs(np.mean(squares) - truth) < 3 * np.std(squares) / math.sqrt(600)


def test_dropout_inside_attention_and_recurrence_is_off_and_put_back():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
            self.memory = nn.GRU(4, 4, num_layers=2, dropout=0.5, batch_first=True)

        def forward(self, x):
            return self.memory(self.attention(x, x, x, need_weights=False)[0])[0].square().mean()

    torch.manual_seed(0)
    model, x = Both(), torch.randn(3, 5, 4)
    norms = {full_gradient(model, lambda m, b: m(b), [x]).norm for _ in range(3)}
    assert len(norms) == 1
    assert (model.attention.dropout, model.memory.dropout) == (0.5, 0.5)


def test_a_sample_of_all_is_exact():
    found = full_gradient(plain(), loss, in_batches(data(), 10), of=40)
    assert found.error is None


@pytest.mark.parametrize(
    ("batches", "of", "sentence"),
    [
        ([], None, "was given no batch; a loader that is an iterator may be used up"),
        (in_batches(data(), 10), 100, "at least 8 batches, and it has 4; take a larger sample or smaller batches"),
    ],
)
def test_too_little_data(batches, of, sentence):
    with pytest.raises(BudgetedError, match=re.escape(sentence)):
        full_gradient(plain(), loss, batches, of=of)


def test_a_loss_of_each_sample_is_refused():
    with pytest.raises(BudgetedError, match=r"a scalar, the mean over the batch, and has shape \(40,\)"):
        full_gradient(plain(), lambda m, b: m(b.inputs).sum(1), [data()])


def test_images_are_read_without_augmentation():
    images = torch.randint(0, 255, (30, 8, 8, 1), dtype=torch.uint8)
    plain_images = Images(images, torch.arange(30), (0.5,), (0.5,), 8)
    padded = Images(images, torch.arange(30), (0.5,), (0.5,), 8, Crop(2, flip=True))
    for ours, theirs in zip(padded.unaugmented(None, 0), plain_images.in_order(8), strict=True):
        assert torch.equal(ours.inputs, theirs.inputs)
    part = [batch.targets for batch in padded.unaugmented(0.5, seed=4)]
    assert torch.cat(part).unique().numel() == 15
    assert torch.equal(torch.cat(part), torch.cat([b.targets for b in padded.unaugmented(0.5, seed=4)]))


# In anybody's loop


def own_loop(probing):
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run = budgeted.attach(optimizer, "20 steps", "linear")
    batches, factors = in_batches(data(), 10), []
    while not run.done:
        for batch in batches:
            if probing and run.ledger.steps % 5 == 0:
                run.probe(model, loss, batches)
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
            factors.append(run.factor)
            if run.done:
                break
    return run, model, factors


def test_a_run_with_probes_is_the_run_without():
    run, model, factors = own_loop(True)
    _, other, same = own_loop(False)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert factors == same
    assert [(p.steps, p.progress, p.factor) for p in run.probes] == [(k, k / 20, 1 - k / 20) for k in (0, 5, 10, 15)]
    assert run.probes[0].gradient.samples == 40


def test_the_summary_tells_what_the_norm_came_to():
    run, model, _ = own_loop(True)
    last = run.probe(model, loss, in_batches(data(), 10))
    assert (last.progress, last.factor) == (1.0, 0.0)
    share = last.gradient.norm / run.probes[0].gradient.norm
    assert run.summary().gradient_fell_to == share
    assert f"and the full gradient's norm came to {share:.2g} of its first" in str(run.summary())


def test_a_free_probe_within_a_measured_activity_is_charged_as_part_of_it():
    clock = Clock()
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run = budgeted.attach(optimizer, "100s", "linear", clock=clock, wall=clock)

    def slow(model, batch):
        clock.sleep(10.0)
        return loss(model, batch)

    with run.measure("evaluation"):
        run.probe(model, slow, [data()], charged=False)
        clock.sleep(1.0)
    assert run.summary().activities == {"evaluation": 11.0}
    assert run.ledger.seconds == 11.0
    for _ in range(3):
        clock.sleep(1.0)
        loss(model, data()).backward()
        optimizer.step()
    assert 0 < run.progress < 0.2


@pytest.mark.parametrize(("charged", "updates"), [(True, 10), (False, 20)])
def test_the_budget_pays_for_probes_or_not(charged, updates):
    """Each probe takes 4 s of 20 s; every update 1 s."""
    clock = Clock()
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    run = budgeted.attach(optimizer, "20s", "linear", clock=clock, wall=clock)

    def slow(model, batch):
        clock.sleep(1.0)
        return loss(model, batch)

    factors = []
    while not run.done:
        if run.ledger.steps in (4, 8) and len(run.probes) < run.ledger.steps // 4:
            run.probe(model, slow, in_batches(data(), 10), charged=charged, more=0)
            if run.done:
                break
        clock.sleep(1.0)
        loss(model, data()).backward()
        optimizer.step()
        factors.append(run.factor)
    assert abs(len(factors) - updates) <= 2
    assert factors[-1] < 0.3  # a probe that nothing told of took a third of what was left
    assert run.ledger.seconds == pytest.approx(20.0, abs=1.5)
    assert clock.now - 1000 == pytest.approx(20 if charged else 28, abs=1.5)
    assert ("probe" in run.summary().activities) == charged


def test_a_deadline_comes_nearer_whoever_pays():
    clock = Clock(time.time())
    end = clock.now + 20
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    moment = dt.datetime.fromtimestamp(end, dt.UTC).isoformat()
    run = budgeted.attach(optimizer, f"until {moment}", "linear", clock=clock, wall=clock)

    def slow(model, batch):
        clock.sleep(2.0)
        return loss(model, batch)

    run.probe(model, slow, in_batches(data(), 10), charged=False)
    steps = 0
    while not run.done:
        clock.sleep(1.0)
        loss(model, data()).backward()
        optimizer.step()
        steps += 1
    assert steps in (11, 12)
    assert clock.now <= end


# Equivalent rates


def one_weight(kind, **options):
    w = nn.Parameter(torch.tensor([0.7], dtype=torch.float64))
    return w, kind([w], lr=0.003, **options)


OPTIMIZERS = [
    (torch.optim.Adam, {}),
    (torch.optim.Adam, {"weight_decay": 0.1}),
    (torch.optim.Adam, {"amsgrad": True, "betas": (0.8, 0.7)}),
    (torch.optim.AdamW, {"weight_decay": 0.3}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.Adam, {"maximize": True}),
    (torch.optim.RMSprop, {}),
    (torch.optim.RMSprop, {"centered": True, "weight_decay": 0.2}),
]


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_the_rate_from_the_state_is_the_rate_that_moved_the_weight(kind, options):
    """Against finite differences of the weight itself, in float64."""
    w, optimizer = one_weight(kind, **options)
    drawn = torch.Generator().manual_seed(0)
    for _ in range(30):
        w.grad = torch.randn(1, generator=drawn, dtype=torch.float64) + 0.5
        before = w.detach().clone()
        with watching(optimizer, base=0.1) as moved:
            optimizer.step()
        if kind is torch.optim.RMSprop:
            direction = w.grad + optimizer.param_groups[0]["weight_decay"] * before
        else:
            direction = optimizer.state[w]["exp_avg"]
        start = (
            before * (1 - 0.003 * options["weight_decay"])
            if kind is torch.optim.AdamW and options.get("weight_decay")
            else before
        )
        if kind is torch.optim.AdamW and not options.get("weight_decay"):
            start = before * (1 - 0.003 * 0.01)
        by_hand = abs(((start - w.detach()) / direction).item()) / 0.1
        assert moved.rate.median == pytest.approx(by_hand, rel=1e-6)
        assert equivalent_rate(optimizer, base=0.1).median == pytest.approx(by_hand, rel=1e-6)


def test_rmsprops_momentum_adds_to_its_steps():
    """With a steady gradient the buffer is 1 / (1 - momentum) of it, and so is the step."""
    w, optimizer = one_weight(torch.optim.RMSprop, momentum=0.9)
    for _ in range(2000):
        w.grad = torch.tensor([2.0], dtype=torch.float64)
        before = w.detach().clone()
        optimizer.step()
    assert equivalent_rate(optimizer, base=0.1).median == pytest.approx(
        ((before - w.detach()) / 2.0 / 0.1).item(), rel=1e-6
    )
    with pytest.raises(BudgetedError, match="RMSprop's momentum mixes steps"), watching(optimizer):
        pass


def test_amsgrad_is_pytorchs_and_not_the_papers():
    """A large gradient first: the paper's equation 11 keeps the greatest corrected v, PyTorch corrects the greatest v."""
    w, optimizer = one_weight(torch.optim.Adam, amsgrad=True, betas=(0.9, 0.99))
    gradients = [10.0] + [0.1] * 20
    greatest = v = 0.0
    for t, g in enumerate(gradients, 1):
        w.grad = torch.tensor([g], dtype=torch.float64)
        with watching(optimizer) as moved:
            optimizer.step()
        v = 0.99 * v + 0.01 * g * g
        greatest = max(greatest, v / (1 - 0.99**t))
    of_the_paper = 0.003 / 0.1 / ((1 - 0.9**21) * (math.sqrt(greatest) + 1e-8))
    found = equivalent_rate(optimizer).median
    assert found == pytest.approx(moved.rate.median, rel=1e-6)
    assert found / of_the_paper > 2


def test_momentum_sgd_at_that_rate_moves_as_far():
    """Equations 6 and 12: the paper's momentum SGD with rate beta_t on the same gradients makes the same step."""
    w, adam = one_weight(torch.optim.Adam)
    m = torch.zeros(1, dtype=torch.float64)
    drawn = torch.Generator().manual_seed(1)
    for _ in range(12):
        w.grad = torch.randn(1, generator=drawn, dtype=torch.float64)
        m = 0.9 * m + 0.1 * w.grad
        before = w.detach().clone()
        adam.step()
    step = 0.1 * equivalent_rate(adam, base=0.1).median * m
    assert (before - w.detach()).item() == pytest.approx(step.item(), rel=1e-6)


def test_quantiles_are_over_all_weights_of_all_groups():
    ws = [nn.Parameter(torch.ones(10)), nn.Parameter(torch.ones(1))]
    optimizer = torch.optim.Adam([{"params": [ws[0]], "lr": 0.1}, {"params": [ws[1]], "lr": 1.0}])
    for w in ws:
        w.grad = torch.full_like(w, 2.0)
    optimizer.step()
    found = equivalent_rate(optimizer, base=0.1)
    one = 0.1 / 0.1 / (0.1 * 2.0)
    assert (found.low, found.median, found.high) == (pytest.approx(one), pytest.approx(one), pytest.approx(one))
    assert found.weights == 11
    with watching(optimizer) as moved:
        optimizer.step()
    assert moved.rate.weights == 11


def test_a_schedules_rate_is_in_it():
    w, optimizer = one_weight(torch.optim.Adam)
    run = budgeted.attach(optimizer, "10 steps", "linear")
    for _ in range(6):
        w.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    assert run.factor == 0.5
    assert equivalent_rate(optimizer, base=0.1).median == pytest.approx(0.5 * 0.003 / 0.1 / (1 - 0.9**6), rel=1e-6)


def test_where_no_weight_moved_there_is_no_rate():
    w, optimizer = one_weight(torch.optim.RMSprop)
    w.grad = torch.zeros(1, dtype=torch.float64)
    with watching(optimizer) as moved:
        optimizer.step()
    with pytest.raises(BudgetedError, match="or none that moved a weight along its gradient"):
        moved.rate  # noqa: B018


def test_what_has_no_equivalent_rate():
    _, sgd = one_weight(torch.optim.SGD)
    with pytest.raises(BudgetedError, match="Adam, AdamW and RMSprop, and this is SGD"):
        equivalent_rate(sgd)
    _, adam = one_weight(torch.optim.Adam)
    with pytest.raises(BudgetedError, match="has made no update yet"):
        equivalent_rate(adam)
    with pytest.raises(BudgetedError, match="positive and finite, and is -1"):
        equivalent_rate(adam, base=-1)
    with watching(adam) as moved:
        pass
    with pytest.raises(BudgetedError, match="no update was watched"):
        moved.rate  # noqa: B018


def test_several_ranks_pay_for_their_probes():
    from budgeted.train.shared import SharedLedger

    with pytest.raises(BudgetError, match="leave charged=False out"):
        SharedLedger.uncharged(object())  # type: ignore[arg-type]
