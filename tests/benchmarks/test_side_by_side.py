from __future__ import annotations

import pytest
from side_by_side import draw, extent, ratios, spread


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([3.0], (3.0, 3.0)),
        ([3.0, 1.0, 2.0], (1.0, 3.0)),
        ([float(k) for k in range(10)], (0.0, 9.0)),
        ([float(k) for k in range(11)], (2.0, 8.0)),  # quartiles of eleven
    ],
)
def test_few_values_show_their_ends_and_many_their_quartiles(values, ends):
    assert extent(values) == ends
    assert extent(values[::-1]) == ends


def test_a_spread_reads():
    assert spread([2.0]) == "2.00"
    assert spread([0.5, 2.0, 1.0], ".1f") == "1.0 (0.5 to 2.0)"


def test_ratios_are_of_the_same_round():
    assert ratios([2.0, 30.0], [1.0, 10.0]) == [2.0, 3.0]


def test_a_picture_is_drawn_where_one_is_asked_for(tmp_path):
    found = {"plain loop": [1.0, 1.0], "attach": [1.1, 0.9], "slow": [3.0, 5.0]}
    draw(None, "times", found)
    draw(tmp_path / "ratios.svg", "times the plain loop's", found)
    drawn = (tmp_path / "ratios.svg").read_text()
    assert all(f"<!-- {text} -->" in drawn for text in (*found, "times the plain loop's"))
