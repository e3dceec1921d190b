"""The drop-in, one claim a test. Clocks are fake, so nothing here depends on how fast the machine is."""

from __future__ import annotations

import copy
import datetime as dt
import io
import math
import os
import re
import signal
import warnings

import pytest
import torch

import budgeted
from budgeted import BudgetError, BudgetWarning, ScheduleError
from budgeted.core.trace import Trace, TraceWriter
from budgeted.train import attach as module
from budgeted.train.energy import Rapl
from fake_clock import Clock

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def parameter() -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    return p


def sgd(lr=0.1, **options) -> torch.optim.SGD:
    return torch.optim.SGD([parameter()], lr=lr, **options)


def record(optimizer, key="lr", group=0) -> list[float]:
    """What each update from now on runs at."""
    seen: list[float] = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(float(o.param_groups[group][key])))
    return seen


def steps(run, optimizer, limit=10_000, clock=None, seconds=0.0) -> int:
    """Step until the budget ends, and say how often."""
    for k in range(limit):
        if run.done:
            return k
        if clock:
            clock.sleep(seconds)
        optimizer.step()
    raise AssertionError(f"the budget did not end within {limit} updates")


def through_a_file(state: dict) -> dict:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# The convention


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "step-d2", "poly", "const"])
def test_update_k_of_T_runs_at_k_over_T_and_the_optimizer_then_holds_the_end(total, schedule):
    optimizer = sgd()
    run = budgeted.attach(optimizer, f"{total} steps", schedule)
    rates, formula = record(optimizer), budgeted.schedule(schedule)
    assert steps(run, optimizer) == total
    assert rates == [0.1 * formula(k / total) for k in range(total)]
    assert optimizer.param_groups[0]["lr"] == 0.1 * formula(1.0)
    assert run.progress == 1.0
    assert run.factor == formula((total - 1) / total)


def test_epochs_are_updates():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "2.5ep", steps_per_epoch=4)
    assert steps(run, optimizer) == 10


@pytest.mark.parametrize("micro_batches", [8, 10])
def test_a_window_of_accumulated_gradients_is_one_update_and_so_is_a_partial_last_one(micro_batches):
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100 steps")
    for i in range(micro_batches):
        optimizer.param_groups[0]["params"][0].grad.add_(1.0)
        if (i + 1) % 4 == 0 or i + 1 == micro_batches:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    assert run.ledger.steps == math.ceil(micro_batches / 4)


def test_the_smallest_limit_drives():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps or 100 samples", samples_per_step=20)
    rates = record(optimizer)
    assert steps(run, optimizer) == 5
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])
    assert run.summary().ended_by == "100 samples"


# Mixed precision


def scaled_step(scaler, optimizer, gradient: float) -> None:
    p = optimizer.param_groups[0]["params"][0]
    p.grad = None
    scaler.scale((p * gradient).sum()).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("budget", ["10 steps", "10 steps or 1h"])
def test_an_update_that_mixed_precision_skips_is_not_counted(fused, budget):
    optimizer = sgd(fused=fused)
    run = budgeted.attach(optimizer, budget, clock=Clock())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = optimizer.param_groups[0]["params"][0].detach().clone()
    scaled_step(scaler, optimizer, math.inf)
    assert torch.equal(optimizer.param_groups[0]["params"][0], before)
    assert run.ledger.steps == 0
    assert run.progress == 0.0
    scaled_step(scaler, optimizer, 1.0)
    scaled_step(scaler, optimizer, math.nan)
    assert run.ledger.steps == 1
    while not run.done:
        scaled_step(scaler, optimizer, 1.0)
    assert run.ledger.steps == 10
    assert optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_update_of_unscaled_gradients_is_not_counted(fused):
    optimizer = sgd(fused=fused)
    run = budgeted.attach(optimizer, "10 steps")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient in (1.0, math.inf, 1.0):
        p = optimizer.param_groups[0]["params"][0]
        p.grad = None
        scaler.scale((p * gradient).sum()).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_([p], 1.0)
        scaler.step(optimizer)
        scaler.update()
    assert run.ledger.steps == 2


@needs_cuda
@pytest.mark.parametrize("budget", ["50 steps", "50 steps or 1h"])
def test_a_fused_update_skipped_on_the_device_is_taken_back(budget):
    p = torch.nn.Parameter(torch.ones(2, device="cuda"))
    optimizer = torch.optim.SGD([p], lr=0.1, fused=True)
    run = budgeted.attach(optimizer, budget)
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    for k in range(20):
        scaled_step(scaler, optimizer, math.inf if k == 3 else 1.0)
    assert run.ledger.steps == 19


@needs_cuda
def test_counting_seconds_never_waits_for_the_whole_device():
    p = torch.nn.Parameter(torch.ones(2, device="cuda"))
    p.grad = torch.ones_like(p)
    optimizer = torch.optim.SGD([p], lr=0.1)
    run = budgeted.attach(optimizer, "1h")
    torch.cuda.set_sync_debug_mode("error")  # raises where a call waits for the device
    try:
        for _ in range(20):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.ledger.steps == 20


# Parameter groups and kinds of optimizer


def test_parameter_groups_keep_their_ratios():
    optimizer = torch.optim.SGD([{"params": [parameter()], "lr": 0.4}, {"params": [parameter()], "lr": 0.1}])
    run = budgeted.attach(optimizer, "4 steps")
    large, small = record(optimizer), record(optimizer, group=1)
    steps(run, optimizer)
    assert large == [0.4 * (1 - k / 4) for k in range(4)]
    assert small == [0.1 * (1 - k / 4) for k in range(4)]


@pytest.mark.parametrize("tensor", [False, True])
def test_a_group_added_later_starts_from_the_rate_it_came_with(tensor):
    optimizer = sgd(lr=torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1)
    run = budgeted.attach(optimizer, "4 steps")
    optimizer.step()
    optimizer.step()
    lr = 0.6
    optimizer.add_param_group({"params": [parameter()], "lr": torch.tensor(lr, dtype=torch.float64) if tensor else lr})
    old, new = record(optimizer), record(optimizer, group=1)
    steps(run, optimizer)
    assert old == pytest.approx([0.1 * 0.5, 0.1 * 0.25], rel=1e-12)
    assert new == pytest.approx([0.6 * 0.5, 0.6 * 0.25], rel=1e-12)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.0, 0.0]


