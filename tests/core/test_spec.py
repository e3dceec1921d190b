from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted import (
    HTD,
    REX,
    SGDR,
    WSD,
    BudgetedError,
    Const,
    Cooldown,
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
    ScheduleError,
    Step,
    Warmup,
    With,
    schedule,
)
from budgeted.core.budget import Amount
from budgeted.core.convert import Sampled
from budgeted.core.spec import BEYOND, PAPER, schedule_dict

# Fractions, decimals and numbers of all digits
shares = st.builds(lambda a, b: min(a, b) / (a + b), st.integers(1, 99), st.integers(1, 99)) | st.floats(1e-6, 1 - 1e-6)
unit = st.sampled_from([0.0, 1.0]) | shares
rising = st.lists(shares, min_size=1, max_size=5, unique=True).map(lambda edges: tuple(sorted(edges)))
positive = st.floats(1e-9, 1e9)
lengths = st.builds(Amount, positive, st.sampled_from(["ep", "s", "tokens", "FLOP"])) | st.builds(
    Amount, st.integers(1, 10**9).map(float), st.just("steps")
)
factors = st.floats(0, 1e6)

simple = st.one_of(
    st.sampled_from([Const(), Linear(), REX()]),
    st.builds(Poly, positive),
    st.builds(Cosine, unit),
    st.builds(HTD, st.floats(-9, 0), st.floats(1, 9), unit),
    st.builds(Step, rising, positive),
    st.builds(Step.even, st.integers(1, 120), st.sampled_from([0.1, 0.2])),
    st.builds(Exp, shares, st.sampled_from([200.0]) | positive),
    st.builds(SGDR, positive, st.floats(1, 5), positive),
    st.builds(OneCycle, shares, st.floats(1, 1e5), st.floats(1, 1e5), st.just(1.0)),
    st.builds(WSD, shares, st.sampled_from(["linear", "1-sqrt"])),
    st.builds(InverseSqrt, positive),
    st.builds(lambda edges, f, a, b: Points(((0, a), *((p, f) for p in edges), (1, b))), rising, factors, factors, factors),
    st.builds(Sampled, st.lists(st.floats(0, 10), min_size=2, max_size=9).map(tuple)),
)  # fmt: skip
shapes = st.sampled_from([Linear(), Cosine(0.1), Poly(2), WSD(1, "1-sqrt"), HTD(), Step((0.5,)), Floor(REX(), 0.1)])
pure = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(Floor, inner, unit),
        st.builds(Repeat, inner, st.integers(1, 120)),
        st.builds(Cooldown, inner, unit.filter(lambda start: start < 1), shapes),
        st.builds(Warmup, inner, st.builds(Amount, st.floats(0.01, 99), st.just("%")), unit, st.none() | inner),
        st.builds(lambda a, b, c, edge: Join((a, b, c), (edge / 2, edge)), inner, inner, inner, shares),
    ),
    max_leaves=4,
)
driven = pure | st.builds(
    lambda inner, curves: With(inner, tuple(curves.items())),
    pure | st.builds(OneCycle),
    st.dictionaries(st.sampled_from(["weight_decay", "momentum", "beta2"]), pure, min_size=1),
)
absolute = st.builds(Warmup, driven, lengths, unit, st.none() | pure)
whole = st.one_of(
    driven,
    absolute,
    st.builds(Cooldown, driven | absolute, shares, shapes),
    st.builds(Over, driven, lengths),
    st.builds(Plateau, shares, st.integers(0, 50), unit.filter(lambda u: u < 1), st.sampled_from(["max", "min"])),
)


@given(whole)
def test_text_reads_back(each):
    assert schedule(str(each)) == each


@given(whole)
def test_a_dict_reads_back_through_json(each):
    assert schedule(json.loads(json.dumps(schedule_dict(each)))) == each


