from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted import (
    HTD,
    SGDR,
    WSD,
    Const,
    Cooldown,
    Cosine,
    Exp,
    Floor,
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
)
from budgeted.core.budget import Amount, Budget, Deadline, Money, Slurm
from budgeted.core.compose import absolute_warmup, ends_low

OUTERMOST = "is measured in absolute units and can only stand outermost"
STEPS, SHARE, EPOCHS = Amount(500, "steps"), Amount(10, "%"), Amount(200, "ep")


def values(each, *at):
    return [each(p) for p in at]


def test_a_warmup_by_share_is_part_of_progress():
    each = Warmup(Linear(), SHARE)
    assert values(each, 0, 0.05, 0.1, 0.55, 1) == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-15)
    assert (each.share, each.absolute, absolute_warmup(each)) == (0.1, None, None)


def test_an_absolute_warmup_comes_before_progress():
    each = Warmup(Linear(), STEPS, start=0.2)
    assert values(each, 0, 0.5, 1) == [1, 0.5, 0]
    assert [each.ramp(w) for w in (0, 0.5, 1)] == pytest.approx([0.2, 0.6, 1])
    assert (each.share, each.absolute, absolute_warmup(each)) == (None, STEPS, each)


@pytest.mark.parametrize("length", [SHARE, STEPS])
def test_a_warmup_leads_to_where_the_inner_schedule_starts(length):
    inner = OneCycle(div=4)
    each = Warmup(inner, length, start=0.5)
    assert [each.ramp(0), each.ramp(1)] == [0.125, 0.25] == [inner(0) / 2, inner(0)]


def test_a_warmup_may_have_a_curve_of_its_own():
    assert Warmup(Linear(), STEPS, curve=Poly(2)).ramp(0.5) == 0.25
    assert Warmup(Linear(), SHARE, curve=Poly(2))(0.05) == 0.25


@pytest.mark.parametrize("wrapped", [Warmup(OneCycle(), STEPS), Floor(OneCycle(), 0.1), Over(OneCycle(), EPOCHS)])
def test_what_the_inner_schedule_drives_is_driven(wrapped):
    assert wrapped.drives == OneCycle().drives
    assert list(wrapped.drives) == ["momentum"]


def test_a_warmup_by_share_holds_the_other_curves_too():
    """The momentum's lowest point stays at the rate's highest."""
    momentum = Warmup(OneCycle(peak=0.5), Amount(20, "%")).drives["momentum"]
    assert values(momentum, 0, 0.1, 0.2, 0.6, 1) == pytest.approx([1, 1, 1, 0.85 / 0.95, 1])


def test_join_gives_each_its_own_part():
    each = Join((Const(), Linear(), Cosine()), (0.5, 0.75))
    assert values(each, 0, 0.49, 0.5, 0.625, 0.75, 0.875, 1) == pytest.approx([1, 1, 1, 0.5, 1, 0.5, 0])
    assert each(math.nextafter(0.75, 0)) == pytest.approx(0, abs=1e-12)


def test_floor_ends_at_eta():
    each = Floor(Linear(), 0.2)
    assert values(each, 0, 0.5, 1) == pytest.approx([1, 0.6, 0.2])
    assert (each(0), each(1)) == (1, 0.2)
    assert values(Floor(Cosine(), 0.1), 0, 0.3, 1) == pytest.approx(values(Cosine(eta=0.1), 0, 0.3, 1))


def test_repeat_starts_anew_but_not_at_the_end():
    each = Repeat(Linear(), 3)
    assert values(each, 0, 1 / 6, 1 / 3, 2 / 3, 1) == pytest.approx([1, 0.5, 1, 1, 0])
    assert each == Repeat(Linear(), 3.0)
    assert type(Repeat(Linear(), 3.0).times) is int


def test_repeat_repeats_what_is_driven_too():
    momentum = Repeat(OneCycle(peak=0.5), 2).drives["momentum"]
    assert values(momentum, 0, 0.25, 0.5, 0.75, 1) == pytest.approx([1, 0.85 / 0.95, 1, 0.85 / 0.95, 1])


# A trunk that does not end low, and the way down from it at any moment.
trunks = st.sampled_from(
    [Const(), WSD(0.2), OneCycle(), Exp(0.99), Floor(Cosine(), 0.3), SGDR(), Points(((0, 0.2), (0.4, 3), (1, 1))),
     Warmup(Const(), SHARE), Warmup(Linear(), STEPS), Cooldown(Const(), 0.6), Repeat(Linear(), 3)]
)  # fmt: skip
shapes = st.sampled_from([Linear(), Cosine(), Cosine(0.1), Poly(2), WSD(1, "1-sqrt"), HTD(), Const()])
starts = st.just(0.0) | st.floats(0, 0.999)
progress = st.floats(0, 1)


@given(trunks, st.floats(0, 1, exclude_max=True), shapes, progress)
def test_a_cooldown_follows_its_trunk_to_the_last_bit_until_it_starts(trunk, start, shape, p):
    each = Cooldown(trunk, start, shape)
    assert each(min(p, start)) == trunk(min(p, start))
    assert each(start) == trunk(start)