@pytest.mark.parametrize("tensor", [False, True])
def test_a_group_added_later_without_a_rate_has_the_optimizer_s_own(tensor):
    optimizer = sgd(lr=torch.tensor(0.1, dtype=torch.float64) if tensor else 0.1)
    run = budgeted.attach(optimizer, "4 steps")
    optimizer.step()
    optimizer.step()
    optimizer.add_param_group({"params": [parameter()]})
    old, new = record(optimizer), record(optimizer, group=1)
    steps(run, optimizer)
    assert old == pytest.approx([0.1 * 0.5, 0.1 * 0.25], rel=1e-12)
    assert new == pytest.approx(old, rel=1e-12)


def test_a_tensor_rate_is_changed_in_place():
    optimizer = sgd(lr=torch.tensor(0.5))
    tensor = optimizer.param_groups[0]["lr"]
    run = budgeted.attach(optimizer, "4 steps")
    rates = record(optimizer)
    steps(run, optimizer)
    assert optimizer.param_groups[0]["lr"] is tensor
    assert rates == [0.5, 0.375, 0.25, 0.125]


def test_an_integer_rate_is_a_rate():
    optimizer = sgd(lr=1)
    run = budgeted.attach(optimizer, "4 steps")
    rates = record(optimizer)
    steps(run, optimizer)
    assert rates == [1.0, 0.75, 0.5, 0.25]


OPTIMIZERS = {
    "fused SGD": lambda: sgd(fused=True),
    "foreach SGD": lambda: sgd(foreach=True),
    "fused Adam": lambda: torch.optim.Adam([parameter()], lr=0.1, fused=True),
    "foreach AdamW": lambda: torch.optim.AdamW([parameter()], lr=0.1, foreach=True),
    "tensor Adam": lambda: torch.optim.Adam([parameter()], lr=torch.tensor(0.1), foreach=False),
    "Adadelta": lambda: torch.optim.Adadelta([parameter()], lr=0.1),
    "RMSprop": lambda: torch.optim.RMSprop([parameter()], lr=0.1),
    "Adagrad": lambda: torch.optim.Adagrad([parameter()], lr=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_is_driven(name):
    optimizer = OPTIMIZERS[name]()
    run = budgeted.attach(optimizer, "5 steps")
    rates = record(optimizer)
    assert steps(run, optimizer) == 5
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])


@needs_cuda
def test_a_capturable_optimizer_is_driven():
    p = torch.nn.Parameter(torch.ones(2, device="cuda"))
    p.grad = torch.ones_like(p)
    optimizer = torch.optim.Adam([p], lr=torch.tensor(0.1, device="cuda"), capturable=True)
    run = budgeted.attach(optimizer, "5 steps")
    rates = record(optimizer)
    assert steps(run, optimizer) == 5
    assert rates == pytest.approx([0.1, 0.08, 0.06, 0.04, 0.02])


def test_a_step_with_a_closure_counts_once():
    optimizer = torch.optim.LBFGS([parameter()], lr=0.1, max_iter=3)
    run = budgeted.attach(optimizer, "2 steps")

    def closure():
        optimizer.zero_grad()
        loss = optimizer.param_groups[0]["params"][0].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert run.ledger.steps == 1


@pytest.mark.parametrize("tensor", [True, False])
def test_a_compiled_step_counts_and_is_not_compiled_anew_for_every_rate(tensor):
    counters = pytest.importorskip("torch._dynamo.utils").counters
    torch._dynamo.reset()
    optimizer = torch.optim.Adam([parameter()], lr=torch.tensor(0.1) if tensor else 0.1, foreach=False)
    run = budgeted.attach(optimizer, "30 steps")
    rates = record_compiled(optimizer)
    compiled = torch.compile(optimizer.step, backend="eager")
    compilations = [counters["frames"]["ok"]]
    for _ in range(30):
        compiled()
        compilations.append(counters["frames"]["ok"])
    assert run.ledger.steps == 30
    assert run.done
    assert rates == pytest.approx([0.1 * (1 - k / 30) for k in range(30)])
    assert compilations[1] > compilations[0]
    assert compilations[29] == compilations[5]  # PyTorch itself looks at a rate that is a number more than once


def record_compiled(optimizer) -> list[float]:
    seen: list[float] = []
    hook = torch.compiler.disable(lambda o, *_: seen.append(float(o.param_groups[0]["lr"])))
    optimizer.register_step_pre_hook(hook)
    return seen


# Several optimizers


def test_several_optimizers_follow_one_ledger_and_each_turn_of_them_is_one_step():
    critic, generator = sgd(lr=0.4), sgd(lr=0.1)
    run = budgeted.attach([critic, generator], "4 steps")
    rates = record(critic), record(generator)
    for _ in range(4):
        critic.step()
        generator.step()
    assert rates == ([0.4 * (1 - k / 4) for k in range(4)], [0.1 * (1 - k / 4) for k in range(4)])
    assert run.done
    assert (critic.param_groups[0]["lr"], generator.param_groups[0]["lr"]) == (0.0, 0.0)


def test_a_critic_may_be_stepped_more_often():
    critic, generator = sgd(lr=0.4), sgd(lr=0.1)
    run = budgeted.attach([critic, generator], "2 steps")
    rates = record(critic)
    while not run.done:
        for _ in range(3):
            critic.step()
        generator.step()
    assert rates == [0.4] * 3 + [0.2] * 3


def test_an_optimizer_stays_free_where_attaching_a_companion_fails():
    good, bad = sgd(), sgd(lr=0.0)
    with pytest.raises(ScheduleError, match="must be positive, and is 0 in every parameter group"):
        budgeted.attach([good, bad], "4 steps")
    budgeted.attach(good, "4 steps")


def test_no_optimizer_is_refused():
    with pytest.raises(ScheduleError, match="give an optimizer, or several"):
        budgeted.attach([], "4 steps")


# Other hyper-parameters


def test_one_cycle_drives_momentum():
    optimizer = sgd(momentum=0.95)
    run = budgeted.attach(optimizer, "10 steps", "one-cycle")
    rates, momenta = record(optimizer), record(optimizer, "momentum")
    steps(run, optimizer)
    assert rates[3] == pytest.approx(0.1)
    assert momenta[0] == pytest.approx(0.95)
    assert momenta[3] == pytest.approx(0.85)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.95)


