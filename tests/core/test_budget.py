from __future__ import annotations

import datetime as dt
import os
import pickle
import re
import time
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted.core.budget import Amount, Budget, Cap, Deadline, Limit, Money, Slurm, Terms
from budgeted.core.errors import BudgetError

BERLIN = "Europe/Berlin"
NOON = dt.datetime(2026, 12, 1, 12, tzinfo=dt.UTC)


def caps(text: str, **terms) -> list[tuple[str, float]]:
    return [(cap.resource, cap.amount) for cap in Budget.parse(text).caps(Terms(**terms))]


# The grammar

amounts = st.floats(min_value=1e-12, max_value=1e24)
zones = st.sampled_from([None, "Z", BERLIN, "America/New_York", "UTC"])
offsets = st.sampled_from(
    [None, dt.UTC, dt.timezone(dt.timedelta(hours=-5, minutes=-30)), dt.timezone(dt.timedelta(hours=2))]
)


def moments(**zones):
    """Times of day and moments; what fold says, an offset says in text."""
    return (st.times(**zones) | st.datetimes(**zones)).map(lambda when: when.replace(fold=0))


limits = st.one_of(
    st.builds(Amount, amounts, st.sampled_from(["ep", "samples", "tokens", "s", "gpuh", "FLOP", "J", "%"])),
    st.builds(Amount, st.integers(1, 10**15).map(float), st.just("steps")),
    st.builds(Money, amounts, amounts, st.sampled_from(["USD", "EUR", "GBP", "JPY", "CHF"])),
    st.builds(Slurm, st.just(0.0) | amounts),
    st.builds(Deadline, moments(timezones=offsets)),
    st.builds(Deadline, moments(), st.sampled_from([BERLIN, "America/New_York", "UTC"])),
)  # fmt: skip