@pytest.mark.parametrize("name", [*PAPER, *BEYOND])
def test_every_name_is_its_own_text(name):
    assert str(schedule(name)) == name


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("linear", Linear()), (" LINEAR() ", Linear()), ("poly(0.8)", Poly(0.8)), ("poly(power=4/5)", Poly(0.8)),
        ("exp.97", Exp(0.97)), ("exp(0.9, epochs=90)", Exp(0.9, 90)), ("step-d2", Step((1 / 3, 2 / 3))),
        ("step(2/3, 8/9)", Step((2 / 3, 8 / 9))), ("step(0.5, gamma=0.2)", Step((0.5,), 0.2)),
        ("sgdr-r1", Repeat(Cosine(), 2)), ("sgdr-r2", Repeat(Cosine(), 3)), ("sgdr", SGDR()),
        ("one_cycle(div=10)", OneCycle(div=10)), ("wsd(shape=1-sqrt)", WSD(shape="1-sqrt")),
        ("points(0:1, 0.5:0.2, 1:0)", Points(((0, 1), (0.5, 0.2), (1, 0)))), ("htd(-6, 3)", HTD()), ("poly(1_0)", Poly(10)),
        ("exp.97 over 200ep", Over(Exp(0.97), Amount(200, "ep"))),
        ("Poly(2)  Over\n2_000 steps", Over(Poly(2), Amount(2000, "steps"))),
        ("warmup(500 steps, cosine(eta=0.1))", Warmup(Cosine(0.1), Amount(500, "steps"))),
        ("warmup(5%, linear, start=0.1)", Warmup(Linear(), Amount(5, "%"), 0.1)),
        ("warmup(1h30m, linear)", Warmup(Linear(), Amount(5400, "s"))),
        ("join(const, 0.8, linear)", Join((Const(), Linear()), (0.8,))), ("floor(linear, 0.1)", Floor(Linear(), 0.1)),
        ("cooldown(const, 0.3, linear)", Cooldown(Const(), 0.3)), ("cooldown(const, 1/3)", Cooldown(Const(), 1 / 3)),
        ("cooldown(warmup(500 steps, wsd), 0.3, shape=cosine)", Cooldown(Warmup(WSD(), Amount(500, "steps")), 0.3, Cosine())),
        ("repeat(poly(2), 3)", Repeat(Poly(2), 3)), ("with(linear, weight_decay=cosine)", With(Linear(), (("weight_decay", Cosine()),))),
        ("plateau(0.5, patience=3, mode=min)", Plateau(0.5, 3, mode="min")),
    ],
)  # fmt: skip
def test_what_a_person_writes(text, built):
    assert schedule(text) == built


def test_fractions_are_the_nearest_float():
    assert schedule("step(1/3, 0.5, 2/3)").milestones == (1 / 3, 0.5, 2 / 3)


@pytest.mark.parametrize(
    ("plain", "built"),
    [
        ({"name": "poly", "power": 0.9}, Poly()), ({"name": "step-d2"}, Step.even(2)),
        ({"name": "step", "arguments": [0.5], "gamma": 0.2}, Step((0.5,), 0.2)),
        ({"name": "exp", "arguments": [0.97], "over": "200ep"}, Over(Exp(0.97), Amount(200, "ep"))),
        ({"name": "warmup", "arguments": ["5%", {"name": "linear"}]}, Warmup(Linear(), Amount(5, "%"))),
        ({"name": "cooldown", "arguments": [{"name": "const"}, 0.3], "shape": {"name": "poly", "power": 2}}, Cooldown(Const(), 0.3, Poly(2))),
        ({"name": "points", "arguments": [[0, 1], [1, 0]]}, Points(((0, 1), (1, 0)))),
    ],
)  # fmt: skip
def test_dicts(plain, built):
    assert schedule(plain) == built


