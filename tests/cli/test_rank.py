"""`budgeted rank`, and a study whose ranks are to be predicted, from its file to its tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

import tiny_task
from budgeted.cli.main import main

TOML = f"""
title = "Ranks"
task = "{tiny_task.__file__}:Tiny"
budgets = ["10%", "25%", "100%"]
seeds = 2
schedules = ["const", "linear"]
lrs = [0.001, 0.01, 0.1, 1.0]
ranks = "linear"
precision = "float32"
figures = []
"""


def run(*arguments, capsys, code=0):
    with pytest.raises(SystemExit, match=rf"^{code}$"):
        main([str(a) for a in arguments])
    return capsys.readouterr()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "ranks.toml").write_text(TOML)
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["study", str(folder / "ranks.toml"), "--jobs", "0", "--out", str(folder / "runs")])
    return folder / "runs" / "studies" / "ranks-tiny_task.py-Tiny"


def test_only_the_reference_is_trained_at_the_last_budget(study):
    with open(study / "runs.csv") as file:
        runs = list(csv.DictReader(file))
    assert {run["row"].partition(",")[0] for run in runs if run["budget"] == "100%"} == {"linear"}
    assert len(runs) == 4 * 2 * (2 + 2 + 1)


def test_the_studys_own_report_has_the_ranks(study):
    with open(study / "rank-prediction.csv") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 3 * 2 * 2
    assert {cell["configurations"] for cell in cells} == {"4"}
    assert all(-1 <= float(cell["value"]) <= 1 for cell in cells if cell["figure"] == "tau")
    assert "Kendall's tau" in (study / "report.md").read_text()
    assert (study / "rank-prediction.png").stat().st_size > 10_000


def test_rank_of_a_folder_with_another_reference_and_place(study, tmp_path, capsys):
    out = run("rank", study, "--reference", "const", "--out", tmp_path / "x", "--formats", "md,tex", capsys=capsys).out
    assert "Kendall's tau between the ranks at a budget and those of const at 25%" in out
    assert "lr 0.001" not in out  # nothing was left out
    assert sorted(path.name for path in Path(tmp_path / "x").iterdir()) == ["rank-prediction.md", "rank-prediction.tex"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--reference", "cosine"), "has no schedule 'cosine'; it has const, linear"),
        (("--formats", "pdf"), "--formats 'pdf' is unknown"),
    ],
)
def test_what_cannot_be_ranked(study, capsys, arguments, sentence):
    assert sentence in run("rank", study, *arguments, capsys=capsys, code=2).err


def test_no_study(tmp_path, capsys):
    assert "cannot read" in run("rank", tmp_path, capsys=capsys, code=2).err