def test_one_cycle_drives_adam_s_beta1_and_leaves_beta2():
    optimizer = torch.optim.Adam([parameter()], lr=0.1, betas=(0.95, 0.99))
    run = budgeted.attach(optimizer, "10 steps", "one-cycle")
    seen = []
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["betas"]))
    steps(run, optimizer)
    assert seen[3] == pytest.approx((0.85, 0.99))
    assert optimizer.param_groups[0]["betas"] == pytest.approx((0.95, 0.99))


def test_with_drives_weight_decay():
    optimizer = sgd(weight_decay=0.2)
    run = budgeted.attach(optimizer, "4 steps", "with(linear, weight_decay=cosine)")
    rates, decays = record(optimizer), record(optimizer, "weight_decay")
    steps(run, optimizer)
    assert rates == [0.1 * (1 - k / 4) for k in range(4)]
    assert decays == pytest.approx([0.2 * budgeted.Cosine()(k / 4) for k in range(4)])
    assert optimizer.param_groups[0]["weight_decay"] == 0.0


def test_a_hyper_parameter_that_the_optimizer_lacks_is_refused():
    with pytest.raises(ScheduleError, match="drives 'alpha', which this optimizer does not have; it has lr, momentum"):
        budgeted.attach(sgd(), "4 steps", "with(linear, alpha=cosine)")


def test_plateau_follows_what_is_reported():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "8 steps", "plateau(patience=1)")
    rates = record(optimizer)
    for figure in (0.5, 0.6, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7):
        optimizer.step()
        run.report(figure)
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 3 + [0.001])
    assert run.done


def test_report_leaves_other_schedules_alone():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "4 steps")
    for _ in range(3):
        run.report(0.5)
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


# Forms of schedule


def test_the_early_stopped_form_follows_its_own_horizon():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10ep", "linear over 200ep", steps_per_epoch=2)
    rates = record(optimizer)
    assert steps(run, optimizer) == 20
    assert rates == [0.1 * (1 - k / 400) for k in range(20)]
    assert optimizer.param_groups[0]["lr"] == rates[-1]  # it ends where it was stopped


def test_the_early_stopped_form_holds_its_end_past_its_horizon():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "6 steps", "linear over 4 steps")
    rates = record(optimizer)
    steps(run, optimizer)
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0, 0.0])


def test_the_early_stopped_form_takes_the_momentum_along_its_own_horizon():
    optimizer = sgd(momentum=0.95)
    run = budgeted.attach(optimizer, "5 steps", "one-cycle over 10 steps")
    momenta = record(optimizer, "momentum")
    steps(run, optimizer)
    assert momenta[3] == pytest.approx(0.85)  # the peak, at 3 of its own 10 steps


def test_an_absolute_warm_up_is_the_same_at_every_budget_and_the_decay_takes_the_rest():
    for total in (10, 20):
        optimizer = sgd()
        run = budgeted.attach(optimizer, f"{total} steps", warmup="4 steps")
        rates = record(optimizer)
        assert steps(run, optimizer) == total
        rest = total - 4
        assert rates[:4] == [0.1 * (k / 4) for k in range(4)]
        assert rates[4:] == [0.1 * (1 - k / rest) for k in range(rest)]


def test_a_warm_up_in_per_cent_is_part_of_progress():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps", warmup="20%")
    rates = record(optimizer)
    steps(run, optimizer)
    assert rates == pytest.approx([0.0, 0.05] + [0.1 * (1 - k / 8) for k in range(8)])


def test_a_warm_up_in_seconds_leads_into_a_decay_over_steps():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "20 steps", warmup="10s", clock=clock)
    rates = record(optimizer)
    assert steps(run, optimizer, clock=clock, seconds=1.0) == 20
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(0.05, abs=0.011)
    assert max(rates) == pytest.approx(0.1)
    assert run.progress == 1.0


@pytest.mark.parametrize(
    ("warmup", "message"),
    [
        ("10 steps", "leaves nothing of budget '10 steps' to decay over"),
        ("1 steps or 2s", "more than one limit"),
    ],
)
def test_a_warm_up_that_cannot_be_kept_is_refused(warmup, message):
    with pytest.raises((BudgetError, ScheduleError), match=message):
        budgeted.attach(sgd(), "10 steps", warmup=warmup)


def test_a_warm_up_into_plateau_is_refused():
    with pytest.raises(ScheduleError, match="follows the metric"):
        budgeted.attach(sgd(), "10 steps", "plateau", warmup="2 steps")


@pytest.mark.parametrize(
    "schedule", ["with(warmup(3 steps, linear), weight_decay=cosine)", "with(linear over 9ep, weight_decay=cosine)"]
)
def test_an_absolute_part_inside_another_schedule_is_refused_not_dropped(schedule):
    with pytest.raises(ScheduleError, match="can only stand outermost"):
        budgeted.attach(sgd(), "10 steps", schedule, steps_per_epoch=2)


def test_a_warm_up_into_the_early_stopped_form_is_refused_not_converted():
    with pytest.raises(ScheduleError, match="can only stand outermost"):
        budgeted.attach(sgd(), "10 steps", "linear over 20 steps", warmup="2 steps")


# Samples and tokens


def test_samples_per_step():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100 samples", samples_per_step=25)
    rates = record(optimizer)
    assert steps(run, optimizer) == 4
    assert rates == [0.1 * (1 - k / 4) for k in range(4)]


def test_tokens_are_what_count_says_and_micro_batches_add_up():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100 tokens")
    rates = record(optimizer)
    for lengths in ((10, 15), (30, 20), (20, 10)):
        for length in lengths:
            run.count(tokens=length)
        optimizer.step()
    assert rates == pytest.approx([0.1, 0.075, 0.025])
    assert run.ledger.spent()["tokens"] == 105
    assert run.done


def test_over_counts_the_samples_of_every_kind_of_batch():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "1000 samples")
    x = torch.zeros(5, 3)
    kinds = [x, (x, x[:, 0]), [x], {"x": x}, {"meta": {"weight": torch.tensor(1.0)}, "x": (x,)}, ("name", x)]
    for _ in run.over(kinds):
        optimizer.step()
    assert run.ledger.spent()["samples"] == 5 * len(kinds)


def test_over_does_not_count_what_samples_per_step_says_already():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "1000 samples", samples_per_step=7)
    for _ in run.over([torch.zeros(5)] * 3):
        optimizer.step()
    assert run.ledger.spent()["samples"] == 21


