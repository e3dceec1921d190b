"""Who goes on in a halving."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted.core.halving import promote

FIGURES = st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=40)


@given(FIGURES, st.floats(2, 10) | st.just(math.inf), st.booleans())
def test_the_best_go_on_and_never_one_that_came_to_nothing(figures, eta, maximize):
    chosen = promote(figures, eta, maximize=maximize)
    there = {name: figure for name, figure in figures.items() if figure is not None}
    assert len(chosen) == min(len(there), max(1, int(len(figures) / eta)))
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= there.keys()
    sign = 1 if maximize else -1
    scores = [sign * there[name] for name in chosen]
    assert scores == sorted(scores, reverse=True)
    dropped = [sign * figure for name, figure in there.items() if name not in chosen]
    assert not dropped or not scores or max(dropped) <= scores[-1]


@given(FIGURES, st.floats(2, 10))
def test_less_is_better_is_the_same_with_the_signs_turned(figures, eta):
    turned = {name: None if figure is None else -figure for name, figure in figures.items()}
    assert promote(figures, eta, maximize=True) == promote(turned, eta, maximize=False)


@pytest.mark.parametrize(
    ("count", "eta", "expected"), [(30, 3, 10), (10, 3, 3), (3, 3, 1), (2, 3, 1), (9, 2, 4), (7, 2.5, 2)]
)
def test_how_many_go_on(count, eta, expected):
    assert len(promote({str(k): float(k) for k in range(count)}, eta, maximize=True)) == expected


def test_of_equal_ones_the_first():
    assert promote(dict.fromkeys("abcd", 1.0), 2, maximize=True) == ("a", "b")
