"""When to evaluate, and batch norm's statistics at the end."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import asdict

import pytest
import torch
from torch import nn

import budgeted
from budgeted.train.data import Batch, Images
from budgeted.train.evaluation import Evaluations, Part, has_batch_norm, with_fresh_statistics


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def drive(budget: str, *, wanted=None, update=0.01, evaluation=0.0, steps_per_epoch=10):
    """Updates and evaluations by a fake clock; the steps at which there were evaluations."""
    clock = Clock()
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    run = budgeted.attach(optimizer, budget, steps_per_epoch=steps_per_epoch, clock=clock, wall=clock)
    evaluations, at = Evaluations.of(run, steps_per_epoch, wanted), []
    while not run.done:
        clock.now += update
        optimizer.step()
        if evaluations.due(run):
            with run.measure("evaluation", evaluations.to_come(run)):
                clock.now += evaluation
            evaluations.took(run)
            at.append(run.ledger.steps)
    return evaluations, at, clock.now - 1000.0


def test_one_an_epoch_where_the_budget_counts_and_the_last_is_left_to_the_end():
    evaluations, at, _ = drive("5ep", evaluation=100.0)
    assert at == [10, 20, 30, 40]
    assert evaluations.skipped == 0


def test_epochs_that_are_not_whole_are_rounded():
    assert len(drive("2.5ep")[1]) == 1
    assert drive("0.3ep")[1] == []


def test_as_many_as_wanted():
    assert drive("100 steps", wanted=4)[1] == [25, 50, 75]
    assert drive("100 steps", wanted=1)[1] == []


def test_ten_over_a_budget_in_time():
    evaluations, at, _ = drive("10s")
    assert len(at) == 9
    assert evaluations.skipped == 0


def test_slow_ones_are_thinned_where_time_is_the_budget_and_counted():
    evaluations, at, seconds = drive("100s", update=0.1, evaluation=4.0)
    assert evaluations.skipped > 0
    assert len(at) + evaluations.skipped == 9
    # No more than a twentieth of the time, beside the first, whose cost nobody knew.
    assert 1 <= len(at) <= 2
    assert seconds <= 100.0


def test_the_reserve_expects_no_more_than_there_is_time_for():
    clock = Clock()
    parameter = nn.Parameter(torch.ones(1))
    run = budgeted.attach(torch.optim.SGD([parameter], lr=0.1), "100s", clock=clock, wall=clock)
    evaluations = Evaluations.of(run, 10, None)
    assert evaluations.to_come(run) == 1  # until its cost is known
    with run.measure("evaluation", 1):
        clock.now += 2.0
    assert evaluations.to_come(run) == 3


@pytest.mark.parametrize("evaluation", [0.5, 5.0, 12.0, 30.0])
def test_evaluations_of_any_cost_leave_the_time_to_training(evaluation):
    """Ten of them would take all of it or more."""
    _, at, seconds = drive("100s", update=0.1, evaluation=evaluation)
    assert seconds > 99.0 - 1.75 * evaluation  # the last one is still to come, and may be dearer than the only one seen
    assert seconds - len(at) * evaluation > 100.0 - max(10.0, 3 * evaluation)


@pytest.mark.parametrize("budget", ["5ep", "10s"])
def test_one_that_was_broken_off_is_still_due(budget):
    """After a signal, say: in the process that goes on, before another update."""
    clock = Clock()
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    run = budgeted.attach(optimizer, budget, steps_per_epoch=10, clock=clock, wall=clock)
    evaluations = Evaluations.of(run, 10, 5)
    while not evaluations.due(run):
        clock.now += 0.1
        optimizer.step()
    assert evaluations.due(run)
    again = Evaluations(**asdict(evaluations))
    assert again.due(run)
    again.took(run)
    assert not again.due(run)
    assert (again.passed, again.skipped) == (1, 0)


def test_one_that_was_skipped_is_skipped_once():
    clock = Clock()
    parameter = nn.Parameter(torch.ones(1))
    run = budgeted.attach(torch.optim.SGD([parameter], lr=0.1), "100s", clock=clock, wall=clock)
    evaluations = Evaluations.of(run, 10, None)
    with run.measure("evaluation", 8):
        clock.now += 9.0
    run.ledger.progress = 0.25
    for _ in range(3):
        assert not evaluations.due(run)
    assert (evaluations.passed, evaluations.skipped) == (2, 1)


def test_points_that_were_crossed_together_are_one():
    run = budgeted.attach(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1), "100 steps")
    evaluations = Evaluations.of(run, 10, None)
    run.ledger.progress = 0.35
    assert evaluations.due(run)
    evaluations.took(run)
    assert not evaluations.due(run)
    assert evaluations.passed == 3


def test_has_batch_norm():
    assert has_batch_norm(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.BatchNorm1d(1))))
    assert not has_batch_norm(nn.Sequential(nn.Linear(1, 1), nn.LayerNorm(1)))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_fresh_statistics_are_the_mean_over_the_batches_and_the_model_is_untouched(momentum):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=momentum), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    model.train()
    for _ in range(3):
        model(torch.randn(4, 3, 5, 5) + 9)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    batches = [Batch(torch.randn(8, 3, 5, 5) * (k + 1) + k, torch.zeros(8)) for k in range(5)]

    fresh = with_fresh_statistics(model, batches, nullcontext())

    means = torch.stack([b.inputs.mean((0, 2, 3)) for b in batches]).mean(0)
    variances = torch.stack([b.inputs.var((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(fresh[0].running_mean, means)
    torch.testing.assert_close(fresh[0].running_var, variances)
    inner = [
        model[1](nn.functional.batch_norm(b.inputs, None, None, model[0].weight, model[0].bias, True)) for b in batches
    ]
    torch.testing.assert_close(fresh[2].running_mean, torch.stack([x.mean((0, 2, 3)) for x in inner]).mean(0))
    assert fresh[0].momentum == momentum
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


def test_dropout_stays_out_of_the_statistics_and_draws_no_random_numbers():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3))
    batch = Batch(torch.randn(500, 3) + 1, torch.zeros(500))
    before = torch.get_rng_state()
    fresh = with_fresh_statistics(model, [batch], nullcontext())
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(fresh[1].running_mean, batch.inputs.mean(0))
    assert model.training


@pytest.mark.parametrize(
    ("seconds", "left", "share"),
    [
        (1.0, 60.0, 1.0),  # three whole ones fit in a twentieth of the time
        (1.0, 59.0, 0.02),  # ten parts of it take a fifth of one
        (1.0, 4.0, 0.02),
        (1.0, 3.0, 0.015),  # and a twentieth of the time at most
        (50.0, 100.0, 0.01),
        (0.0, 0.0, 0.0),
    ],
)
def test_parts_take_together_what_evaluations_on_the_way_may(seconds, left, share):
    assert Evaluations(10).part(seconds, left) == pytest.approx(share)


def test_parts_and_whole_ones_take_a_twentieth_of_the_time_together():
    def due(parts: float) -> bool:
        clock, parameter = Clock(), nn.Parameter(torch.ones(1))
        parameter.grad = torch.ones(1)
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        run = budgeted.attach(optimizer, "100s", clock=clock, wall=clock)
        run.ledger.expect("evaluation", 2.0)
        with run.measure("evaluation of a part", 0):
            clock.now += parts
        while run.ledger.seconds < 60.0:
            clock.now += 0.1
            optimizer.step()
        return Evaluations.of(run, 10, None).due(run)

    assert due(0.9)  # and 2 are less than 3 of 60
    assert not due(1.1)


def test_a_part_tells_of_the_whole_and_there_may_be_none():
    images = Images(torch.zeros(100, 2, 2, 1, dtype=torch.uint8), torch.arange(100), (0.5,), (0.5,), 10)
    part = Part.of(images, 0.05, seed=3, guess=4.0)
    assert part.samples.samples == 5
    assert torch.equal(part.samples.labels, Part.of(images, 0.05, seed=3, guess=1.0).samples.labels)
    assert part.whole(0.1) == pytest.approx(2.0)
    assert part.whole(1.0) == 8.0  # no more than twice what was guessed
    assert Part.of(images, 0.009, 3, 4.0) is None  # less than a sample
    assert Part.of(images, 1.0, 3, 4.0) is None
    assert Part.of([1, 2, 3], 0.5, 3, 4.0) is None  # a user's own, of which none can be drawn