@given(st.lists(limits, min_size=1, max_size=4, unique_by=str))
def test_every_budget_reads_back(several):
    budget = Budget(tuple(several))
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("10 epochs", "10ep"), ("1 epoch", "1ep"), ("2.5ep", "2.5ep"), ("2_000 updates", "2000 steps"), ("100it", "100 steps"),
        ("5e6 samples", "5e6 samples"), ("1e9 tokens", "1e9 tokens"), ("45min", "45min"), ("90 minutes", "1h30min"),
        ("1h30m", "1h30min"), ("5 MIN", "5min"), ("0.5s", "0.5s"), ("2 gpuh", "2 gpuh"), ("2 GPU hours", "2 gpuh"),
        ("$20 at $2.5/h", "$20 at $2.5/h"), ("20 EUR at 2.5 EUR / hour", "€20 at €2.5/h"),
        ("9 CHF at 3 CHF/h", "9 CHF at 3 CHF/h"), ("1e17 FLOP", "1e17 FLOP"), ("2 PFLOPs", "2e15 FLOP"),
        ("300 Wh", "300 Wh"), ("1 kWh", "1000 Wh"), ("2 KWH", "2000 Wh"), ("100 kJ", "100000 J"), ("5%", "5%"),
        ("until 18:00", "until 18:00"), ("until 18:00:30", "until 18:00:30"), ("until 9:30" "", None),
        ("until 2026-12-01T08:00Z", "until 2026-12-01T08:00:00Z"), ("until 2026-12-01 08:00", "until 2026-12-01T08:00"),
        ("until 08:00+02:00", "until 08:00:00+02:00"), (f"until 8:00 {BERLIN}", None), (f"until 08:00 {BERLIN}", f"until 08:00 {BERLIN}"),
        ("slurm", "slurm"), ("slurm - 5min", "slurm - 5min"), ("SLURM -300s", "slurm - 5min"),
        ("10 epochs or 45 min", "10ep or 45min"), ("  1ep   or\n5% ", "1ep or 5%"),
    ],
)  # fmt: skip
def test_what_a_person_writes(text, printed):
    if printed is None:
        with pytest.raises(BudgetError, match="is not a time; write 'until 18:00'"):
            Budget.parse(text)
    else:
        assert str(Budget.parse(text)) == printed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "budget '': it is empty; write for example 10ep"),
        ("  ", "it is empty; write for example 10ep"),
        ("45 mins or", "budget '45 mins or': a limit is missing after 'or'; write for example '45min or 10ep'"),
        ("or 10ep", "a limit is missing before 'or'; write for example '45min or 10ep'"),
        ("1ep or or 5s", "a limit is missing before 'or'"),
        ("10", "budget '10': '10' has no unit; write '10 steps', '10ep' or '10s'"),
        ("1ep or 10", "budget '1ep or 10': '10' has no unit"),
        ("10 stepps", "unit 'stepps' is unknown; write for example 10ep, .*; did you mean '10 steps'?"),
        ("ten epochs", "'ten epochs' is not a limit; write for example 10ep, .*; did you mean '10ep'?"),
        ("slrum", "'slrum' is not a limit; .*; did you mean 'slurm'?"),
        ("10ep 5min", "unit 'ep 5min' is unknown"),
        ("10ep, 45min", "several limits are joined by 'or'"),
        ("10ep and 45min", "several limits are joined by 'or'"),
        ("1:30:00", "write '1:30:00' with units, for example 1h30min"),
        ("nan h", "the amount must be positive and finite, and is nan"),
        ("-5ep", "the amount must be positive and finite, and is -5"),
        ("0 steps", "the amount must be positive and finite, and is 0"),
        ("nan samples", "the amount must be positive and finite, and is nan"),
        ("inf steps", "the amount must be positive and finite, and is inf"),
        ("1e999 steps", "the amount must be positive and finite, and is 1e999"),
        ("1e999 s", "the amount must be positive and finite"),
        ("0 min", "budget '0 min': the amount must be positive"),
        ("1e308 kFLOP", "1e308 kflop is too large"),
        ("2.5 steps", "budget '2.5 steps': a step is one whole optimizer update; write a whole number"),
        ("1ep or 1 epoch", "budget '1ep or 1ep' names the same limit twice; keep one"),
        ("until", "is not a time; write 'until 18:00' or 'until 2026-12-01T08:00Z'"),
        ("until tomorrow", "'until tomorrow' is not a time: a day is given as a date, and a time of day means the next one; write 'until 18:00' or"),
        ("until yesterday", "'until yesterday' is not a time: a day is given as a date"),
        ("until 25:00", "'until 25:00' is not a time .hour must be in 0..23.; write 'until 18:00'"),
        ("until 2026-12-01 25:00", "'until 2026-12-01 25:00' is not a time .hour must be in 0..23."),
        ("until 2026-02-30T08:00", "is not a time .day is out of range for month."),
        ("until 12/01/2026", "'until 12/01/2026' is not a time; write 'until 18:00'"),
        ("until 18.30", "'until 18.30' is not a time; write 'until 18:00'"),
        ("until 18:30.5", "'until 18:30.5' is not a time; write 'until 18:00'"),
        ("until 2026-12-01", "is a day without a time; write for example 'until 2026-12-01T18:00'"),
        ("until 20261201", "is a day without a time; write for example 'until 20261201T18:00'"),
        ("until 2026-W49-2", "is a day without a time"),
        ("until 2026", "'until 2026' may be a date or a time; write 'until 18:00' or 'until 2026-12-01T08:00Z'"),
        ("until 202612", "'until 202612' may be a date or a time"),
        ("until 18:00 Europe/Berln", "time zone 'Europe/Berln' is unknown; write one like Europe/Berlin, or an offset as in 08:00.02:00"),
        ("until 18:00 Tokio", "time zone 'Tokio' is unknown; write one like Asia/Tokyo, or an offset"),
        ("until 18:00 PST", "time zone 'PST' is unknown; write one like Europe/Berlin, or an offset"),
        ("until 18:00Z Europe/Berlin", "names two time zones; keep one"),
        ("slurm 5min", "'slurm 5min' is not understood; write 'slurm' or 'slurm - 5min'"),
        ("slurm - soon", "'slurm - soon' is not understood"),
        ("$20", "'\\$20' needs a price by the hour; write for example '\\$20 at \\$2.5/h'"),
        ("$20 at $2.5", "needs a price by the hour"),
        ("20 USD at cheap/h", "'cheap/h' is not a price by the hour"),
        ("$20 at €2.5/h", "it is in USD and its price in EUR; write both in one currency"),
        ("$0 at $1/h", "budget '\\$0 at \\$1/h': the amount of money must be positive and finite, and is 0"),
        ("$1 at $0/h", "the price must be positive and finite, and is 0; where nothing is paid, give a time such as 45min"),
        ("0%", "the amount must be positive and finite, and is 0"),
        ("inf min", "the amount must be positive and finite, and is inf"),
        ("+5min", "the amount must be positive and finite, and is .5; did you mean '5min'"),
        ("1e400 s", "the amount must be positive and finite, and '1e400 s' comes to inf s"),
        ("1e-400 s", "the amount must be positive and finite, and '1e-400 s' comes to 0 s"),
        ("18:00", "write '18:00' with units, for example 1h30min, or 'until 18:00' for a time of day"),
        ("1.5 steps", "a step is one whole optimizer update; write a whole number, such as '2 steps'"),
        ("0.1 steps", "write a whole number, such as '1 steps'"),
    ],
)  # fmt: skip
def test_bad_text_gives_one_sentence(text, sentence):
    with pytest.raises(BudgetError, match=sentence) as caught:
        Budget.parse(text)
    message = str(caught.value)
    assert message.startswith(f"budget '{text}'") or "names the same limit twice" in message
    assert "\n" not in message.replace(text, "")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("5k steps", "5000 steps"), ("1.5M samples", "1.5e6 samples"), ("1 billion tokens", "1e9 tokens"), ("10k", "10000 steps"),
        ("1,000 steps", "1000 steps"), ("10 000 samples", "10000 samples"), ("2,5 h", "2h30min"),
        ("-5min", "5min"), ("- 10ep", "10ep"), ("-$5 at $1/h", "$5 at $1/h"), ("$-5 at $1/h", "$5 at $1/h"),
        ("until 6pm", "until 18:00"), ("until 6:30 p.m.", "until 18:30"), ("until 12am", "until 00:00"), ("until 12 PM", "until 12:00"),
        (f"until 6pm {BERLIN}", f"until 18:00 {BERLIN}"), ("until noon", "until 12:00"), ("until midnight", "until 00:00"),
        ("until 9:30", "until 09:30"), ("until 24:00", "until 00:00"), ("until 18h", "until 18:00"), ("until 18.30", "until 18:30"),
        ("until 1800", "until 18:00"), ("till 18:00", "until 18:00"), ("by 6pm", "until 18:00"), ("until today at 18:00", "until 18:00"),
        ("untl 18:00", "until 18:00"), ("slrum", "slurm"), ("slrum - 5min", "slurm - 5min"),
        ("20$ at 2.5/h", "$20 at $2.5/h"), ("$20 at 2.5/h", "$20 at $2.5/h"), ("$20 @ $2.5/h", "$20 at $2.5/h"), ("$20 at $2.5", "$20 at $2.5/h"),
        ("$20 at $2.5 per hour", "$20 at $2.5/h"), ("€20 at 2,5 €/h", "€20 at €2.5/h"), ("20 dollars at 2.5 an hour", "$20 at $2.5/h"),
        ("20 eur at 2.5 eur/h", "€20 at €2.5/h"), ("9 CHF at 3/h", "9 CHF at 3 CHF/h"),
        ("90 seconds and 10ep", "1min30s or 10ep"), ("10 ep, 20 min", "10ep or 20min"), ("10ep | 20min", "10ep or 20min"),
        ("1h and 30min", "1h30min"), ("90s and 5k steps", "1min30s or 5000 steps"), ("$20 at 2.5/h, 10ep", "$20 at $2.5/h or 10ep"),
        ("half an hour", "30min"), ("an hour", "1h"), ("two days", "2d"), ("in 10 min", "10min"), ("10 minutes from now", "10min"),
        ("2h gpu", "2 gpuh"), ("2 gpu h", "2 gpuh"), ("2 gpus", "2 gpuh"), ("100%%", "100%"), ("5 percent", "5%"),
        ("45 min.", "45min"), ("1h30", "1h30min"), ("1:30:00", "1h30min"), ("300W", "300 Wh"), ("10 epocs", "10ep"),
    ],
)  # fmt: skip
def test_what_people_type_is_refused_with_what_they_mean(text, meant):
    with pytest.raises(BudgetError, match=f"; did you mean '{re.escape(meant)}'\\?$") as caught:
        Budget.parse(f"1 tokens or {text}" if "," not in text else text)
    assert f"'{text.removeprefix('- ')}" in str(caught.value) or text.split()[-1] in str(caught.value)
    assert str(Budget.parse(meant)) == meant


