from __future__ import annotations

import math
import pickle
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted import (
    HTD,
    REX,
    SGDR,
    WSD,
    Const,
    Cosine,
    Exp,
    Floor,
    InverseSqrt,
    Join,
    Linear,
    OneCycle,
    Over,
    Plateau,
    Points,
    Poly,
    Repeat,
    Schedule,
    ScheduleError,
    Step,
    Warmup,
    With,
    schedule,
)
from budgeted.core.budget import Amount, Cap
from budgeted.core.convert import Sampled
from budgeted.core.ledger import Ledger
from budgeted.core.schedule import PlateauState

# Each schedule with its factor at p = 0 and p = 1.
ENDS = {
    Const(): (1, 1),
    Linear(): (1, 0),
    Poly(): (1, 0),
    Poly(2.0): (1, 0),
    Cosine(): (1, 0),
    Cosine(eta=0.1): (1, 0.1),
    HTD(): (0.9999938558253978, 0.0024726231566347743),
    HTD(eta=0.5): (0.9999969279126989, 0.5012363115783174),
    Step.even(1): (1, 0.1),
    Step.even(3): (1, 0.1**3),
    Step((2 / 3, 8 / 9), gamma=0.5): (1, 0.25),
    Exp(0.97): (1, 0.00226124100999578),
    SGDR(): (1, 0.777785116509801),  # 50 epochs into a period of 160
    OneCycle(): (0.04, 4e-6),
    WSD(): (1, 0),
    WSD(shape="1-sqrt"): (1, 0),
    InverseSqrt(): (1, 1 / math.sqrt(21)),
    REX(): (1, 0),
    Points(((0, 0.5), (0.3, 1), (1, 0.25))): (0.5, 0.25),
    Sampled((1, 0.5, 0.2)): (1, 0.2),
    Warmup(Linear(), Amount(10, "%")): (0, 0),
    Warmup(Linear(), Amount(500, "steps")): (1, 0),  # p begins when the warm-up is over
    Join((Const(), Linear()), (0.8,)): (1, 0),
    Floor(Linear(), 0.1): (1, 0.1),
    Repeat(Cosine(), 3): (1, 0),
    Over(Linear(), Amount(200, "ep")): (1, 0),
    With(Linear(), (("weight_decay", Cosine()),)): (1, 0),
}
everyone = pytest.mark.parametrize("each", ENDS, ids=str)
progress = st.floats(0, 1)


@everyone
def test_ends(each):
    assert (each(0.0), each(1.0)) == pytest.approx(ENDS[each], rel=1e-7)
    assert (each(0), each(1)) == (each(0.0), each(1.0))


@everyone
@pytest.mark.parametrize("p", [-1e-12, 1 + 1e-12, -1, 2, math.nan, math.inf, -math.inf])
def test_outside_progress_raises(each, p):
    with pytest.raises(ScheduleError, match="a schedule is defined for progress 0 to 1, and was asked at"):
        each(p)


@everyone
@given(p=progress)
def test_factors_are_finite_and_not_negative(each, p):
    assert 0 <= each(p) <= 1 + 1e-12
    assert type(each(p)) is float


@everyone
def test_schedules_are_frozen_values(each):
    twin = pickle.loads(pickle.dumps(each))
    assert twin == each
    assert hash(twin) == hash(each)
    assert twin(0.3) == each(0.3)
    assert sum(each == other for other in ENDS) == 1
    with pytest.raises((AttributeError, TypeError), match=r"cannot assign|super\(type|no attribute|read-only"):
        each.name = "other"
    with pytest.raises((AttributeError, TypeError), match=r"cannot assign|super\(type|no attribute"):
        each.eta = 0.3


@everyone
@pytest.mark.parametrize("total", [1, 2, 3, 7, 1000])
def test_update_k_of_T_runs_at_k_over_T(each, total):
    ledger = Ledger([Cap("steps", total, None)])
    factors = []
    while not ledger.done:
        factors.append(each(ledger.progress))
        ledger.update()
    assert factors == [each(k / total) for k in range(total)]
    assert each(ledger.progress) == each(1.0)