@given(trunks, starts, shapes, progress)
def test_a_cooldown_goes_from_there_down_along_its_shape_to_the_shapes_own_end(trunk, start, shape, p):
    each = Cooldown(trunk, start, shape)
    assert each(start + p * (1 - start)) == pytest.approx(trunk(start) * shape(p), abs=1e-4)
    assert each(1.0) == trunk(start) * shape(1.0)
    after = [each(start + q * (1 - start)) for q in sorted((0.0, p, 1.0))]
    assert after == sorted(after, reverse=True)


@given(trunks, starts, shapes.filter(lambda shape: shape != WSD(1, "1-sqrt")))
def test_nothing_jumps_where_a_cooldown_starts(trunk, start, shape):
    """The steepest of these shapes falls by 4.5 over its whole length: after a millionth of it, by 5 millionths.

    1 - sqrt falls as steeply as one likes at its start, and yet from 1.
    """
    each, a_millionth_on = Cooldown(trunk, start, shape), start + 1e-6 * (1 - start)
    assert each(a_millionth_on) == pytest.approx(trunk(start), rel=1e-4 if shape == HTD() else 5e-6)


def test_the_square_root_starts_at_one_too():
    each = Cooldown(Const(), 0.8, WSD(1, "1-sqrt"))
    assert values(each, 0.8, 0.85, 0.9, 0.95, 1) == pytest.approx([1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0])


def test_a_cooldown_may_start_within_another():
    each = Cooldown(Cooldown(Const(), 0.2), 0.6)
    assert values(each, 0.2, 0.6, 0.8, 1) == pytest.approx([1, 0.5, 0.25, 0])


def test_what_a_cooldowns_trunk_drives_goes_its_own_way():
    each = Cooldown(With(OneCycle(), (("weight_decay", Cosine()),)), 0.5)
    assert each.drives == {**OneCycle().drives, "weight_decay": Cosine()}


def test_an_absolute_warmup_within_a_cooldown_stays_a_first_phase():
    warmup = Warmup(Linear(), STEPS, start=0.2)
    for each in (Cooldown(warmup, 0.5), Cooldown(Cooldown(warmup, 0.2), 0.5)):
        assert absolute_warmup(each) is warmup
        assert values(each, 0, 0.1) == [1, 0.9]  # p starts when the warm-up ends
    assert absolute_warmup(Cooldown(Warmup(Linear(), SHARE), 0.5)) is None


def test_a_cooldown_of_an_absolute_warmup_can_only_stand_outermost():
    each = Cooldown(Warmup(Const(), STEPS), 0.5)
    with pytest.raises(ScheduleError, match=f"'cooldown\\(warmup\\(500 steps, const\\), 0.5, linear\\)' {OUTERMOST}"):
        Floor(each, 0.1)


@pytest.mark.parametrize("inner", [Over(Linear(), EPOCHS), Plateau(), "linear"], ids=["over", "plateau", "text"])
def test_what_cannot_be_cooled_down(inner):
    """A horizon of its own and a metric are no functions of p, along which the cooldown goes."""
    sentence = OUTERMOST if isinstance(inner, Over) else "is not a schedule; see `budgeted schedule`"
    with pytest.raises(ScheduleError, match=f"cooldown: '{inner}' {sentence}"):
        Cooldown(inner, 0.5)


@pytest.mark.parametrize("low", [
    Linear(), Poly(), WSD(), HTD(), OneCycle(), Step.even(2), Floor(Cosine(), 0.05), Exp(0.97), Warmup(Linear(), SHARE),
    Warmup(Linear(), STEPS), Cooldown(Const(), 0.3), Points(((0, 0), (0.0005, 0.1), (0.5, 3), (1, 0.15))),
])  # fmt: skip
def test_ends_low(low):
    assert ends_low(low)


@pytest.mark.parametrize("high", [
    Const(), SGDR(), Step.even(1), Floor(Cosine(), 0.051), Exp(0.99), Warmup(Const(), STEPS), Cooldown(Const(), 0.3, Cosine(0.1)),
    Join((Linear(), Linear(), Const()), (0.5, 0.9)), Points(((0, 0), (0.5, 3), (1, 0.16))), Over(Linear(), EPOCHS),
])  # fmt: skip
def test_does_not_end_low(high):
    assert not ends_low(high)


def test_over_is_its_inner_schedule_over_its_own_horizon():
    assert values(Over(Linear(), EPOCHS), 0, 0.25, 1) == [1, 0.75, 0]


def test_with_drives_more():
    each = With(OneCycle(), (("weight_decay", Cosine()), ("momentum", Linear())))
    assert values(each, 0, 0.3, 1) == values(OneCycle(), 0, 0.3, 1)
    assert each.drives == {
        "momentum": Linear(),
        "weight_decay": Cosine(),
    }  # the named curve goes before the built-in one


