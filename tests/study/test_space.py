"""Searches as text: a grid, a list, draws; and what is wrong in one."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted.core.errors import StudyError
from budgeted.study import space
from budgeted.study.space import Configuration, built_in, read_search, search_from

GRID = {"task": "digits", "lrs": [0.1, 0.2]}


def drawn(**table):
    return search_from({"task": "digits", "draw": [{"count": 5, **table}]}, "s").configurations


def test_the_example_of_the_page_is_one():
    text = space.__doc__.split("\n\n", 1)[1]
    search = search_from(tomllib.loads(text), "x")
    assert len(search.configurations) == 4 + 1 + 10
    assert (search.rungs, search.eta, search.seeds) == (3, 3, (0,))


@pytest.mark.parametrize("name", built_in())
def test_those_of_the_package(name):
    search = read_search(name)
    assert search.title
    assert search.name == name
    assert len(search.configurations) == 30


def test_that_of_the_examples():
    search = read_search(str(Path(__file__).parents[2] / "examples" / "search_fashion_mnist.toml"))
    assert (search.name, len(search.configurations)) == ("search_fashion_mnist", 30)


def test_a_grid_multiplies_and_lists_and_draws_stand_beside():
    search = search_from(
        {**GRID, "models": ["mlp", "conv-net"], "configurations": [{"optimizer": "adamw", "lr": 1}], "draw": [{"count": 1, "lr": [5]}]},
        "s",
    )  # fmt: skip
    assert search.configurations == (
        Configuration("mlp", lr=0.1),
        Configuration("mlp", lr=0.2),
        Configuration("conv-net", lr=0.1),
        Configuration("conv-net", lr=0.2),
        Configuration(optimizer="adamw", lr=1.0),
        Configuration(lr=5.0),
    )


@given(st.floats(1e-6, 1e3), st.floats(1.01, 1e6), st.integers(0, 1000), st.sampled_from(["log", "uniform"]))
def test_what_is_drawn_is_within_its_range_and_drawn_again_the_same(low, factor, seed, kind):
    ends = [low, low * factor]
    once, again = (drawn(seed=seed, lr={kind: ends}, count=2) for _ in range(2))
    assert once == again
    assert all(ends[0] <= one.lr <= ends[1] for one in once)


def test_one_name_more_changes_none_of_the_others():
    rates = [one.lr for one in drawn(lr={"log": [0.01, 1.0]})]
    more = drawn(lr={"log": [0.01, 1.0]}, model=["conv-net(width={width})"], width={"whole": [4, 32]})
    assert [one.lr for one in more] == rates
    assert {one.model.rstrip("0123456789)") for one in more} == {"conv-net(width="}


def test_a_logarithmic_range_is_even_in_the_logarithm():
    rates = [one.lr for one in drawn(count=400, lr={"log": [0.001, 10.0]})]
    assert 160 < sum(rate < 0.1 for rate in rates) < 240
    assert math.isclose(sum(map(math.log10, rates)) / 400, -1, abs_tol=0.2)


def test_both_ends_of_a_whole_range_are_drawn():
    found = drawn(count=3, model="mlp(width={w})", w={"whole": [1, 3]})
    assert {one.model for one in found} == {"mlp(width=1)", "mlp(width=2)", "mlp(width=3)"}


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({**GRID, "bugdet": "1ep"}, "'bugdet' is unknown; did you mean 'budget'"),
        ({**GRID, "eta": 1.5}, "eta is a number from 2, since one in eta goes on, and is 1.5"),
        ({**GRID, "rungs": 1}, "rungs is a whole number from 2, and is 1"),
        ({**GRID, "rungs": 3, "smallest": "1ep"}, "has both rungs and smallest"),
        ({**GRID, "lrs": [0.1]}, "has 1 configuration, and there is nothing to choose"),
        ({"task": "digits"}, "has no configurations, and there is nothing to choose"),
        ({"lrs": [0.1, 0.2]}, "has no task"),
        ({**GRID, "lrs": [0.1, 0.1]}, "has 'lr 0.1' twice among its configurations"),
        ({**GRID, "lrs": [0.1, -1]}, "lr is a positive number, and is -1"),
        ({**GRID, "cooldown": 1.0}, "cooldown is a share of a rung above 0 and below 1"),
        ({**GRID, "strategy": "trunc"}, "strategy 'trunc' is unknown; did you mean 'trunk'"),
        ({**GRID, "value": "best_progress"}, "value 'best_progress' is unknown"),
        ({**GRID, "configurations": [{"rate": 1}]}, "configuration 1: 'rate' is unknown"),
        ({**GRID, "draw": [{"lr": [1, 2]}]}, "draw 1: count is how many are drawn, .* and is None"),
        ({**GRID, "draw": [{"count": 2, "seed": "x"}]}, "seed is a whole number, and is 'x'"),
        ({**GRID, "draw": [{"count": 3, "lr": [1, 2]}]}, "count is 3, and only 2 different ones were drawn"),
        ({**GRID, "draw": [{"count": 2, "lr": {"log": [1.0, 0.003]}}]}, "has no room: the first end is below the second"),
        ({**GRID, "draw": [{"count": 2, "lr": {"log": [0, 1.0]}}]}, "a logarithmic range begins above 0"),
        ({**GRID, "draw": [{"count": 2, "lr": {"log": [1.0]}}]}, "has two ends"),
        ({**GRID, "draw": [{"count": 2, "lr": {"lgo": [1, 2]}}]}, "lr is a range of one of log, uniform, whole"),
        ({**GRID, "draw": [{"count": 2, "lr": {"whole": [1, 2.5]}}]}, "ends that are no whole numbers"),
        ({**GRID, "draw": [{"count": 2, "lr": []}]}, "lr is a list of texts or numbers, or a range"),
        ({**GRID, "draw": [{"count": 2, "lr": ["fast", "slow"]}]}, "lr is drawn from numbers, and one is"),
        ({**GRID, "draw": [{"count": 2, "modle": ["a"]}]}, "'modle' is drawn and used nowhere; did you mean 'model'"),
        ({**GRID, "draw": [{"count": 2, "model": "mlp({w})"}]}, r"\{w\} stands for nothing that is drawn"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(found, why):
    with pytest.raises(StudyError, match=why):
        search_from(found, "s")


def test_what_is_no_search_is_said(tmp_path):
    with pytest.raises(StudyError, match="search 'digts' is unknown; did you mean 'digits'"):
        read_search("digts")
    with pytest.raises(StudyError, match=r"cannot read search '.*missing\.toml'"):
        read_search(str(tmp_path / "missing.toml"))
    (tmp_path / "bad.toml").write_text("budget = [")
    with pytest.raises(StudyError, match="is not TOML"):
        read_search(str(tmp_path / "bad.toml"))