@pytest.mark.parametrize(
    ("unit", "message"), [("samples", "pass samples_per_step=, use run.over"), ("tokens", "pass tokens_per_step=")]
)
def test_a_budget_of_what_nobody_counts_is_refused_at_the_first_update(unit, message):
    optimizer = sgd()
    budgeted.attach(optimizer, f"100 {unit}")
    with pytest.raises(BudgetError, match=f"the first update spent no {unit}; {message}"):
        optimizer.step()


@pytest.mark.parametrize(
    "options", [{"warmup": "50 tokens"}, {"schedule": "linear over 500 tokens"}], ids=["warm-up", "horizon"]
)
def test_a_warm_up_and_a_horizon_of_what_nobody_counts_are_refused_too(options):
    optimizer = sgd()
    budgeted.attach(optimizer, "100 steps", **options)
    with pytest.raises(BudgetError, match="the first update spent no tokens"):
        optimizer.step()


def test_over_counts_samples_for_a_warm_up():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100 steps", warmup="20 samples")
    rates = record(optimizer)
    for _ in run.over([torch.zeros(5)] * 5):
        optimizer.step()
    assert rates == [0.1 * k / 4 for k in range(4)] + [0.1]


def test_tokens_in_a_batch_are_what_the_users_function_says():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100 tokens", tokens_in=lambda batch: int((batch != 0).sum()))
    rates = record(optimizer)
    for k, _ in enumerate(run.over([torch.ones(2, 9), torch.zeros(2, 9), torch.ones(4, 8)] * 5)):
        if k % 3:  # two micro-batches make an update
            optimizer.step()
    assert rates == pytest.approx([0.1, 0.082, 0.05, 0.032])
    assert run.ledger.spent()["tokens"] == 18 + 32 + 18 + 32


# FLOPs and energy


def linear_model(inputs=4, outputs=3):
    model = torch.nn.Linear(inputs, outputs, bias=False)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def test_flops_are_those_of_the_update_that_happened():
    model, optimizer = linear_model()
    of_a_row = 2 * 2 * 4 * 3  # forward, and backward to the weights
    run = budgeted.attach(optimizer, f"{of_a_row * (8 * 10)} FLOP")
    rates = record(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in run.over([torch.ones(8, 4), torch.ones(2, 4)] * 50):
            model(batch).sum().backward()
            optimizer.step()
            with run.measure():
                model(torch.ones(1000, 4))  # an evaluation is no part of an update
    rows = [0, 8, 10, 18, 20, 28, 30, 38, 40, 48, 50, 58, 60, 68, 70, 78]
    assert rates == pytest.approx([0.1 * (1 - r / 80) for r in rows])
    assert run.ledger.spent()["flops"] == of_a_row * 80
    assert str(run.summary()).startswith("budget 3840 FLOP, schedule linear: ended by 3840 FLOP after 16 updates")


def test_flops_per_step_are_taken_as_they_are_given():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "1e6 FLOP", flops_per_step=250_000)
    assert steps(run, optimizer) == 4


def test_flops_that_nobody_counts_are_refused():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "1e6 FLOP")
    batches = run.over([torch.ones(3)])
    next(batches)
    with pytest.raises(BudgetError, match=r"the first update spent no flops; pass flops_per_step=, use run\.over"):
        optimizer.step()


def test_energy_drives_the_rate_by_the_users_counter():
    clock, used = Clock(), [500.0]
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100 J", energy=lambda: used[0], clock=clock)
    rates = record(optimizer)
    while not run.done:
        clock.sleep(1.0)
        used[0] += 5.0
        optimizer.step()
    assert 18 <= len(rates) <= 20
    assert rates == sorted(rates, reverse=True)
    assert rates[10] == pytest.approx(0.05, abs=0.006)
    assert run.summary().ended_by == "100 J"
    assert run.ledger.spent()["joules"] <= 100


def test_of_time_and_energy_the_binding_one_drives():
    clock, used = Clock(), [0.0]
    optimizer = sgd()
    run = budgeted.attach(optimizer, "1000s or 100 J", energy=lambda: used[0], clock=clock)
    while not run.done:
        clock.sleep(1.0)
        used[0] += 2.0
        optimizer.step()
    assert run.summary().ended_by == "100 J"
    assert run.ledger.seconds < 60


def test_a_horizon_in_joules_is_read_off_the_counter():
    clock, used = Clock(), [0.0]
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps", "linear over 20 J", energy=lambda: used[0], clock=clock)
    rates = record(optimizer)
    while not run.done:
        clock.sleep(1.0)
        optimizer.step()
        used[0] += 1.0
    assert rates == pytest.approx([0.1 * (1 - k / 20) for k in range(10)])


# Stopping early, and by signals


def halfway(schedule="const", budget="100 steps", **options):
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, budget, schedule, clock=clock, **options)
    rates = record(optimizer)
    for _ in range(50):
        clock.sleep(1.0)
        optimizer.step()
    return run, optimizer, clock, rates


def test_a_constant_rate_is_cooled_down_over_just_what_is_left():
    run, optimizer, _, rates = halfway()
    run.stop_in("20 steps")
    assert str(run.budget) == "70 steps"
    assert str(run.schedule) == "cooldown(const, 0.5, linear)"
    assert steps(run, optimizer) == 20
    assert rates[49] == rates[50] == 0.1
    assert rates[50:] == pytest.approx([0.1 * (1 - k / 20) for k in range(20)])
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert run.summary().ended_by == "70 steps"


def test_a_schedule_that_ends_low_is_quickened():
    run, optimizer, _, rates = halfway("linear")
    run.stop_in("20 steps")
    assert str(run.schedule) == "linear"
    assert steps(run, optimizer) == 20
    assert rates[50:] == pytest.approx([0.05 * (1 - k / 20) for k in range(20)])


def test_a_stop_in_time_of_a_run_that_counts_updates_keeps_both_limits():
    run, optimizer, clock, rates = halfway()
    run.stop_in("20s", cooldown="wsd(decay=1, shape=1-sqrt)")
    assert str(run.budget) == "1min10s or 100 steps"
    assert 19 <= steps(run, optimizer, clock=clock, seconds=1.0) <= 20
    assert rates[-1] < 0.01
    assert run.ledger.seconds <= 70


def test_an_early_stopped_schedule_is_cooled_down_from_where_it_stands():
    run, optimizer, _, rates = halfway("linear over 200 steps")
    run.stop_in("10 steps")
    assert steps(run, optimizer) == 10
    assert rates[50:] == pytest.approx([0.1 * 0.75 * (1 - k / 10) for k in range(10)])