# Written out from Li et al., section 3.2 and table 2, for p = 0, 0.1, ..., 1, by a calculator of 30 digits.
GOLDEN = {
    "const": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "exp.95": [1, 0.358485922408542, 0.128512156565103, 0.0460697989869521, 0.0165153743850136, 0.00592052922033403, 0.00212242637869817, 0.000760859978111836, 0.000272757591077165, 9.77797566312293e-5, 3.5052666248829e-5],
    "exp.97": [1, 0.543794342926747, 0.295712287399133, 0.160806669021577, 0.0874457569188273, 0.0475525079254058, 0.025858784801815, 0.0140618608901871, 0.00764676040310663, 0.00415826504892564, 0.00226124100999578],
    "exp.99": [1, 0.817906937597231, 0.668971758569681, 0.547156642390761, 0.447523213763811, 0.36603234127323, 0.299380391312332, 0.24486529903493, 0.20027702685749, 0.163807969708088, 0.133979674857962],
    "step-d1": [1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
    "step-d2": [1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01],
    "step-d3": [1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001, 0.001],
    "htd": [0.999993855825398, 0.999962831062897, 0.999775183229767, 0.998641480049571, 0.99183742884684, 0.952574126822433, 0.768524783499018, 0.354343693774205, 0.0831726964939224, 0.0147740316932731, 0.00247262315663477],
    "cosine": [1, 0.975528258147577, 0.904508497187474, 0.793892626146237, 0.654508497187474, 0.5, 0.345491502812526, 0.206107373853763, 0.0954915028125263, 0.0244717418524232, 0],
    "poly": [1, 0.909532576082962, 0.818052146050858, 0.72541784693722, 0.631445867489355, 0.535886731268147, 0.438383290554087, 0.33838346190165, 0.234923788617604, 0.125892541179417, 0],
    "linear": [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0],
    "sgdr": [1, 0.5, 0.853553390593274, 0.146446609406726, 0.961939766255643, 0.691341716182545, 0.308658283817455, 0.0380602337443566, 0.990392640201615, 0.915734806151273, 0.777785116509801],
    "sgdr-r1": [1, 0.904508497187474, 0.654508497187474, 0.345491502812526, 0.0954915028125263, 1, 0.904508497187474, 0.654508497187474, 0.345491502812526, 0.0954915028125263, 0],
    "sgdr-r2": [1, 0.793892626146237, 0.345491502812526, 0.0244717418524232, 0.904508497187474, 0.5, 0.0954915028125263, 0.975528258147577, 0.654508497187474, 0.206107373853763, 0],
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_the_papers_schedules(name):
    trace = [schedule(name)(k / 10) for k in range(11)]
    assert trace == pytest.approx(GOLDEN[name], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "below", "at"),
    [
        ("step-d1", [1], [1 / 2]), ("step-d2", [1, 0.1], [1 / 3, 2 / 3]), ("step-d3", [1, 0.1, 0.01], [1 / 4, 1 / 2, 3 / 4]),
        ("step(2/3, 8/9)", [1, 0.1], [2 / 3, 8 / 9]), ("step(1/2, 5/6)", [1, 0.1], [1 / 2, 5 / 6]),
    ],
)  # fmt: skip
def test_steps_drop_exactly_at_their_milestones(name, below, at):
    decay = schedule(name)
    assert [decay(math.nextafter(p, 0)) for p in at] == pytest.approx(below)
    assert [decay(p) for p in at] == pytest.approx([factor / 10 for factor in below])


def test_sgdr_restarts_at_10_30_70_and_150_of_200_epochs():
    just_before = [SGDR()(epoch / 200 - 1e-9) for epoch in (10, 30, 70, 150)]
    assert just_before == pytest.approx([0, 0, 0, 0], abs=1e-12)
    assert [SGDR()(epoch / 200) for epoch in (10, 30, 70, 150)] == pytest.approx([1, 1, 1, 1], abs=1e-12)


# Shapes beyond the paper


def test_wsd_holds_then_decays():
    assert [WSD(0.5)(p) for p in (0.2, 0.5, 0.75, 1)] == [1, 1, 0.5, 0]
    assert [WSD(0.5, "1-sqrt")(p) for p in (0.2, 0.5, 0.625, 1)] == [1, 1, 0.5, 0]


def test_rex():
    assert [REX()(p) for p in (0, 0.5, 1)] == [1, 2 / 3, 0]


def test_points_are_met_and_joined_by_lines():
    line = Points(((0, 1), (0.25, 0.4), (1, 0.1)))
    assert [line(p) for p in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx([1, 0.7, 0.4, 0.25, 0.1])
    assert (line(0.25), line(1)) == (0.4, 0.1)


def test_one_cycle_drives_the_momentum_the_other_way():
    momentum = OneCycle(peak=0.25).drives["momentum"]
    assert [momentum(p) for p in (0, 0.25, 1)] == pytest.approx([1, 0.85 / 0.95, 1])
    assert OneCycle(momentum=1).drives == {}
    assert Linear().drives == {}


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Poly(0), "poly: power must be positive and finite, and is 0"),
        (lambda: Cosine(1.5), "cosine: eta is the lowest factor, 0 to 1, and is 1.5"),
        (lambda: HTD(3, -6), "htd: lower must be below upper, both finite, and they are 3 and -6"),
        (lambda: HTD(eta=-0.1), "htd: eta is the lowest factor"),
        (lambda: HTD(lower=-math.inf), "both finite, and they are -inf and 3.0"),
        (lambda: Step(()), "step: milestones are shares of the budget between 0 and 1, rising, and are \\(\\)"),
        (lambda: Step((0.5, 0.5)), "step: milestones are shares"),
        (lambda: Step((30, 60)), "step: milestones are shares of the budget between 0 and 1"),
        (lambda: Step((0.5,), gamma=0), "step: gamma must be positive and finite, and is 0"),
        (lambda: Exp(1.1), "exp: gamma is the factor of one epoch, above 0 and at most 1, and is 1.1"),
        (lambda: Exp(0.9, epochs=math.inf), "exp: epochs must be positive and finite"),
        (lambda: SGDR(first=0), "sgdr: first must be positive and mult at least 1: 0, 2.0"),
        (lambda: SGDR(mult=0.5), "sgdr: first must be positive and mult at least 1"),
        (lambda: SGDR(epochs=0), "sgdr: epochs must be positive and finite"),
        (lambda: OneCycle(peak=1), "one-cycle: peak is a share of the budget between 0 and 1, and is 1"),
        (lambda: OneCycle(div=0.5), "one-cycle: div and final_div must be at least 1"),
        (lambda: OneCycle(momentum=0), "one-cycle: momentum is a factor above 0 and at most 1"),
        (lambda: WSD(0), "wsd: decay is a share of the budget above 0 and at most 1, and is 0"),
        (lambda: WSD(shape="round"), "wsd: shape is linear or 1-sqrt, and is 'round'"),
        (lambda: InverseSqrt(0), "inverse-sqrt: timescale must be positive and finite, and is 0"),
        (lambda: Points(((0, 1),)), "points: progress must rise from 0 to 1, and is \\[0.0\\]"),
        (lambda: Points(((0, 1), (0.9, 0))), "points: progress must rise from 0 to 1"),
        (lambda: Points(((0, 1), (1, -1))), "points: factors must be at least zero and finite"),
        (lambda: Points(((0, 1), (1, math.nan))), "points: factors must be at least zero and finite"),
        (lambda: Plateau(gamma=1), "plateau: gamma is a factor between 0 and 1, and is 1"),
        (lambda: Plateau(patience=-1), "plateau: patience is a whole number, and is -1"),
        (lambda: Plateau(patience=math.inf), "plateau: patience is a whole number, and is inf"),
        (lambda: Plateau(threshold=1), "plateau: threshold is a share from 0 to below 1, and is 1"),
        (lambda: Plateau(mode="best"), "plateau: mode is max or min, and is 'best'"),
    ],
)
def test_schedules_check_their_arguments(build, sentence):
    with pytest.raises(ScheduleError, match=sentence):
        build()