@pytest.mark.parametrize(
    "text",
    ["10 parsecs", "ten", "$20", "$20 at €2.5/h", "2 months", "until 25:00", "0 steps", "inf h", "min", "10ep 5min"],
)
def test_where_nothing_is_likely_nothing_is_guessed(text):
    with pytest.raises(BudgetError, match=r"^budget '[^?]*$"):
        Budget.parse(text)


PIECES = [
    "until", "by", "noon", "6", "pm", "18", ":30", "half", "an", "hour", "$", "€", "20", "2,5", "at", "/h", "k", "M", "steps",
    "ep", "and", ",", "or", "-", "%", "gpu", "h", "1e999", "9", "slrum", "CHF",
]  # fmt: skip


@given(
    st.text(max_size=20)
    | st.text("10.e+-/$%: orepsmhuntilZ", max_size=20)
    | st.lists(st.sampled_from(PIECES), max_size=6).map(" ".join)
)
def test_any_text_is_a_budget_or_a_sentence(text):
    try:
        budget = Budget.parse(text)
    except BudgetError as error:
        assert str(error).startswith(("budget '", "an empty budget"))  # noqa: PT017
        return
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("given_", "text"),
    [
        ("10ep", "10ep"), (Budget.parse("10ep"), "10ep"), (Amount(10, "ep"), "10ep"),
        (dt.timedelta(minutes=45), "45min"), (NOON, "until 2026-12-01T12:00:00Z"),
    ],
)  # fmt: skip
def test_of_takes_what_means_a_budget(given_, text):
    assert str(Budget.of(given_)) == text