def test_other_parameters_go_on_through_a_cooldown():
    optimizer = sgd(weight_decay=0.5)
    run = budgeted.attach(optimizer, "100 steps", "with(const, weight_decay=linear)")
    for _ in range(50):
        optimizer.step()
    decays = record(optimizer, "weight_decay")
    run.stop_in("10 steps")
    assert steps(run, optimizer) == 10
    assert decays == pytest.approx([0.25 * (1 - k / 10) for k in range(10)])


def test_a_stopped_run_goes_on_from_its_state():
    run, optimizer, _, rates = halfway()
    run.stop_in("20 steps")
    for _ in range(5):
        optimizer.step()
    state = through_a_file(run.state_dict())
    steps(run, optimizer)
    other = sgd()
    again = budgeted.attach(other, state["budget"], state["schedule"])
    again.load_state_dict(state)
    seen = record(other)
    steps(again, other)
    assert seen == rates[55:]


def test_what_cannot_be_stopped_so_is_refused_and_nothing_is_changed():
    run = halfway()[0]
    with pytest.raises(BudgetError, match="the run ends sooner anyway, at '100 steps'"):
        run.stop_in("60 steps")
    with pytest.raises(BudgetError, match="give one limit, such as 5min or 500 steps"):
        run.stop_in("5min or 10 steps")
    with pytest.raises(ScheduleError, match="'liner' is unknown"):
        run.stop_in("10 steps", cooldown="liner")
    with pytest.raises(ScheduleError, match="it follows the metric"):
        halfway("plateau")[0].stop_in("10 steps", cooldown="linear")
    assert (str(run.budget), str(run.schedule)) == ("100 steps", "const")


def test_extend_by():
    run, optimizer, _, _ = halfway("linear", "100 steps or 1000s")
    run.extend(by="50 steps")
    assert str(run.budget) == "150 steps or 16min40s"
    assert steps(run, optimizer) == 100
    with pytest.raises(BudgetError, match="give the new budget, or by="):
        run.extend("10 steps", by="10 steps")


def test_an_interrupted_run_is_done_and_goes_on_from_its_state():
    run, _, _, rates = halfway("linear")
    with run.heed():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert (run.done, run.interrupted) == (True, "SIGUSR1")
    assert list(run.over([torch.ones(1)])) == []
    assert "interrupted by SIGUSR1 at p = 0.5000" in str(run.summary())
    other = sgd()
    again = budgeted.attach(other, "100 steps")
    again.load_state_dict(through_a_file(run.state_dict()))
    assert again.interrupted is None
    seen = record(other)
    assert steps(again, other) == 50
    assert rates + seen == [0.1 * (1 - k / 100) for k in range(100)]


def test_another_runs_rates_are_followed_to_the_last_bit(tmp_path):
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "60s", "with(cosine, weight_decay=linear)", warmup="7s", clock=clock)
    rates, decays, writer = record(optimizer), record(optimizer, "weight_decay"), TraceWriter(tmp_path / "trace.bin")
    while not run.done:
        clock.sleep(0.9 + 0.3 * math.sin(run.ledger.steps))
        position = run.progress
        optimizer.step()
        writer.add(position, run.factor)
    writer.close()
    other = sgd()
    again = budgeted.attach(other, f"{run.ledger.steps} steps", "with(cosine, weight_decay=linear)")
    again.follow(Trace.read(tmp_path / "trace.bin"))
    seen, other_decays = record(other), record(other, "weight_decay")
    assert steps(again, other) == run.ledger.steps
    assert (seen, other_decays) == (rates, decays)
    assert again.progress == 1.0


# Refused at once


def test_epochs_without_their_length_are_refused():
    with pytest.raises(BudgetError, match=r"the length of an epoch is unknown; pass steps_per_epoch=len\(loader\)"):
        budgeted.attach(sgd(), "10ep")


def test_a_horizon_in_epochs_without_their_length_is_refused():
    with pytest.raises(BudgetError, match="the length of an epoch is unknown"):
        budgeted.attach(sgd(), "10 steps", "exp.97 over 200ep")


@pytest.mark.parametrize(
    "given",
    [("300 Wh",), ("10 steps or 5 kJ",), ("10 steps", "linear over 300 Wh"), ("10 steps", "warmup(5 J, linear)")],
    ids=" ".join,
)
def test_energy_without_a_counter_is_refused(given, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "meter", lambda _: Rapl(tmp_path))
    with pytest.raises(BudgetError, match="energy"):
        budgeted.attach(sgd(), *given)


def test_a_number_without_a_unit_is_refused():
    with pytest.raises(BudgetError, match="a number without a unit; write '10 steps'"):
        budgeted.attach(sgd(), 10)


def test_an_unknown_schedule_and_anchor_are_refused():
    with pytest.raises(ScheduleError, match="'liner' is unknown"):
        budgeted.attach(sgd(), "10 steps", "liner")
    with pytest.raises(BudgetError, match="anchor 'start' is unknown; it is one of now, process, first step"):
        budgeted.attach(sgd(), "10 steps", anchor="start")


def test_a_second_attachment_is_refused_until_the_first_is_closed():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps")
    with pytest.raises(ScheduleError, match=r"attached to a budget already; call close\(\) on that run first"):
        budgeted.attach(optimizer, "20 steps")
    run.close()
    budgeted.attach(optimizer, "20 steps")


def test_an_optimizer_with_a_torch_scheduler_is_refused():
    optimizer = sgd()
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(ScheduleError, match="a torch scheduler drives this optimizer already"):
        budgeted.attach(optimizer, "10 steps")


@pytest.mark.parametrize("lr", [math.nan, math.inf])
def test_a_base_rate_that_is_no_rate_is_refused(lr):
    with pytest.raises(ScheduleError, match=f"must be positive and finite, and is {lr}"):
        budgeted.attach(sgd(lr), "10 steps")


def test_a_share_needs_a_full_budget():
    with pytest.raises(BudgetError, match="no full budget to take a share of"):
        budgeted.attach(sgd(), "5%")
    optimizer = sgd()
    assert steps(budgeted.attach(optimizer, "5%", full="100 steps"), optimizer) == 5


# Time