@pytest.mark.parametrize(
    "build",
    [
        lambda inner: Join((Const(), inner), (0.5,)),
        lambda inner: Floor(inner, 0.1),
        lambda inner: Repeat(inner, 2),
        lambda inner: Cooldown(Const(), 0.5, inner),
        lambda inner: Over(inner, EPOCHS),
        lambda inner: With(inner, (("weight_decay", Const()),)),
        lambda inner: With(Const(), (("weight_decay", inner),)),
        lambda inner: Warmup(inner, STEPS),
        lambda inner: Warmup(inner, SHARE),
    ],
    ids=[
        "join",
        "floor",
        "repeat",
        "shape of cooldown",
        "over",
        "with",
        "a curve of with",
        "absolute warmup",
        "warmup by share",
    ],
)
@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        (Warmup(Linear(), STEPS), f"'warmup\\(500 steps, linear\\)' {OUTERMOST}"),
        (Over(Linear(), EPOCHS), f"'linear over 200ep' {OUTERMOST}"),
        (Plateau(), "'plateau' is not a schedule; see `budgeted schedule`"),
        ("linear", "'linear' is not a schedule; see `budgeted schedule`"),
    ],
    ids=["absolute warmup", "over", "plateau", "text"],
)
def test_what_cannot_stand_inside(build, inner, sentence):
    with pytest.raises(ScheduleError, match=sentence):
        build(inner)


def test_a_join_drops_no_curve_in_silence():
    with pytest.raises(
        ScheduleError, match=r"'one-cycle' drives momentum too, which the others do not; drive it by with"
    ):
        Join((Const(), OneCycle()), (0.5,))
    assert Join((Const(), OneCycle(momentum=1)), (0.5,)).drives == {}


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Warmup(Linear(), 500), "the length is a limit such as 5% or 500 steps, and is 500"),
        (lambda: Warmup(Linear(), Deadline(Budget.parse("until 18:00").limits[0].when)), "'until 18:00' is no length; write 500 steps"),
        (lambda: Warmup(Linear(), Slurm()), "'slurm' is no length; write 500 steps, 30s or 5%"),
        (lambda: Warmup(Linear(), Money(1, 1)), "is no length; write 500 steps, 30s or 5%"),
        (lambda: Warmup(Linear(), Amount(100, "%")), "100% of the budget leaves nothing to decay over"),
        (lambda: Warmup(Linear(), STEPS, start=1.5), "start is a factor from 0 to 1, and is 1.5"),
        (lambda: Join((), ()), "between each two schedules stands one boundary"),
        (lambda: Join((Const(), Linear()), ()), "between each two schedules stands one boundary, rising from 0 to 1"),
        (lambda: Join((Const(), Linear()), (1.0,)), "rising from 0 to 1, and they are \\(1.0,\\)"),
        (lambda: Join((Const(), Linear(), Linear()), (0.6, 0.4)), "rising from 0 to 1, and they are \\(0.6, 0.4\\)"),
        (lambda: Floor(Linear(), 2), "floor: eta is the lowest factor, 0 to 1, and is 2"),
        (lambda: Cooldown(Const(), 1.0), "cooldown: start is the progress at which it begins, from 0 to below 1, and is 1.0"),
        (lambda: Cooldown(Const(), -0.1), "from 0 to below 1, and is -0.1"),
        (lambda: Cooldown(Const(), math.nan), "from 0 to below 1, and is nan"),
        (lambda: Cooldown(Const(), 0.5, Floor(OneCycle(momentum=1), 0.5)), "starts at 0.52, and the rate would jump there; give one that starts at 1"),
        (lambda: Cooldown(Const(), 0.5, With(Linear(), (("momentum", Cosine()),))), "the shape 'with\\(linear, momentum=cosine\\)' drives momentum too; a shape is one of the rate alone"),
        (lambda: Repeat(Linear(), 0), "repeat: times is a whole number from 1, and is 0"),
        (lambda: Repeat(Linear(), 1.5), "repeat: times is a whole number from 1, and is 1.5"),
        (lambda: Repeat(Linear(), math.inf), "repeat: times is a whole number from 1, and is inf"),
        (lambda: Over(Linear(), Amount(5, "%")), "over: '5%' is no horizon; write an amount, for example exp.97 over 200ep"),
        (lambda: Over(Linear(), Slurm()), "over: 'slurm' is no horizon"),
        (lambda: With(Linear(), ()), "with: name what is driven too, for example with\\(linear, weight_decay=cosine\\)"),
        (lambda: With(Linear(), (("lr", Cosine()),)), "with: the rate is driven by the first schedule already"),
    ],
)  # fmt: skip
def test_compositions_check_their_arguments(build, sentence):
    with pytest.raises(ScheduleError, match=sentence):
        build()


def test_compositions_nest():
    """A floor under a repeated join under a warm-up by share; each level maps p as it says."""
    inner = Join((Const(), Step((0.5,))), (0.5,))
    each = Floor(Warmup(Repeat(inner, 2), Amount(20, "%")), 0.5)
    assert values(each, 0.1, 0.3, 0.55, 0.65, 0.95, 1) == pytest.approx([0.75, 1, 0.55, 1, 0.55, 0.55])