@pytest.mark.parametrize(
    ("given_", "sentence"),
    [
        (10, "budget 10: a number without a unit; write '10 steps', '10ep' or '10s'"),
        (0.5, "budget 0.5: a number without a unit"),
        (dt.timedelta(0), "the amount must be positive and finite"),
        ([10], "a budget is text such as '45min or 10ep', a timedelta or a datetime, not list"),
        (None, "not NoneType"),
    ],
)
def test_of_refuses_the_rest(given_, sentence):
    with pytest.raises(BudgetError, match=sentence):
        Budget.of(given_)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Budget(()), "an empty budget has no limit; write for example 10ep"),
        (lambda: Amount(1, "furlongs"), "unit 'furlongs' is unknown; write for example 10ep"),
        (lambda: Amount(float("nan"), "s"), "the amount must be positive and finite"),
        (lambda: Money(1, 0), "the price must be positive and finite, and is 0; where nothing is paid, give a time"),
        (
            lambda: Deadline(dt.time(2, 30, fold=1), BERLIN),
            "deadline '02:30:00' with fold=1 has no text; give the offset, as in 02:30:00.01:00",
        ),
        (
            lambda: Deadline(dt.time(8, tzinfo=ZoneInfo(BERLIN))),
            "deadline '08:00:00': give the zone of a time of day by name",
        ),
        (lambda: Slurm(-1), "must be at least zero seconds, and is -1"),
        (lambda: Deadline(dt.time(8), "Mars/Base"), "time zone 'Mars/Base' is unknown"),
    ],
)
def test_values_check_themselves(build, sentence):
    with pytest.raises(BudgetError, match=sentence):
        build()


@given(limits)
def test_limits_are_values(limit):
    assert pickle.loads(pickle.dumps(limit)) == limit
    assert hash(limit) == hash(pickle.loads(pickle.dumps(limit)))
    assert isinstance(limit, Limit)
    with pytest.raises((AttributeError, TypeError), match=r"cannot assign|super\(type"):
        limit.amount = 3


# What a run makes of it


@pytest.mark.parametrize(
    ("text", "resource", "amount"),
    [
        ("2000 steps", "steps", 2000), ("5e6 samples", "samples", 5e6), ("1e9 tokens", "tokens", 1e9),
        ("2 PFLOP", "flops", 2e15), ("300 Wh", "joules", 1_080_000), ("1.5 kJ", "joules", 1500), ("1h30m", "seconds", 5400),
        ("$20 at $2.5/h", "seconds", 28800), ("$0.1 at $0.3/h", "seconds", 1200),
    ],
)  # fmt: skip
def test_units_become_what_the_ledger_counts(text, resource, amount):
    assert caps(text) == [(resource, amount)]


@pytest.mark.parametrize(("devices", "seconds"), [(1, 7200), (4, 1800), (3, 2400)])
def test_gpu_hours_are_shared_by_the_devices(devices, seconds):
    assert caps("2 gpuh", devices=devices) == [("seconds", seconds)]


@pytest.mark.parametrize(
    ("text", "per_epoch", "steps"),
    [("10ep", 57, 570), ("0.1ep", 10, 1), ("0.3ep", 10, 3), ("0.29ep", 100, 29), ("0.5ep", 3, 1), ("1.1ep", 10, 11)],
)
def test_epochs_are_exact_in_decimals(text, per_epoch, steps):
    """0.29 * 100 is 28.999999999999996 in floats."""
    assert caps(text, steps_per_epoch=per_epoch) == [("steps", steps)]


@pytest.mark.parametrize(
    ("share", "full", "steps"), [("5%", "20ep", 57), ("1%", "200ep", 114), ("29%", "100 steps", 29), ("7%", "1ep", 3)]
)
def test_a_share_is_exact_in_decimals(share, full, steps):
    assert caps(share, steps_per_epoch=57, full=Budget.parse(full)) == [("steps", steps)]


