from __future__ import annotations

import copy
import math
import os
import pickle
import warnings

import pytest

from budgeted import Cosine, Linear, Plateau, ScheduleError, Step, Warmup, convert
from budgeted.core.budget import Amount
from budgeted.core.convert import Sampled

torch = pytest.importorskip("torch")
lrs = torch.optim.lr_scheduler

T = 90
ELSEWHERE = [(k + 0.5) / T for k in range(T)]  # progress between two updates of the source


def optimizer(lr=0.1, groups=1, kind=torch.optim.SGD, **settings):
    weights = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr * 2**g} for g in range(groups)]
    return kind(weights, lr=lr, **settings)


def stepped(scheduler, updates, key="lr"):
    """The rates of so many updates and the one after them, by really stepping a scheduler."""
    driven, rates = scheduler.optimizer, []
    for _ in range(updates):
        rates.append(driven.param_groups[0][key])
        driven.step()
        scheduler.step()
    return [*rates, driven.param_groups[0][key]]


# Functions of time


def test_a_function_of_time_is_asked_at_p_T0():
    asked = []
    converted = convert(lambda t: asked.append(t) or 1 - t / 250, 200)
    asked.clear()
    assert [converted(p) for p in (0, 0.123, 1)] == [1, 1 - 24.6 / 250, 1 - 200 / 250]
    assert asked == [0, 24.6, 200]


def test_a_base_divides_the_rates():
    converted = convert(lambda t: 0.4 * 0.9**t, 10, base=0.4)
    assert [converted(p) for p in (0, 0.55, 1)] == pytest.approx([1, 0.9**5.5, 0.9**10], rel=1e-14)


@pytest.mark.parametrize("horizon", [200, 0.5, 33.3])
def test_a_horizon_need_not_be_whole_for_a_function(horizon):
    assert convert(lambda t: 1 - t / 1000, horizon)(1.0) == 1 - horizon / 1000


def test_a_sequence_spans_one_less_than_its_length():
    assert [convert([1.0, 0.5, 0.2])(p) for p in (0, 0.25, 0.5, 1)] == [1, 0.75, 0.5, 0.2]
    assert convert([0.4, 0.2], base=0.4)(1.0) == 0.5
    with pytest.raises(ScheduleError, match="3 rates span a horizon of 2, not 3"):
        convert([1.0, 0.5, 0.2], 3)


def test_a_warmup_stays_as_many_steps_at_every_budget():
    def rate(t):
        return t / 500 if t < 500 else 1 - (t - 500) / 1500

    converted = convert(rate, 2000, warmup=500)
    assert converted.length == Amount(500.0, "steps")
    assert [converted.ramp(w) for w in (0, 0.25, 1)] == [0, 0.25, 1]
    assert [converted(p) for p in (0, 0.25, 1)] == [1, 0.75, 0]


# torch


def test_milestones_are_never_rounded():
    """Li et al., section 3.2: 30 and 60 of 90 epochs are 1/3 and 2/3."""
    converted = convert(lrs.MultiStepLR(optimizer(), [30, 60]), 90)
    assert [converted(math.nextafter(p, 0)) for p in (1 / 3, 2 / 3)] == pytest.approx([1, 0.1], rel=1e-12)
    assert [converted(p) for p in (1 / 3, 2 / 3, 1)] == pytest.approx([0.1, 0.01, 0.01], rel=1e-12)
    for total in (1, 7, 100, 1000):
        assert [converted(k / total) for k in range(total)] == pytest.approx(
            [Step.even(2)(k / total) for k in range(total)]
        )


def test_an_exponential_stays_one_between_the_epochs():
    """Li et al., section 3.2: 0.99^t for 200 epochs becomes (0.99^200)^p."""
    converted = convert(lrs.ExponentialLR(optimizer(), 0.99), 200)
    for k in range(1001):
        assert converted(k / 1000) == pytest.approx((0.99**200) ** (k / 1000), rel=1e-12)