@pytest.mark.parametrize(
    ("budget", "devices"),
    [("100s", 1), ("$2 at $72/h", 1), ("1 gpuh", 36), ("until 2099-01-01T00:01:40Z", 1)],
    ids=["seconds", "money", "gpu-hours", "deadline"],
)
def test_time_in_every_form_drives_the_rate_to_its_end(budget, devices):
    clock, wall = Clock(), Clock(dt.datetime(2099, 1, 1, tzinfo=dt.UTC).timestamp())
    optimizer = sgd()
    run = budgeted.attach(optimizer, budget, devices=devices, clock=clock, wall=wall)
    rates = record(optimizer)
    while not run.done:
        clock.sleep(1.0)
        wall.sleep(1.0)
        optimizer.step()
    assert 99 <= run.ledger.steps <= 100
    assert clock.now - 1000.0 <= 100.0
    assert rates == pytest.approx([0.1 * (1 - k / 100) for k in range(len(rates))], abs=0.002)
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_the_end_holds_also_where_time_runs_out_between_updates():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", clock=clock)
    for _ in range(10):
        clock.sleep(1.0)
        optimizer.step()
    clock.sleep(1000.0)
    assert run.done
    assert optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize("seconds", [0.0002, 0.002, 0.005, 0.02])
def test_a_clock_of_coarse_ticks_drives_too(seconds):
    clock = Clock()
    optimizer = sgd()
    tick = 1 / 64  # time.monotonic on Windows, before Python 3.13
    run = budgeted.attach(optimizer, "3s", clock=lambda: math.floor(clock.now / tick) * tick)
    worst = 0.0
    while not run.done:
        worst = max(worst, abs(run.progress - (clock.now - 1000.0) / 3.0))
        clock.sleep(seconds)
        optimizer.step()
    assert worst < 0.03


def test_time_or_steps_whichever_comes_first():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "1h or 10 steps", clock=clock)
    assert steps(run, optimizer, clock=clock, seconds=1.0) == 10
    assert run.summary().ended_by == "10 steps"


def test_measure_keeps_the_next_evaluation_in_reserve():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", clock=clock)
    trained = 0
    while not run.done:
        for _ in range(10):
            clock.sleep(1.0)
            optimizer.step()
            trained += 1
            if run.done:
                break
        with run.measure("evaluation"):
            clock.sleep(5.0)
    assert 95.0 <= clock.now - 1000.0 <= 100.0  # the last evaluation ended inside
    assert run.summary().activities["evaluation"] == 100.0 - 1.0 * trained - (1100.0 - clock.now)
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_a_reserve_is_kept_from_the_start():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", reserve=40.0, clock=clock)
    assert run.remaining == {"seconds": 60.0}
    steps(run, optimizer, clock=clock, seconds=1.0)
    assert 59 <= run.ledger.steps <= 61


def test_without_measure_and_without_over_the_end_is_still_met():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", clock=clock)
    rates = record(optimizer)
    while not run.done:
        for _ in range(10):
            clock.sleep(1.0)
            optimizer.step()
            if run.done:
                break
        else:
            clock.sleep(5.0)  # an evaluation that nobody announced
    assert clock.now - 1000.0 <= 105.0
    assert sorted(rates, reverse=True) == rates
    assert rates[-1] < 0.1 * 0.1
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_the_clock_may_start_with_the_process(monkeypatch):
    monkeypatch.setattr(module, "process_age", lambda: 30.0)
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", anchor="process", clock=clock)
    assert run.remaining == {"seconds": 70.0}
    assert run.summary().anchor == "process"
    optimizer.step()
    assert run.factor == 1.0  # what set-up took is no decay
    with pytest.raises(BudgetError, match=r"30s had passed before the first update, and 0\.25s are kept in reserve"):
        budgeted.attach(sgd(), "20s", anchor="process", clock=clock, reserve=0.245309366)


def test_the_clock_may_start_with_the_first_step():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", anchor="first step", clock=clock)
    clock.sleep(500.0)
    rates = record(optimizer)  # a hook after ours
    steps(run, optimizer, clock=clock, seconds=1.0)
    assert 99 <= run.ledger.steps <= 101  # the first is free: the clock starts when it is applied
    assert rates[0] == 0.1


def test_an_end_does_not_come_before_the_first_step_that_starts_the_clock():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", anchor="first step", clock=clock)
    clock.sleep(500.0)
    assert not run.done
    assert run.remaining == {"seconds": 100.0}


# The loop


def test_over_stops_at_the_end():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "7 steps")
    seen = []
    for _ in range(3):
        for batch in run.over(range(4)):
            seen.append(batch)
            optimizer.step()
    assert seen == [0, 1, 2, 3, 0, 1, 2]


def test_over_draws_no_batch_that_it_does_not_yield():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "2 steps")
    loader = iter(range(4))
    for _ in run.over(loader):
        optimizer.step()
    assert list(loader) == [2, 3]


def test_a_step_after_the_end_warns_once():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "2 steps")
    steps(run, optimizer)
    with pytest.warns(BudgetWarning, match="stepped after budget '2 steps' had ended; leave the loop when run.done"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.0
    assert run.progress == 1.0


def test_remaining_and_progress():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps or 60 samples", samples_per_step=10)
    optimizer.step()
    assert run.remaining == {"steps": 9.0, "samples": 50.0}
    assert run.progress == pytest.approx(1 / 6)


def test_close_lets_go():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps", anchor="first step")
    optimizer.step()
    run.close()
    optimizer.param_groups[0]["lr"] = 0.7
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.7
    assert run.ledger.steps == 1
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_close_before_the_first_step_leaves_no_hook_behind():
    optimizer = sgd()
    budgeted.attach(optimizer, "10 steps", anchor="first step").close()
    assert not optimizer._optimizer_step_pre_hooks


def test_a_copy_of_the_optimizer_is_free():
    optimizer = sgd()
    budgeted.attach(optimizer, "10 steps")
    budgeted.attach(copy.deepcopy(optimizer), "10 steps")


def test_the_summary_says_what_was_spent_and_where_the_rate_ended():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "4 steps", clock=clock)
    steps(run, optimizer, clock=clock, seconds=0.5)
    assert str(run.summary()) == (
        "budget 4 steps, schedule linear: ended by 4 steps after 4 updates, 2s; "
        "the last update ran at 0.25 of the base rate"
    )


# State


