"""`budgeted forecast` as a user calls it, on made-up runs."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from budgeted.cli.main import main

BUDGETS = {"1%": 10, "2%": 20, "5%": 50, "10%": 100, "25%": 250, "50%": 500}


def run(*arguments, capsys, code=0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main(["forecast", *(str(a) for a in arguments)])
    assert end.value.code == code
    return capsys.readouterr()


@pytest.fixture
def study(shelf):
    random = np.random.default_rng(0)
    cells = {
        (row, budget): list(1 - (0.05 + (0.4 + k / 50) * (steps / 10) ** -0.5) * np.exp(0.02 * random.normal(size=3)))
        for k, row in enumerate(("linear", "cosine", "poly", "const"))
        for budget, steps in BUDGETS.items()
    }
    return shelf.study(cells, steps=BUDGETS)


def test_the_curve_is_a_table_and_a_figure(study, capsys):
    out, _ = run(study.path, capsys=capsys)
    assert "best accuracy of row 'linear' over budgets" in out
    assert re.search(r"25% +250 +3\.75s +0\.\d{4} \(0\.\d{4}-0\.\d{4}\) +0\.\d{4} +0\.\d{4}-0\.\d{4}", out)
    assert re.search(r"Intervals of 90% hit held-out budgets \d+ of 16", out)
    assert "40 backtests of 4 rows" in " ".join(out.split())
    assert (study.path / "forecast.png").stat().st_size > 10_000


def test_a_target(study, capsys, tmp_path):
    out, _ = run(study.path, "--target", "0.87", "--plot", tmp_path / "x" / "f.svg", "--row", "cosine", capsys=capsys)
    assert re.search(r"accuracy 0.8700 takes \d+ updates \(\d+(\.\d)? epochs, \d+(\.\d)?% of the full budget, ", out)
    assert "90% interval: " in out
    assert "interpolated" in out
    assert (tmp_path / "x" / "f.svg").exists()
    assert not (study.path / "forecast.png").exists()
    out, _ = run(study.path, "--target", "0.3", capsys=capsys)
    assert "is reached at the smallest budget already (10 updates" in out


def test_a_budget(study, capsys):
    out, _ = run(study.path, "--budget", "80%", capsys=capsys)
    assert re.search(
        r"800 updates \(80 epochs, 80% of the full budget, .*\) buy accuracy 0\.9\d{3} \(90% interval", out
    )
    assert "1.6 times the largest budget trained: extrapolated" in out


def test_json(study, capsys):
    out, _ = run(study.path, "--target", "0.87", "--json", capsys=capsys)
    found = json.loads(out)
    answer = found["answer"]
    assert answer["low"]["steps"] < answer["budget"]["steps"] < answer["high"]["steps"]
    assert answer["budget"]["epochs"] == pytest.approx(answer["budget"]["steps"] / 10)
    assert sum(family["weight"] for family in found["families"]) == pytest.approx(1)
    assert sum(hits["backtests"] for hits in found["hits"]) == 40
    out, _ = run(study.path, "--budget", "10%", "--json", capsys=capsys)
    answer = json.loads(out)["answer"]
    assert answer["low"] < answer["accuracy"] < answer["high"]


def test_folders(study, shelf, capsys, tmp_path):
    run(shelf.out, capsys=capsys)  # the only study of a folder of runs
    run(study.path.parent, capsys=capsys)
    _, err = run(tmp_path / "nowhere", capsys=capsys, code=2)
    assert "there is no folder" in err
    (study.path.parent / "other").mkdir()
    (study.path.parent / "other" / "study.json").write_text((study.path / "study.json").read_text())
    _, err = run(shelf.out, capsys=capsys, code=2)
    assert "has 2 studies; name one: " in err


def test_loose_runs(shelf, capsys):
    """Without a study there is no full budget, and an epoch is as long as the runs show."""
    from budgeted.core.record import Spec

    for k, schedule in enumerate(("linear", "cosine", "poly", "const")):
        for epochs in (1, 2, 5, 10, 25, 50):
            shelf.put(Spec("t", f"{epochs}ep", schedule), 1 - 0.05 - (0.4 + 0.01 * k) * epochs**-0.5, steps=10 * epochs)
    out, _ = run(shelf.out, "--budget", "70ep", capsys=capsys)
    assert re.search(r"700 updates \(70 epochs, [0-9.]+s\) buy accuracy 0\.9", out)
    assert "One seed" in out
    assert (shelf.out / "studies" / "all" / "forecast.png").exists()
    _, err = run(shelf.out, "--budget", "50%", capsys=capsys, code=2)
    assert "these runs know no full budget to take a share of; write epochs or updates" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "0.9", "--budget", "2h"), "give one of them"),
        (("--budget", "soon"), "budget 'soon'"),
        (("--budget", "1000ep"), "so nothing is said beyond"),
        (("--budget", "until 18:00"), "ends at a moment"),
        (("--target", "0.99"), "accuracy 0.99 is not reached by"),
        (("--row", "liner"), "did you mean 'linear'"),
        (("--level", "2"), "the level of an interval is from 0.5"),
        (("--plot", "figure"), "give it an ending"),
    ],
)
def test_a_wrong_argument_ends_in_one_sentence(study, capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    _, err = run(study.path, *arguments, capsys=capsys, code=2)
    assert said in err
    assert len(err.splitlines()) == 1