def test_a_share_of_several_limits_is_a_share_of_each():
    both = Budget.parse("10%").caps(Terms(full=Budget.parse("1h or 1000 samples or $1 at $1/h")))
    assert [(c.resource, c.amount, str(c.limit)) for c in both] == [
        ("seconds", 360, "6min"), ("samples", 100, "100 samples"), ("seconds", 360, "$0.1 at $1/h"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "share", "scaled"),
    [
        ("20ep", 0.05, "1ep"), ("1h", 0.5, "30min"), ("$20 at $2.5/h", 0.1, "$2 at $2.5/h"), ("7ep", Fraction(5, 100), "0.35ep"),
        ("101 steps", 0.5, "50 steps"), ("3 gpuh or 10 samples", 0.1, "0.3 gpuh or 1 samples"),
    ],
)  # fmt: skip
def test_scaled(text, share, scaled):
    assert str(Budget.parse(text).scaled(share)) == scaled


@pytest.mark.parametrize(
    ("text", "terms", "sentence"),
    [
        ("10ep", {}, "budget '10ep': the length of an epoch is unknown; pass steps_per_epoch=len\\(loader\\)"),
        ("0.001ep", {"steps_per_epoch": 57}, "comes to 0.057 of an update at 57 updates an epoch; the least is one"),
        ("5%", {}, "budget '5%': there is no full budget to take a share of; pass full='10ep'"),
        ("5%", {"full": Budget.parse("10 steps")}, "5% of '10 steps' is less than one update"),
        ("5%", {"full": Budget.parse("until 18:00")}, "'until 18:00' cannot be scaled: a share needs a full budget that is an amount"),
        ("5%", {"full": Budget.parse("slurm")}, "'slurm' cannot be scaled"),
        ("5%", {"full": Budget.parse("50%")}, "'50%' cannot be scaled"),
    ],
)  # fmt: skip
def test_terms_that_lack_what_a_limit_needs(text, terms, sentence):
    with pytest.raises(BudgetError, match=sentence):
        caps(text, **terms)


# Deadlines


def moment(text: str, now: dt.datetime) -> dt.datetime:
    ((resource, amount),) = caps(text, now=now)
    assert resource == "clock"
    return dt.datetime.fromtimestamp(amount, dt.UTC)


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("text", "now", "expected"),
    [
        ("until 18:00 UTC", utc(2026, 12, 1, 12), utc(2026, 12, 1, 18)),
        ("until 18:00 UTC", utc(2026, 12, 1, 18), utc(2026, 12, 2, 18)),  # the next one, not this very moment
        ("until 11:59:59 UTC", utc(2026, 12, 31, 12), utc(2027, 1, 1, 11, 59, 59)),
        ("until 18:00Z", utc(2026, 12, 1, 12), utc(2026, 12, 1, 18)),
        ("until 08:00+02:00", utc(2026, 12, 1, 5), utc(2026, 12, 1, 6)),
        ("until 08:00+02:00", utc(2026, 12, 1, 7), utc(2026, 12, 2, 6)),
        # 23:30 UTC is the next day already in Berlin
        (f"until 01:00 {BERLIN}", utc(2026, 12, 1, 23, 30), utc(2026, 12, 2, 0)),
        (f"until 18:00 {BERLIN}", utc(2026, 12, 1, 12), utc(2026, 12, 1, 17)),
        (f"until 18:00 {BERLIN}", utc(2026, 7, 1, 12), utc(2026, 7, 1, 16)),
        # Clocks go forward on 28 March 2027, back on 31 October 2027
        (f"until 08:00 {BERLIN}", utc(2027, 3, 27, 12), utc(2027, 3, 28, 6)),
        (f"until 08:00 {BERLIN}", utc(2027, 10, 30, 12), utc(2027, 10, 31, 7)),
        (f"until 02:30 {BERLIN}", utc(2027, 3, 27, 12), utc(2027, 3, 28, 1, 30)),  # no such time: an hour on
        (f"until 02:30 {BERLIN}", utc(2027, 10, 30, 12), utc(2027, 10, 31, 0, 30)),  # twice: the first
        ("until 2026-12-02T08:00Z", NOON, utc(2026, 12, 2, 8)),
        ("until 2026-12-02T08:00+05:30", NOON, utc(2026, 12, 2, 2, 30)),
        (f"until 2026-12-02T08:00 {BERLIN}", NOON, utc(2026, 12, 2, 7)),
        (f"until 2027-07-02T08:00 {BERLIN}", NOON, utc(2027, 7, 2, 6)),
        (f"until 2027-03-28T02:30 {BERLIN}", NOON, utc(2027, 3, 28, 1, 30)),  # no such time: 03:30 in summer time
        (f"until 2027-10-31T02:30 {BERLIN}", NOON, utc(2027, 10, 31, 0, 30)),  # twice: the first, in summer time
        ("until 2027-10-31T02:30+01:00", NOON, utc(2027, 10, 31, 1, 30)),  # the second
    ],
)  # fmt: skip
def test_deadlines(text, now, expected):
    assert moment(text, now) == expected