SCHEDULERS = {
    "linear": (lambda o: lrs.LinearLR(o, 1.0, 0.0, T), None),
    "polynomial": (lambda o: lrs.PolynomialLR(o, T, 0.9), None),
    "cosine": (lambda o: lrs.CosineAnnealingLR(o, T), None),
    "steps": (lambda o: lrs.StepLR(o, 17), T),
    "lambda": (lambda o: lrs.LambdaLR(o, lambda t: 1 / (1 + t)), T),
    "multiplicative": (lambda o: lrs.MultiplicativeLR(o, lambda _: 0.98), T),
    "constant, then full": (lambda o: lrs.ConstantLR(o, 0.5, 10), T),
    "warm restarts": (lambda o: lrs.CosineAnnealingWarmRestarts(o, 10, 2), T),
    "sequential": (
        lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, 1, 9), lrs.ExponentialLR(o, 0.9)], [9]), T,
    ),
    "chained": (lambda o: lrs.ChainedScheduler([lrs.ExponentialLR(o, 0.97), lrs.MultiStepLR(o, [45])]), T),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_converted_scheduler_is_met_at_its_own_updates(name, groups):
    build, horizon = SCHEDULERS[name]
    converted = convert(build(optimizer(groups=groups)), horizon)
    rates = stepped(build(optimizer()), T)
    assert [converted(k / T) for k in range(T + 1)] == pytest.approx(
        [rate / 0.1 for rate in rates], rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("name", SCHEDULERS)
def test_between_its_updates_it_stays_between_their_factors(name):
    build, horizon = SCHEDULERS[name]
    converted = convert(build(optimizer()), horizon)
    for k, p in enumerate(ELSEWHERE):
        low, high = sorted((converted(k / T), converted((k + 1) / T)))
        assert low - 1e-12 <= converted(p) <= high + 1e-12


def test_a_cosine_is_followed_between_its_updates():
    converted = convert(lrs.CosineAnnealingLR(optimizer(), T))
    assert [converted(p) for p in ELSEWHERE] == pytest.approx([Cosine()(p) for p in ELSEWHERE], abs=2e-4)


def test_a_restart_happens_at_once():
    """Epoch 10 of 90: held low just before, high from there on, no ramp between."""
    converted = convert(lrs.CosineAnnealingWarmRestarts(optimizer(), 10, 2), T)
    assert converted(10 / T) == pytest.approx(1)
    assert converted(math.nextafter(10 / T, 0)) < 0.03


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_one_cycle_drives_rate_and_momentum(kind):
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    key = "momentum" if settings else "betas"
    converted = convert(lrs.OneCycleLR(optimizer(kind=kind, **settings), max_lr=0.4, total_steps=T + 1))
    rates = stepped(lrs.OneCycleLR(optimizer(kind=kind, **settings), max_lr=0.4, total_steps=T + 1), T)
    momenta = stepped(lrs.OneCycleLR(optimizer(kind=kind, **settings), max_lr=0.4, total_steps=T + 1), T, key)
    momenta = [m if settings else m[0] for m in momenta]
    at = [k / T for k in range(T + 1)]
    assert [converted(p) for p in at] == pytest.approx([rate / 0.4 for rate in rates], rel=1e-9)
    assert [converted.drives["momentum"](p) for p in at] == pytest.approx([m / 0.95 for m in momenta], rel=1e-9)


def test_the_scheduler_and_its_optimizer_are_left_untouched():
    driven = optimizer(momentum=0.9)
    scheduler = lrs.OneCycleLR(driven, max_lr=0.4, total_steps=T + 1)
    before = copy.deepcopy((driven.state_dict(), {k: v for k, v in vars(scheduler).items() if k != "optimizer"}))
    step, weight = driven.step, driven.param_groups[0]["params"][0]
    convert(scheduler)
    after = driven.state_dict(), {k: v for k, v in vars(scheduler).items() if k != "optimizer"}
    assert repr(after) == repr(before)
    assert (driven.step, driven.param_groups[0]["params"][0]) == (step, weight)
    assert scheduler.optimizer is driven


def test_converting_warns_of_nothing_and_changes_no_filter():
    filters = list(warnings.filters)
    convert(lrs.StepLR(optimizer(), 30), T)
    assert warnings.filters == filters


def test_a_torch_warmup_of_500_steps_stays_500_steps():
    driven = optimizer()
    warm = lrs.SequentialLR(driven, [lrs.LinearLR(driven, 0.01, 1, 500), lrs.LinearLR(driven, 1, 0, 1500)], [500])
    converted = convert(warm, 2000, warmup=500)
    assert isinstance(converted, Warmup)
    assert converted.absolute == Amount(500.0, "steps")
    assert [converted.ramp(w) for w in (0, 0.5, 1)] == pytest.approx([0.01, 0.505, 1])
    assert [converted(p) for p in (0, 0.3, 1)] == pytest.approx([1, 0.7, 0], abs=1e-12)


def test_a_conversion_is_a_value():
    first, second = (convert(lrs.StepLR(optimizer(), 30), T) for _ in range(2))
    assert first == second == pickle.loads(pickle.dumps(first))
    assert hash(first) == hash(second)


# Other libraries


def test_optax():
    optax = pytest.importorskip("optax")
    theirs = optax.warmup_cosine_decay_schedule(0.0, 0.4, 10, T, end_value=0.004)
    converted = convert(theirs, T, base=0.4)
    assert [converted(k / T) for k in range(T + 1)] == pytest.approx([float(theirs(k)) / 0.4 for k in range(T + 1)])
    with pytest.raises(
        ScheduleError, match=r"its largest value is 0.4, .*; pass base=0.4 and give the optimizer that rate"
    ):
        convert(theirs, T)


def test_keras(monkeypatch):
    monkeypatch.setitem(os.environ, "KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
    keras = pytest.importorskip("keras")
    theirs = keras.optimizers.schedules.CosineDecay(0.4, T, alpha=0.1)
    converted = convert(theirs, T, base=0.4)
    assert [converted(k / T) for k in range(T + 1)] == pytest.approx(
        [Cosine(0.1)(k / T) for k in range(T + 1)], rel=1e-5
    )


# Refusals


@pytest.mark.parametrize(
    ("source", "arguments", "sentence"),
    [
        (Plateau(), {}, "drop-on-plateau cannot be converted: it follows the loss, not time; use schedule='plateau' as it is"),
        (lambda: lrs.ReduceLROnPlateau(optimizer()), {"horizon": T}, "drop-on-plateau cannot be converted"),
        (Linear(), {"horizon": T}, "'linear' is a function of progress already and needs no conversion"),
        (lambda: lrs.StepLR(optimizer(), 30), {}, "the horizon of this StepLR is unknown; pass the steps or epochs it was written for"),
        (lambda: math.cos, {}, "the horizon of this builtin_function_or_method is unknown"),
        (lambda: lrs.StepLR(optimizer(), 30), {"horizon": math.inf}, "a horizon must be positive and finite, and is inf"),
        (lambda: lrs.StepLR(optimizer(), 30), {"horizon": math.nan}, "a horizon must be positive and finite, and is nan"),
        (lambda: lrs.StepLR(optimizer(), 30), {"horizon": 0}, "a horizon must be positive and finite, and is 0"),
        (lambda: lrs.StepLR(optimizer(), 30), {"horizon": 2.5}, "needs a whole horizon, and it is 2.5"),
        (lambda: lrs.StepLR(optimizer(), 30), {"horizon": 90, "warmup": 90}, "a warm-up of 90 steps leaves nothing of a horizon of 90"),
        (lambda: lrs.OneCycleLR(optimizer(momentum=0.9), 0.1, 10), {"horizon": 30}, "this OneCycleLR cannot be stepped 30 times"),
        (lambda: lrs.OneCycleLR(optimizer(momentum=0.9), 0.1, 10), {"warmup": 3}, "drives the momentum too cannot be split"),
        (lambda: lambda _: 0.4, {"horizon": T}, "these are rates, not factors of a base rate; pass base=0.4 and give the optimizer that rate"),
        (lambda: lambda _: 0.4, {"horizon": T, "base": 0}, "the base rate must be positive and finite, and is 0"),
        (lambda: lambda _: math.inf, {"horizon": T, "base": 1}, "the schedule is not finite over its whole horizon"),
        (lambda: [1.0], {}, "1 rates span a horizon of 0"),
        (lambda: 3.0, {"horizon": T}, "cannot convert a float: give a function of time, or a torch, optax or Keras schedule"),
        (lambda: lrs.LambdaLR(optimizer(groups=2), [lambda _: 1.0, lambda t: 0.9**t]), {"horizon": T},
         "its parameter groups follow different curves; convert one scheduler a group"),
        # One lowest rate for all is another factor for each
        (lambda: lrs.CosineAnnealingLR(optimizer(groups=2), T, eta_min=0.01), {}, "its parameter groups follow different curves"),
    ],
)  # fmt: skip
def test_refusals(source, arguments, sentence):
    source = source() if callable(source) and not isinstance(source, Plateau | Linear) else source
    with pytest.raises(ScheduleError, match=sentence):
        convert(source, **arguments)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_that_has_been_stepped_is_refused(name):
    scheduler = SCHEDULERS[name][0](optimizer())
    stepped(scheduler, 3)
    with pytest.raises(ScheduleError, match="the scheduler has taken 3 steps already; convert a fresh one"):
        convert(scheduler, T)


# Samples


@pytest.mark.parametrize("intervals", [1, 2, 3, 7, 90, 1000])
def test_samples_are_met_to_the_last_bit(intervals):
    values = tuple(math.exp(-3 * k / intervals) + 0.1 * (k % 3) for k in range(intervals + 1))
    assert [Sampled(values)(k / intervals) for k in range(intervals + 1)] == list(values)


@pytest.mark.parametrize(
    ("values", "p", "factor"),
    [
        ((1, 0), 0.25, 0.75), ((1, 0.5, 0), 0.25, 0.75), ((1, 1, 1), 0.4, 1), ((0, 0, 0), 0.4, 0),
        ((1, 0.5, 0.25), 0.25, math.sqrt(0.5)), ((1, 1, 0.1, 0.1), 0.5, 1), ((1, 1, 0.1, 0.1), 0.7, 0.1),
        ((0.1, 0.1, 1, 1), 0.6, 0.1),
    ],
)  # fmt: skip
def test_between_samples(values, p, factor):
    assert Sampled(values)(p) == pytest.approx(factor, rel=1e-14)


@pytest.mark.parametrize(
    ("values", "sentence"), [((1,), "at least two samples are needed"), ((1, math.nan), "every factor must be finite")]
)
def test_samples_check_themselves(values, sentence):
    with pytest.raises(ScheduleError, match=sentence):
        Sampled(values)