# The same curves in other libraries, over whole runs. T updates; update k runs at s(k/T).

T = 120


def trace(each, total=T):
    return [each(k / total) for k in range(total)]


def torch_trace(build, updates=T, lr=0.4, key="lr", **sgd):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, **sgd)
    scheduler, values = build(torch.optim.lr_scheduler, optimizer), []
    for _ in range(updates):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("each", "build"),
    [
        (Linear(), lambda s, o: s.LinearLR(o, start_factor=1, end_factor=0, total_iters=T)),
        (Floor(Linear(), 0.1), lambda s, o: s.LinearLR(o, start_factor=1, end_factor=0.1, total_iters=T)),
        (Poly(), lambda s, o: s.PolynomialLR(o, total_iters=T, power=0.9)),
        (Poly(2), lambda s, o: s.PolynomialLR(o, total_iters=T, power=2)),
        (Cosine(), lambda s, o: s.CosineAnnealingLR(o, T_max=T)),
        (Cosine(0.1), lambda s, o: s.CosineAnnealingLR(o, T_max=T, eta_min=0.04)),
        (Step((1 / 3, 2 / 3)), lambda s, o: s.MultiStepLR(o, [T // 3, 2 * T // 3])),
        (Step.even(3, gamma=0.5), lambda s, o: s.StepLR(o, T // 4, gamma=0.5)),
        (Exp(0.97, epochs=T), lambda s, o: s.ExponentialLR(o, 0.97)),
        (SGDR(10, 2, T), lambda s, o: s.CosineAnnealingWarmRestarts(o, 10, T_mult=2)),
        (Repeat(Cosine(), 3), lambda s, o: s.CosineAnnealingWarmRestarts(o, T // 3)),
        (
            Warmup(Cosine(), Amount(10, "%"), start=0.25),
            lambda s, o: s.SequentialLR(
                o, [s.LinearLR(o, 0.25, total_iters=T // 10), s.CosineAnnealingLR(o, T - T // 10)], [T // 10]
            ),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Schedule) else "torch",  # a function's text has its address
)
def test_torch(each, build):
    assert trace(each) == pytest.approx([rate / 0.4 for rate in torch_trace(build)], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("key", ["lr", "momentum"])
def test_torchs_one_cycle(key):
    """Torch's ends at its last update, so T + 1 of its updates span our budget; and its peak is one update early."""
    share, total = 0.3, T + 1
    theirs = torch_trace(
        lambda s, o: s.OneCycleLR(o, max_lr=0.4, total_steps=total, pct_start=share), total - 1, momentum=0.9, key=key
    )
    each = OneCycle(peak=(share * total - 1) / (total - 1))
    ours = trace(each if key == "lr" else each.drives["momentum"], total - 1)
    base = 0.4 if key == "lr" else 0.95
    assert ours == pytest.approx([value / base for value in theirs], rel=1e-9)


@given(
    st.lists(st.floats(-10, 10) | st.just(math.nan), max_size=60),
    st.integers(0, 4), st.sampled_from([0, 1e-4, 0.3]), st.sampled_from(["min", "max"]),
)  # fmt: skip
def test_torchs_plateau(figures, patience, threshold, mode):
    torch = pytest.importorskip("torch")
    # Where the best figure is below 0, torch moves its threshold the wrong way: only there do we differ.
    figures = [abs(figure) for figure in figures]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode, factor=0.5, patience=patience, threshold=threshold, eps=0
    )
    rule, state = Plateau(0.5, patience, threshold, mode), PlateauState()
    for figure in figures:
        state = rule.report(state, figure)
        theirs.step(figure)
        assert state.factor == optimizer.param_groups[0]["lr"]


def test_plateau_below_zero():
    """A loss that falls from -1 to -1.2 got better, and one that rises by less than the threshold did not."""
    rule = Plateau(patience=0, mode="min")
    state = rule.report(rule.report(PlateauState(), -1.0), -1.2)
    assert (state.best, state.factor) == (-1.2, 1.0)
    assert rule.report(state, -1.19999).factor == 0.1


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf])
def test_plateau_recovers_from_a_figure_that_is_none(nothing, mode):
    """As the best so far it could never be beaten."""
    rule = Plateau(patience=0, mode=mode)
    state = rule.report(PlateauState(), nothing)
    assert state == PlateauState(0.1, None, 0)
    assert rule.report(state, 3.0) == PlateauState(0.1, 3.0, 0)


def test_optax():
    optax = pytest.importorskip("optax")
    pairs = [
        (Linear(), optax.linear_schedule(1, 0, T)),
        (Cosine(0.1), optax.cosine_decay_schedule(1, T, alpha=0.1)),
        (Poly(3), optax.polynomial_schedule(1, 0, 3, T)),
        (Exp(0.97, epochs=T), optax.exponential_decay(1, 1, 0.97)),
        (Step.even(2), optax.piecewise_constant_schedule(1, {T // 3: 0.1, 2 * T // 3: 0.1})),
        (
            Join((Const(), Linear()), (0.75,)),
            optax.join_schedules([optax.constant_schedule(1), optax.linear_schedule(1, 0, T // 4)], [T * 3 // 4]),
        ),
        (
            Warmup(Cosine(), Amount(10, "%")),
            optax.warmup_cosine_decay_schedule(0, 1, warmup_steps=T // 10, decay_steps=T),
        ),
    ]
    for ours, theirs in pairs:
        assert trace(ours) == pytest.approx([float(theirs(k)) for k in range(T)], rel=1e-4, abs=2e-6), str(ours)


def test_fvcore():
    """Its schedulers are functions of progress too, open at 1."""
    theirs = pytest.importorskip("fvcore.common.param_scheduler")
    pairs = [
        (Const(), theirs.ConstantParamScheduler(1)),
        (Linear(), theirs.LinearParamScheduler(1, 0)),
        (Cosine(0.1), theirs.CosineParamScheduler(1, 0.1)),
        (Poly(0.9), theirs.PolynomialDecayParamScheduler(1, 0.9)),
        (Exp(0.97), theirs.ExponentialParamScheduler(1, 0.97**200)),
        (Step((2 / 3, 8 / 9)), theirs.MultiStepParamScheduler([1, 0.1, 0.01], num_updates=90, milestones=[60, 80])),
        (Step.even(3), theirs.StepParamScheduler(4, [1, 0.1, 0.01, 0.001])),
        (
            Join((Const(), Cosine()), (0.25,)),
            theirs.CompositeParamScheduler(
                [theirs.ConstantParamScheduler(1), theirs.CosineParamScheduler(1, 0)], [0.25, 0.75], ["rescaled"] * 2
            ),
        ),
    ]
    for ours, theirs_ in pairs:
        assert [ours(k / T) for k in range(T)] == pytest.approx([theirs_(k / T) for k in range(T)], abs=1e-12), str(
            ours
        )


def timm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        return pytest.importorskip("timm.scheduler")


@pytest.mark.parametrize(
    ("each", "name", "arguments"),
    [(HTD(), "TanhLRScheduler", {"lb": -6.0, "ub": 3.0}), (Poly(), "PolyLRScheduler", {"power": 0.9})],
)
def test_timm(each, name, arguments):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    theirs = getattr(timm(), name)(optimizer, t_initial=T, lr_min=0.0, **arguments)
    factors = [theirs._get_lr(k)[0] / 0.4 for k in range(T)]
    assert trace(each) == pytest.approx(factors, rel=1e-9)


def warmed(each, warmup, total):
    """Factors of a run whose warm-up is a first phase of absolute length, the ledger in charge."""
    whole = Warmup(each, Amount(warmup, "steps"))
    ledger, factors = Ledger([Cap("steps", total, None)], warmup=[Cap("steps", warmup, None)]), []
    while not ledger.done:
        w = ledger.warmup_progress
        factors.append(whole(ledger.progress) if w is None else whole.ramp(w))
        ledger.update()
    return factors


def test_transformers():
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        theirs = pytest.importorskip("transformers.optimization")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    pairs = [
        (Linear(), theirs.get_linear_schedule_with_warmup(optimizer, 20, T)),
        (Cosine(), theirs.get_cosine_schedule_with_warmup(optimizer, 20, T)),
        (InverseSqrt(30 / (T - 20)), theirs.get_inverse_sqrt_schedule(optimizer, 20, timescale=30)),
        (
            WSD(0.4),
            theirs.get_wsd_schedule(optimizer, 20, 40, num_training_steps=T, decay_type="linear", min_lr_ratio=0),
        ),
    ]
    for ours, scheduler in pairs:
        factors = [scheduler.lr_lambdas[0](k) for k in range(T)]
        assert warmed(ours, 20, T) == pytest.approx(factors, rel=1e-9, abs=1e-12), str(ours)