@pytest.mark.parametrize(
    ("text", "oddity"),
    [
        (f"until 02:30 {BERLIN}", "02:30 is skipped on 2027-03-28, when the clocks go forward: 03:30 is meant"),
        (f"until 2027-03-28T02:00 {BERLIN}", "02:00 is skipped on 2027-03-28, when the clocks go forward: 03:00 is meant"),
        (f"until 2027-10-31T02:30 {BERLIN}", "02:30 comes twice on 2027-10-31: the first is meant; write an offset for the second"),
        (f"until 2027-10-31T02:00 {BERLIN}", "02:00 comes twice on 2027-10-31: the first is meant; write an offset for the second"),
        ("until 2027-10-31T02:30+01:00", None), ("until 02:30 UTC", None), (f"until 2027-10-31T03:00 {BERLIN}", None),
        (f"until 2027-03-28T03:00 {BERLIN}", None), (f"until 01:59 {BERLIN}", None),
    ],
)  # fmt: skip
def test_where_the_clocks_change_it_is_said_what_is_meant(text, oddity):
    (deadline,) = Budget.parse(text).limits
    assert isinstance(deadline, Deadline)
    assert deadline.oddity(utc(2027, 3, 27, 12)) == oddity


@given(moments(timezones=offsets), st.sampled_from([BERLIN, "America/New_York", "UTC"]), st.integers(1, 9999))
def test_any_deadline_has_a_moment_or_a_sentence(when, zone, year):
    deadline = Deadline(when, None if when.tzinfo else zone)
    try:
        deadline.oddity(utc(min(max(year, 2), 9998), 7, 1))
        ((_, amount),) = [(cap.resource, cap.amount) for cap in deadline.caps(Terms(now=utc(2, 1, 1)))]
    except BudgetError as error:
        assert re.search("too far from now|that moment passed", str(error))  # noqa: PT017
        return
    exact = deadline.moment(utc(2, 1, 1)) - dt.datetime.fromtimestamp(amount, dt.UTC)
    assert abs(exact) < dt.timedelta(milliseconds=1)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be set here")
@pytest.mark.parametrize(
    ("text", "expected"),
    [("until 18:00", utc(2027, 3, 27, 17)), ("until 08:00", utc(2027, 3, 28, 6)), ("until 2027-07-01T08:00", utc(2027, 7, 1, 6))],
)  # fmt: skip
def test_without_a_zone_the_machines_own_is_meant(monkeypatch, text, expected):
    """Its summer time included: at noon of 27 March 2027, 8 o'clock tomorrow is in summer time."""
    try:
        monkeypatch.setenv("TZ", BERLIN)
        time.tzset()
        assert moment(text, utc(2027, 3, 27, 12)) == expected
    finally:
        monkeypatch.undo()
        time.tzset()


@given(
    st.times().map(lambda time_of_day: time_of_day.replace(fold=0)),
    st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2037, 1, 1)),
    st.sampled_from([BERLIN, "America/New_York", "UTC"]),
)
def test_a_time_of_day_comes_within_a_day(time_of_day, now, zone):
    now = now.replace(tzinfo=dt.UTC)
    ahead = Deadline(time_of_day, zone).moment(now) - now
    assert dt.timedelta(0) < ahead <= dt.timedelta(hours=25)


@pytest.mark.parametrize(
    ("text", "late"), [("until 2026-12-01T11:00Z", "1h"), (f"until 2026-12-01T12:00 {BERLIN}", "1h"), ("until 2026-12-01T12:00Z", "0s")]
)  # fmt: skip
def test_a_deadline_that_has_passed_is_refused(text, late):
    with pytest.raises(BudgetError, match=f"that moment passed {late} ago; give a later one"):
        caps(text, now=NOON)


def test_without_a_given_moment_the_present_one_counts():
    before = time.time()
    ((_, amount),) = caps(f"until {(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()}")
    assert before + 3600 <= amount <= time.time() + 3600


# SLURM


@pytest.mark.parametrize(("text", "margin"), [("slurm", 0), ("slurm - 5min", 300)])
def test_slurm_ends_with_the_job(text, margin):
    environ = {"SLURM_JOB_END_TIME": str(int(NOON.timestamp()) + 3600)}
    assert caps(text, now=NOON, environ=environ) == [("clock", NOON.timestamp() + 3600 - margin)]


