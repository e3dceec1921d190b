from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted.core.text import exact, format_duration, format_number, nearest, parse_duration

positive = st.floats(min_value=0, max_value=1e300, exclude_min=True)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_the_same_float(number):
    assert float(format_number(number)) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1, "1"), (999999.0, "999999"), (1e6, "1e6"), (1234567.0, "1234567"), (1.5e9, "1.5e9"), (5e-7, "5e-7"),
        (1e22, "1e22"), (1.25e-300, "1.25e-300"), (0.1, "0.1"), (2.5, "2.5"), (-3.0, "-3"),
    ],
)  # fmt: skip
def test_numbers_are_short(number, text):
    assert format_number(number) == text


@given(positive)
def test_a_duration_reads_back_as_the_same_float(seconds):
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("45min", 2700), ("1h30m", 5400), ("1h 30 min", 5400), ("90 s", 90), ("2 DAYS", 172800), ("1d2h3m4s", 93784),
        ("250ms", 0.25), ("1_000 s", 1000), (".5h", 1800), ("1e3s", 1000), ("0.1s", 0.1), ("0s", 0),
    ],
)  # fmt: skip
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "45", "min", "ten minutes", "5 parsecs", "1h30", "-5s", "1h or", "5s 3ep"])
def test_what_is_no_duration(text):
    assert parse_duration(text) is None


def test_absurd_exponents_cost_nothing():
    """As exact fractions they would take all memory."""
    assert parse_duration("1e999999999 s") == math.inf
    assert parse_duration("1e308 d") == math.inf
    assert parse_duration("1e-999999999 s") == 0


def test_exact_takes_the_decimal_that_was_written():
    assert exact(0.05) == Fraction(1, 20) == exact("0.05")
    assert Fraction(0.05) != Fraction(1, 20)


def test_nearest_names_a_close_word_only():
    assert nearest("Linaer", ["linear", "poly"]) == "; did you mean 'linear'?"
    assert nearest("xyz", ["linear", "poly"]) == ""