CASES = {
    "steps": ("20 steps", {}),
    "cosine": ("20 steps", {"schedule": "cosine(eta=0.1)"}),
    "two limits": ("21 steps or 190 samples", {"samples_per_step": 9}),
    "absolute warm-up": ("20 steps", {"warmup": "7 steps"}),
    "late warm-up": ("20 steps", {"warmup": "14 steps"}),
    "share of warm-up": ("20 steps", {"warmup": "15%"}),
    "early-stopped": ("20 steps", {"schedule": "exp.97 over 31 steps"}),
    "one-cycle": ("20 steps", {"schedule": "one-cycle"}),
    "plateau": ("20 steps", {"schedule": "plateau(patience=2)"}),
}


@pytest.mark.parametrize("at", [0, 1, 7, 13])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_has_the_rates_of_an_unbroken_one_to_the_last_bit(case, at):
    budget, options = CASES[case]

    def start():
        optimizer = sgd(momentum=0.9)
        return optimizer, budgeted.attach(optimizer, budget, **options)

    def go_on(optimizer, run, updates):
        rates, momenta = record(optimizer), record(optimizer, "momentum")
        for _ in range(updates):
            if run.done:
                break
            optimizer.step()
            run.report(0.5)
        return list(zip(rates, momenta, strict=True))

    whole = go_on(*start(), 100)
    optimizer, run = start()
    first = go_on(optimizer, run, at)
    saved = through_a_file({"run": run.state_dict(), "optimizer": optimizer.state_dict()})
    optimizer, run = start()
    optimizer.load_state_dict(saved["optimizer"])
    run.load_state_dict(saved["run"])
    assert first + go_on(optimizer, run, 100) == whole


def test_what_is_measured_in_between_leaves_counted_rates_alone_to_the_last_bit():
    def rates_of(measured: bool) -> list[float]:
        optimizer = sgd()
        run = budgeted.attach(optimizer, "23 steps", warmup="7 steps")
        rates = record(optimizer)
        for k in range(23):
            optimizer.step()
            if measured and k % 3 == 0:
                with run.measure():
                    pass
        return rates

    assert rates_of(True) == rates_of(False)


def test_a_base_rate_survives_attaching_to_an_optimizer_that_was_loaded_first():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps")
    for _ in range(5):
        optimizer.step()
    saved = {"run": run.state_dict(), "optimizer": optimizer.state_dict()}
    optimizer = sgd()
    optimizer.load_state_dict(saved["optimizer"])  # it now has the decayed rate
    run = budgeted.attach(optimizer, "10 steps")
    run.load_state_dict(saved["run"])
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.5


def test_loading_an_optimizer_s_state_in_the_middle_does_not_move_the_rate():
    optimizer = torch.optim.Adam([parameter()], lr=0.1)
    run = budgeted.attach(optimizer, "10 steps")
    rates = record(optimizer)
    state = copy.deepcopy(optimizer.state_dict())
    for k in range(10):
        if k in (3, 4):
            optimizer.load_state_dict(state)
        optimizer.step()
        state = copy.deepcopy(optimizer.state_dict()) if k == 1 else state
    assert rates == [0.1 * (1 - k / 10) for k in range(10)]
    assert run.done


def test_a_state_has_the_seconds_that_were_spent_and_not_those_between_kill_and_resume():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "100s", clock=clock)
    for _ in range(40):
        clock.sleep(1.0)
        optimizer.step()
    state, rate = through_a_file(run.state_dict()), optimizer.param_groups[0]["lr"]
    later = Clock(9e6)
    optimizer = sgd()
    resumed = budgeted.attach(optimizer, "100s", clock=later)
    resumed.load_state_dict(state)
    assert resumed.remaining["seconds"] == pytest.approx(60.0)
    rates = record(optimizer)
    steps(resumed, optimizer, clock=later, seconds=1.0)
    assert rates[0] == pytest.approx(rate, abs=0.003)
    assert resumed.ledger.seconds == pytest.approx(100.0, abs=1.0)


def half_done(budget="10 steps", **options):
    optimizer = sgd()
    run = budgeted.attach(optimizer, budget, **options)
    for _ in range(5):
        optimizer.step()
    return run.state_dict()


def test_another_budget_on_resume_is_refused_with_the_jump_it_would_make():
    resumed = budgeted.attach(sgd(), "20 steps")
    message = "made under budget '10 steps' and is resumed under '20 steps'.*jump from 0.5 to 0.75.*Pass change=True"
    with pytest.raises(BudgetError, match=message):
        resumed.load_state_dict(half_done())
    assert resumed.ledger.steps == 0  # nothing was loaded


@pytest.mark.parametrize(("total", "left"), [(20, 15), (7, 2)])
def test_a_change_of_budget_bends_the_decay_from_where_it_is(total, left):
    optimizer = sgd()
    run = budgeted.attach(optimizer, f"{total} steps")
    run.load_state_dict(half_done(), change=True)
    rates = record(optimizer)
    assert steps(run, optimizer) == left
    assert rates == pytest.approx([0.1 * 0.5 * (1 - k / left) for k in range(left)])


def test_the_same_text_with_another_epoch_is_another_budget():
    state = half_done("2ep", steps_per_epoch=10)
    resumed = budgeted.attach(sgd(), "2ep", steps_per_epoch=20)
    with pytest.raises(
        BudgetError, match=r"made under budget '2ep' \(20 steps\) and is resumed under '2ep' \(40 steps\)"
    ):
        resumed.load_state_dict(state)
    resumed.load_state_dict(state, change=True)
    assert resumed.remaining == {"steps": 35.0}
    assert resumed.progress == 0.25


def test_another_schedule_on_resume_is_refused():
    with pytest.raises(ScheduleError, match="made under schedule 'linear', this run has 'cosine'"):
        budgeted.attach(sgd(), "10 steps", "cosine").load_state_dict(half_done())


def test_a_finished_state_is_finished():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "5 steps")
    steps(run, optimizer)
    again = sgd()
    resumed = budgeted.attach(again, "5 steps")
    resumed.load_state_dict(through_a_file(run.state_dict()))
    assert resumed.done
    assert again.param_groups[0]["lr"] == 0.0
    with pytest.raises(BudgetError, match="the rate has reached its end"):
        resumed.extend("10 steps")


def test_a_resumed_budget_that_is_no_longer_counted_is_refused():
    state = half_done("100 samples", samples_per_step=5)
    optimizer = sgd()
    budgeted.attach(optimizer, "100 samples").load_state_dict(state)
    with pytest.raises(BudgetError, match="the first update spent no samples"):
        optimizer.step()