@pytest.mark.parametrize(
    ("text", "end", "sentence"),
    [
        ("slurm", None, "budget 'slurm': SLURM_JOB_END_TIME is not set, nor is SLURM_JOB_ID; run inside a SLURM job, or give a time such as 45min"),
        ("slurm - 5min", "soon", "budget 'slurm - 5min': SLURM_JOB_END_TIME is 'soon', not seconds since 1970"),
        ("slurm - 2h", str(NOON.timestamp() + 3600), "budget 'slurm - 2h': the job ends in 1h, and the margin leaves nothing of that; give a shorter one"),
        ("slurm - 1h", str(NOON.timestamp() + 3600), "the margin leaves nothing of that"),
        ("slurm", str(NOON.timestamp() - 90), "budget 'slurm': the job's end passed 1min30s ago, by SLURM_JOB_END_TIME or the scheduler; where it was put off"),
    ],
)  # fmt: skip
def test_slurm_refusals(text, end, sentence):
    with pytest.raises(BudgetError, match=re.escape(sentence)):
        caps(text, now=NOON, environ={} if end is None else {"SLURM_JOB_END_TIME": end})


def test_slurm_reads_this_process_by_default(monkeypatch):
    monkeypatch.setitem(os.environ, "SLURM_JOB_END_TIME", str(NOON.timestamp() + 60))
    assert caps("slurm", now=NOON) == [("clock", NOON.timestamp() + 60)]


def test_a_cap_remembers_its_limit():
    (cap,) = Budget.parse("2ep").caps(Terms(steps_per_epoch=5))
    assert cap == Cap("steps", 10.0, Amount(2, "ep"))


# Adding to a budget


@pytest.mark.parametrize(
    ("text", "more", "sum_"),
    [
        ("45min", "1h", "1h45min"), ("10ep", "5ep", "15ep"), ("100 steps", "50 updates", "150 steps"), ("5%", "10%", "15%"),
        ("0.1ep", "0.2ep", "0.3ep"), ("1e17 FLOP", "2 PFLOP", "1.02e17 FLOP"), ("300 Wh", "1 kWh", "1300 Wh"),
        ("2 gpuh", "1.5 gpuh", "3.5 gpuh"), ("2 gpuh", "30min", "2.5 gpuh"), ("$20 at $2.5/h", "$5", "$25 at $2.5/h"),
        ("$20 at $2.5/h", "$5 at $2.5/h", "$25 at $2.5/h"), ("$20 at $2.5/h", "1h", "$22.5 at $2.5/h"),
        ("20 CHF at 3 CHF/h", "5 CHF", "25 CHF at 3 CHF/h"), ("$3 at $1/h or $3 at $2/h", "$1", "$4 at $1/h or $4 at $2/h"),
        ("10ep or 45min", "1h", "10ep or 1h45min"), ("1h or 2 gpuh or $1 at $1/h", "1h", "2h or 3 gpuh or $2 at $1/h"),
        ("10ep or 45min", "1ep or 5min", "11ep or 50min"), ("slurm or 1h", "1h", "slurm or 2h"),
    ],
)  # fmt: skip
def test_more_is_added_to_every_limit_that_it_fits(text, more, sum_):
    assert str(Budget.parse(text).plus(more, now=NOON)) == sum_


def test_more_may_be_anything_that_means_a_budget():
    budget = Budget.parse("1h")
    for more in ("1h", Budget.parse("1h"), Amount(3600, "s"), dt.timedelta(hours=1)):
        assert str(budget.plus(more)) == "2h"


def test_a_time_is_added_to_gpu_hours_on_all_devices():
    assert str(Budget.parse("2 gpuh").plus("30min", devices=4)) == "4 gpuh"


@pytest.mark.parametrize(
    ("text", "later"),
    [
        ("until 18:00 UTC", "until 2026-12-01T19:00:00Z"),
        (f"until 18:00 {BERLIN}", "until 2026-12-01T19:00:00+01:00"),
        ("until 18:00-05:30", "until 2026-12-01T19:00:00-05:30"),
        ("until 23:30 UTC", "until 2026-12-02T00:30:00Z"),
        ("until 10:00 UTC", "until 2026-12-02T11:00:00Z"),
        ("until 2026-12-01T12:00Z", "until 2026-12-01T13:00:00Z"),
        (f"until 2027-03-28T01:30 {BERLIN}", "until 2027-03-28T03:30:00+02:00"),  # an hour later, though the clock says two
        (f"until 2027-10-31T02:30 {BERLIN}", "until 2027-10-31T02:30:00+01:00"),
    ],
)  # fmt: skip
def test_a_later_deadline_is_a_moment(text, later):
    moved = Budget.parse(text).plus("1h", now=NOON)
    assert str(moved) == later
    assert moment(str(moved), NOON) - moment(text, NOON.replace(hour=11)) == dt.timedelta(hours=1)


