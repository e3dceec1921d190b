"""The schedule-free optimizers of their own library under a budget."""

from __future__ import annotations

import io

import pytest
import schedulefree
import torch
from torch import nn

import budgeted
from budgeted.train.schedule_free import enter_training, evaluation_mode, is_schedule_free

UPDATES = 40
OPTIMIZERS = {
    "sgd": lambda p: schedulefree.SGDScheduleFree(p, lr=0.1, weight_decay=1e-3),
    "sgd, one by one": lambda p: schedulefree.SGDScheduleFree(p, lr=0.1, foreach=False),
    "sgd, reference": lambda p: schedulefree.SGDScheduleFreeReference(p, lr=0.1),
    "adamw": lambda p: schedulefree.AdamWScheduleFree(p, lr=0.03, weight_decay=0.1),
    "adamw, reference": lambda p: schedulefree.AdamWScheduleFreeReference(p, lr=0.03),
    "radam": lambda p: schedulefree.RAdamScheduleFree(p, lr=0.03, betas=(0.9, 0.99)),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def start(make) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
    optimizer = make(model.parameters())
    enter_training(optimizer)
    return model, optimizer


def update(model, optimizer, k: int) -> None:
    inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(k))
    optimizer.zero_grad()
    (model(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
    optimizer.step()


def bits(model) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@each_optimizer
def test_the_library_is_known_by_what_it_keeps(make):
    assert is_schedule_free(start(make)[1])


def test_others_are_not_taken_for_it():
    model = nn.Linear(2, 1)
    for optimizer in (
        torch.optim.SGD(model.parameters(), lr=0.1),
        torch.optim.AdamW(model.parameters()),
        schedulefree.SGDScheduleFreeClosure(model.parameters(), lr=0.1),  # holds x between updates
    ):
        assert not is_schedule_free(optimizer)
        before = bits(model)
        enter_training(optimizer)
        with evaluation_mode(optimizer):
            assert equal(bits(model), before)
        assert equal(bits(model), before)


@each_optimizer
def test_inside_stand_the_weights_to_be_evaluated_and_afterwards_the_same_bits_as_before(make):
    model, optimizer = start(make)
    for k in range(UPDATES):
        update(model, optimizer, k)
    before = bits(model)
    with evaluation_mode(optimizer):
        inside = bits(model)
    assert equal(bits(model), before)
    assert not equal(inside, before)
    optimizer.eval()
    assert equal(inside, bits(model))


@each_optimizer
def test_evaluations_leave_no_trace_in_training(make):
    alone, looked_at = start(make), start(make)
    for k in range(UPDATES):
        update(*alone, k)
        update(*looked_at, k)
        with evaluation_mode(looked_at[1]):
            pass
    assert equal(bits(alone[0]), bits(looked_at[0]))


def test_the_librarys_own_way_there_and_back_leaves_one():
    """It is arithmetic and rounds: the reason why the weights are kept aside."""
    straight, there_and_back = start(OPTIMIZERS["sgd"]), start(OPTIMIZERS["sgd"])
    for k in range(UPDATES):
        update(*straight, k)
        update(*there_and_back, k)
        there_and_back[1].eval()
        there_and_back[1].train()
    assert not equal(bits(straight[0]), bits(there_and_back[0]))


def test_training_goes_on_after_an_evaluation_that_failed():
    model, optimizer = start(OPTIMIZERS["adamw"])
    update(model, optimizer, 0)
    before = bits(model)
    with pytest.raises(ZeroDivisionError, match="division"), evaluation_mode(optimizer):
        1 / 0  # noqa: B018
    assert equal(bits(model), before)
    update(model, optimizer, 1)


def test_one_that_is_in_evaluation_mode_stays_there():
    model, optimizer = start(OPTIMIZERS["adamw"])
    for k in range(3):
        update(model, optimizer, k)
    optimizer.eval()
    before = bits(model)
    with evaluation_mode(optimizer):
        assert equal(bits(model), before)
    assert equal(bits(model), before)
    assert not optimizer.param_groups[0]["train_mode"]


def test_an_update_outside_training_mode_is_refused_by_the_library_and_not_counted():
    model = nn.Linear(6, 1)
    optimizer = schedulefree.AdamWScheduleFree(model.parameters())
    run = budgeted.attach(optimizer, "10 steps", "const")
    with pytest.raises(Exception, match="not in train mode"):
        update(model, optimizer, 0)
    assert run.ledger.steps == 0
    enter_training(optimizer)
    update(model, optimizer, 0)
    before = bits(model)
    enter_training(optimizer)  # nothing, a second time
    assert equal(bits(model), before)
    assert run.ledger.steps == 1


# Under a budget


@each_optimizer
def test_a_constant_schedule_is_the_library_alone_to_the_last_bit(make):
    alone, (model, optimizer) = start(make), start(make)
    run = budgeted.attach(optimizer, f"{UPDATES} steps", "const")
    for k in range(UPDATES):
        update(*alone, k)
        update(model, optimizer, k)
    assert run.done
    for mode in ("train", "eval"):
        getattr(alone[1], mode)()
        getattr(optimizer, mode)()
        assert equal(bits(alone[0]), bits(model))


@each_optimizer
@pytest.mark.parametrize("warmup", ["10 steps", "25%"])
def test_a_warmup_gives_the_librarys_bits_for_rates_set_by_hand(make, warmup):
    """Also at the first update, whose rate and weight in the average are zero."""
    alone, (model, optimizer) = start(make), start(make)
    base = optimizer.param_groups[0]["lr"]
    run = budgeted.attach(optimizer, f"{UPDATES} steps", "const", warmup=warmup)
    for k in range(UPDATES):
        alone[1].param_groups[0]["lr"] = base * min(1.0, k / 10)
        update(*alone, k)
        update(model, optimizer, k)
        with evaluation_mode(optimizer):
            assert all(torch.isfinite(w).all() for w in bits(model))
    assert run.done
    assert equal(bits(alone[0]), bits(model))
    for kept in ("lr_max", "weight_sum"):
        assert optimizer.param_groups[0][kept] == alone[1].param_groups[0][kept] > 0


@each_optimizer
@pytest.mark.parametrize("interrupted", [3, 25])
def test_a_checkpoint_in_training_mode_is_resumed_to_the_same_bits(make, interrupted):
    def attached():
        model, optimizer = start(make)
        return model, optimizer, budgeted.attach(optimizer, f"{UPDATES} steps", "const", warmup="10 steps")

    def go(model, optimizer, first, last):
        for k in range(first, last):
            update(model, optimizer, k)
            if k % 4 == 2:
                with evaluation_mode(optimizer):
                    pass

    whole, optimizer, _ = attached()
    go(whole, optimizer, 0, UPDATES)

    model, first, run = attached()
    go(model, first, 0, interrupted)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": first.state_dict(), "run": run.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)

    resumed, again, run = attached()
    resumed.load_state_dict(state["model"])
    again.load_state_dict(state["optimizer"])
    run.load_state_dict(state["run"])
    enter_training(again)  # it is, by its own state
    go(resumed, again, interrupted, UPDATES)
    assert run.done
    assert equal(bits(resumed), bits(whole))
    with evaluation_mode(again), evaluation_mode(optimizer):
        assert equal(bits(resumed), bits(whole))


@pytest.mark.parametrize("schedule", ["const", "linear", "step-d2"])
def test_a_decay_turns_the_steps_but_has_no_part_in_the_average(schedule):
    """The library weighs by the highest rate so far, so x is the plain mean of the z's whatever the rate has come to."""
    model, optimizer = start(OPTIMIZERS["sgd"])
    budgeted.attach(optimizer, f"{UPDATES} steps", schedule)
    rates, zs = [], []
    for k in range(UPDATES):
        update(model, optimizer, k)
        rates.append(optimizer.param_groups[0]["scheduled_lr"])
        zs.append([optimizer.state[p]["z"].clone() for p in model.parameters()])
    formula = budgeted.schedule(schedule)
    assert rates == [0.1 * formula(k / UPDATES) for k in range(UPDATES)]
    with evaluation_mode(optimizer):
        for each, *history in zip(bits(model), *zs, strict=True):
            torch.testing.assert_close(each, torch.stack(history).mean(0), rtol=1e-4, atol=1e-5)


def test_a_warmup_gives_the_first_small_steps_a_small_weight():
    """By the square of the highest rate so far."""
    model, optimizer = start(OPTIMIZERS["sgd"])
    budgeted.attach(optimizer, f"{UPDATES} steps", "const", warmup="10 steps")
    for k in range(UPDATES):
        update(model, optimizer, k)
    squares = [(0.1 * min(1.0, k / 10)) ** 2 for k in range(UPDATES)]
    assert optimizer.param_groups[0]["weight_sum"] == pytest.approx(sum(squares))