def test_extend_bends_the_decay_to_the_new_end():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps")
    rates = record(optimizer)
    for _ in range(5):
        optimizer.step()
    run.extend("25 steps")
    assert steps(run, optimizer) == 20
    assert rates[5:] == pytest.approx([0.05 * (1 - k / 20) for k in range(20)])
    assert run.summary().budget == "25 steps"
    assert run.summary().ended_by == "25 steps"


def test_extend_to_another_resource_and_to_what_is_spent():
    clock = Clock()
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps", clock=clock)
    for _ in range(5):
        clock.sleep(1.0)
        optimizer.step()
    with pytest.raises(BudgetError, match="the new budget '5 steps' is spent already"):
        run.extend("5 steps")
    run.extend("25s")
    steps(run, optimizer, clock=clock, seconds=1.0)
    assert 24 <= run.ledger.steps <= 26
    assert optimizer.param_groups[0]["lr"] == 0.0


def test_a_budget_extended_to_what_nobody_counts_is_refused():
    optimizer = sgd()
    run = budgeted.attach(optimizer, "10 steps", anchor="first step")
    optimizer.step()
    run.extend("1000 tokens")
    with pytest.raises(BudgetError, match="the first update spent no tokens; pass tokens_per_step="):
        optimizer.step()
    run.count(tokens=10)
    optimizer.step()  # our own hooks are all still there
    assert run.ledger.steps == 3


def test_a_new_slurm_job_is_another_budget(monkeypatch):
    wall = Clock(dt.datetime(2099, 1, 1, tzinfo=dt.UTC).timestamp())
    clock = Clock()

    def attach_until(seconds):
        monkeypatch.setenv("SLURM_JOB_END_TIME", str(wall.now + seconds))
        optimizer = sgd()
        return optimizer, budgeted.attach(optimizer, "slurm", clock=clock, wall=wall)

    optimizer, run = attach_until(100)
    for _ in range(50):
        clock.sleep(1.0)
        wall.sleep(1.0)
        optimizer.step()
    state = through_a_file(run.state_dict())
    wall.sleep(3600.0)
    optimizer, run = attach_until(200)
    with pytest.raises(
        BudgetError, match=r"'slurm' \(until 2099-01-01T00:01:40Z\) and is resumed under 'slurm' \(until .*jump"
    ):
        run.load_state_dict(state)
    run.load_state_dict(state, change=True)
    assert not run.done
    assert run.progress == pytest.approx(0.5, abs=0.02)
    assert run.remaining == {"seconds": pytest.approx(200.0)}


def test_several_optimizers_resume_together():
    def start():
        optimizers = [sgd(lr=0.4), sgd(lr=0.1)]
        return optimizers, budgeted.attach(optimizers, "4 steps")

    (a, b), run = start()
    a.step()
    b.step()
    state = through_a_file(run.state_dict())
    (a, b), run = start()
    run.load_state_dict(state)
    a.step()
    b.step()
    assert (a.param_groups[0]["lr"], b.param_groups[0]["lr"]) == (0.4 * 0.75, 0.1 * 0.75)
    assert run.ledger.steps == 2


@pytest.mark.parametrize("fused", [False, True])
def test_samples_of_a_skipped_update_were_spent_and_the_next_one_is_charged(fused):
    optimizer = sgd(fused=fused)
    run = budgeted.attach(optimizer, "100 samples")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient in (math.inf, 1.0):
        run.count(samples=10)
        scaled_step(scaler, optimizer, gradient)
    assert run.ledger.spent() | {"seconds": 0} == {"steps": 1, "samples": 20.0, "seconds": 0}


# Arguments that would mislead


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reserve": -5.0}, "reserve is seconds to keep, at least 0 and finite, and is -5.0"),
        ({"devices": 0}, "devices is a whole number from 1, and is 0"),
        ({"steps_per_epoch": 2.5}, "steps_per_epoch is a whole number from 1, and is 2.5"),
        ({"anchor": True}, "anchor 'True' is unknown"),
        ({"reserve": 50.0}, "and 50s are kept in reserve"),
    ],
)
def test_misleading_arguments_are_refused(arguments, message):
    with pytest.raises(BudgetError, match=re.escape(message)):
        budgeted.attach(sgd(), "20s", **arguments)


def test_the_same_optimizer_twice_is_refused():
    optimizer = sgd()
    with pytest.raises(ScheduleError, match="several different ones"):
        budgeted.attach([optimizer, optimizer], "2 steps")


def test_a_frozen_group_stays_frozen():
    optimizer = sgd()
    optimizer.add_param_group({"params": [parameter()], "lr": 0.0})
    run = budgeted.attach(optimizer, "2 steps")
    optimizer.step()
    optimizer.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    run.close()
    with pytest.raises(ScheduleError, match="is 0 in every parameter group; construct the optimizer anew"):
        budgeted.attach(optimizer, "2 steps")


def test_over_draws_nothing_after_the_end():
    run = budgeted.attach(optimizer := sgd(), "1 steps")
    optimizer.step()

    def loader():
        raise AssertionError("drawn from")
        yield

    assert list(run.over(loader())) == []


def test_an_extension_within_the_warm_up_must_leave_room_to_decay():
    run = budgeted.attach(optimizer := sgd(), "100 steps", warmup="50 steps")
    optimizer.step()
    with pytest.raises(BudgetError, match="warm-up '50 steps' leaves nothing of budget '20 steps'"):
        run.extend("20 steps")
    run.extend("60 steps")


@pytest.mark.parametrize("state", [{"foo": 1}, {"schema": 99}, None])
def test_a_foreign_state_is_refused(state):
    with pytest.raises(BudgetError, match="not a state of a run, or one of a newer version"):
        budgeted.attach(sgd(), "2 steps").load_state_dict(state)


def test_a_state_that_cannot_be_taken_leaves_the_run_as_it_was():
    ended = budgeted.attach(optimizer := sgd(), "1 steps")
    optimizer.step()
    run = budgeted.attach(sgd(), "10 steps")
    with pytest.raises(BudgetError, match="'1 steps' has ended"):
        run.load_state_dict(ended.state_dict(), change=True)
    pair = budgeted.attach([sgd(), sgd()], "10 steps")
    with pytest.raises(ScheduleError, match="the state is of 2 optimizers, and this run has 1"):
        run.load_state_dict(pair.state_dict())
    assert (run.done, run.progress, str(run.budget)) == (False, 0.0, "10 steps")