def test_a_time_of_day_is_the_next_one_from_when_the_run_began():
    """At the end of a run that began yesterday, the next one would be a day too late."""
    began, budget = NOON, Budget.parse("until 18:00 UTC")
    assert str(budget.plus("1h", now=began)) == "until 2026-12-01T19:00:00Z"
    assert str(budget.plus("1h", now=utc(2026, 12, 1, 18))) == "until 2026-12-02T19:00:00Z"


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the zone of a process cannot be set here")
def test_a_later_deadline_in_the_machines_own_zone(monkeypatch):
    try:
        monkeypatch.setenv("TZ", BERLIN)
        time.tzset()
        assert (
            str(Budget.parse("until 01:30").plus("1h", now=utc(2027, 3, 27, 12))) == "until 2027-03-28T03:30:00+02:00"
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_two_deadlines_that_become_one_moment_are_one_limit():
    both = Budget.parse(f"until 18:00 UTC or until 19:00 {BERLIN} or until 18:00Z")
    assert str(both.plus("1h", now=NOON)) == "until 2026-12-01T19:00:00Z or until 2026-12-01T20:00:00+01:00"


@pytest.mark.parametrize(
    ("text", "more", "sentence"),
    [
        ("45min", "5ep", "budget '45min': '5ep' fits none of its limits; add what one of its limits counts, or give the whole new budget (--to)"),
        ("10ep", "100 steps", "'100 steps' fits none of its limits"),
        ("5%", "1h", "'1h' fits none of its limits"),
        ("$20 at $2.5/h", "$5 at $3/h", "'$5 at $3/h' fits none of its limits"),
        ("$20 at $2.5/h", "€5", "budget '$20 at $2.5/h' has no EUR that '€5' could be added to"),
        ("45min", "$5", "budget '45min' has no USD that '$5' could be added to; add what one of its limits counts"),
        ("45min or 10ep", "1h or 1 gpuh", "'1 gpuh' fits none of its limits"),
        ("slurm", "1h", "budget 'slurm': 1h cannot be added, as SLURM itself sets when the job ends; `scontrol update JobId=ID TimeLimit=+60`"),
        ("slurm or 45min", "5ep", "'5ep' fits none of its limits"),
        ("45min", "until 18:00", "'until 18:00' is no amount to add; give it as the whole new budget (--to)"),
        ("45min", "slurm", "'slurm' is no amount to add"),
        ("45min", "-5min", "'-5min' is no addition; to end earlier, `budgeted stop RUN --in 5min`, or give the whole new budget (--to 30min)"),
        ("$20 at $2.5/h", " -$5", "'-$5' is no addition"),
        ("45min", "0min", "budget '0min': the amount must be positive and finite"),
        ("45min", "5k steps", "did you mean '5000 steps'?"),
        ("45min", "5", "budget '5': '5' has no unit"),
        ("45min", 5, "budget 5: a number without a unit"),
        ("45min", "", "budget '': it is empty"),
        ("45min", dt.timedelta(minutes=-5), "the amount must be positive and finite"),
        ("1e308 s", "1.7e308 s", "the amount must be positive and finite"),
        ("until 18:00 UTC", "1e9 h", "more than 'until 18:00 UTC' is too far from now to be a deadline; add less"),
    ],
)  # fmt: skip
def test_what_cannot_be_added(text, more, sentence):
    with pytest.raises(BudgetError, match=re.escape(sentence)):
        Budget.parse(text).plus(more, now=NOON)


units = st.sampled_from(["ep", "samples", "tokens", "s", "gpuh", "FLOP", "J", "%"])
decimals = st.decimals(min_value="0.001", max_value="1e6", places=3).map(float)


@given(decimals, decimals, units)
def test_decimals_add_up_exactly(a, b, unit):
    budget = Budget((Amount(a, unit),)).plus(Amount(b, unit))
    assert budget == Budget((Amount(float(Fraction(repr(a)) + Fraction(repr(b))), unit),))


@given(st.lists(limits, min_size=1, max_size=4, unique_by=str), limits, st.integers(1, 64))
def test_an_addition_moves_limits_outwards_only(several, more, devices):
    budget = Budget(tuple(several))
    try:
        longer = budget.plus(more, devices=devices, now=NOON)
    except BudgetError as error:
        assert re.search(r"\(--to|positive and finite|too far from now", str(error))  # noqa: PT017
        return
    assert Budget.parse(str(longer)) == longer
    terms = Terms(
        steps_per_epoch=1000,
        full=Budget.parse("1000ep"),
        devices=devices,
        now=NOON,
        environ={"SLURM_JOB_END_TIME": "99999999999"},
    )
    if len(longer.limits) == len(budget.limits):
        for old, new in zip(budget.limits, longer.limits, strict=True):
            try:
                (before,), (after,) = old.caps(terms), new.caps(terms)
            except BudgetError:
                continue  # less than an update, or long past
            assert before.resource == after.resource
            assert before.amount <= after.amount