def test_a_schedule_comes_back_as_it_is():
    each = Poly(3)
    assert schedule(each) is each


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        ("linaer", "schedule 'linaer': 'linaer' is unknown; did you mean 'linear'\\? the names are const, "),
        ("floor(cosin(), 0.1)", "schedule 'floor\\(cosin\\(\\), 0.1\\)': 'cosin' is unknown; did you mean 'cosine'\\?"),
        ("floor(cosin, 0.1)", "'cosin' is not a schedule"),
        ("step_d0", "did you mean 'step-d"),
        ("", "schedule '' is not understood; write a name such as linear, or one with arguments such as poly\\(0.9\\)"),
        ("0.97", "is not understood; write a name such as linear"),
        ("linear linear", "is not understood"),
        ("poly(0.9", "is not understood"),
        ("poly(0.9))", "the parentheses do not match"),
        ("poly((0.9)", "the parentheses do not match"),
        ("poly(,)", "an argument is missing beside a comma"),
        ("poly(power=1, 2)", "'2' stands after a named argument; put it first"),
        ("linear(3)", "these are not the arguments of linear; it has none"),
        ("poly(pow=3)", "these are not the arguments of poly; it has power"),
        ("poly(high)", "these are not the arguments of poly; it has power"),
        ("points(0:a, 1:0)", "these are not the arguments of points; it has points"),
        ("points(0.1, 1)", "points: write progress:factor pairs, for example points\\(0:1, 0.5:0.2, 1:0\\)"),
        ("sampled(low, high)", "these are not the arguments of sampled; it has values"),
        ("sampled(1)", "at least two samples are needed"),
        ("poly(nan)", "nan is not a finite number"),
        ("poly(1e999)", "inf is not a finite number"),
        ("poly(inf/2)", "inf is not a finite number"),
        ("poly(1/0)", "'1/0' divides by zero"),
        ("poly(1/00)", "'1/00' divides by zero"),
        ("poly(-1)", "schedule 'poly\\(-1\\)': poly: power must be positive and finite, and is -1"),
        ("step(30, 60)", "step: milestones are shares of the budget between 0 and 1, rising, and are \\(30.0, 60.0\\)"),
        ("step()", "step: milestones are shares"),
        ("step-d2(gamma=0.2)", "step-d2 takes no arguments; write it in full, as in step\\(1/3, 2/3, gamma=0.2\\)"),
        ("exp.0", "exp: gamma is the factor of one epoch"),
        ("warmup(linear)", "warmup: write a length and a schedule, for example warmup\\(500 steps, linear\\)"),
        ("warmup(5 parsecs, linear)", "unit 'parsecs' is unknown"),
        ("warmup(5% or 3s, linear)", "'5% or 3s' is more than one limit; give one"),
        ("warmup(500, linear)", "the length is a limit such as 5% or 500 steps, and is 500.0"),
        ("warmup(5%, plateau)", "'plateau' is not a schedule; write for example warmup\\(500 steps, linear\\)"),
        ("join(const, linear)", "join: write schedules with boundaries between"),
        ("with(linear, cosine)", "with: write one schedule and what is driven too"),
        ("with(linear)", "with: name what is driven too"),
        ("cooldwon(const, 0.3)", "'cooldwon' is unknown; did you mean 'cooldown'\\?"),
        ("cooldown(const)", "these are not the arguments of cooldown; it has inner, start, shape"),
        ("cooldown(const, soon)", "these are not the arguments of cooldown; it has inner, start, shape"),
        ("cooldown(const, 1)", "schedule 'cooldown\\(const, 1\\)': cooldown: start is the progress at which it begins, from 0 to below 1"),
        ("cooldown(const, 0.3, down)", "cooldown: 'down' is not a schedule"),
        ("cooldown(plateau, 0.3)", "cooldown: 'plateau' is not a schedule; see `budgeted schedule`"),
        ("cooldown(linear over 200ep, 0.3)", "cooldown: 'linear over 200ep' is measured in absolute units"),
        ("repeat(linear, 1.5)", "repeat: times is a whole number from 1, and is 1.5"),
        ("over(linear, 200ep)", "'over' is unknown"),
        ("exp.97 over soon", "budget 'soon': 'soon' is not a limit"),
        ("exp.97 over 5%", "over: '5%' is no horizon; write an amount"),
        ("exp.97 over 200ep or 5min", "a horizon is one amount, for example exp.97 over 200ep"),
        ("plateau over 200ep", "drop-on-plateau follows the metric and has no horizon"),
        ({"power": 2}, "a schedule is text such as 'linear', or a dict with a name, not {'power': 2}"),
        ({"name": "poly", "powr": 2}, "these are not the arguments of poly; it has power"),
        (0.9, "a schedule is text such as 'linear', or a dict with a name, not 0.9"),
        (None, "a schedule is text such as 'linear'"),
    ],
)  # fmt: skip
def test_bad_input_gives_one_sentence(given_, sentence):
    with pytest.raises(BudgetedError, match=sentence) as caught:
        schedule(given_)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=25) | st.text("linearpolystepwdxoh(0.5,:/=-%) ", max_size=25))
def test_any_text_is_a_schedule_or_a_sentence(text):
    try:
        each = schedule(text)
    except BudgetedError:
        return
    assert schedule(str(each)) == each


@given(
    st.sampled_from(["step", "points", "sampled", "poly", "join", "with", "warmup", "repeat", "cooldown", "htd"]),
    st.text("0123.:/,e-_infa= ", max_size=15),
)
def test_any_arguments_are_read_or_refused(name, inside):
    try:
        each = schedule(f"{name}({inside})")
    except BudgetedError:
        return
    assert math.isfinite(each(0.5))


def test_a_converted_function_has_no_text():
    from budgeted import convert

    with pytest.raises(ScheduleError, match="'converted' is unknown"):
        schedule(str(convert(lambda t: 0.9**t, 100)))
