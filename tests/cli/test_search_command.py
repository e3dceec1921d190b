"""`budgeted search` as a user calls it; real processes, really killed."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny_task
from budgeted.cli.main import main

TINY = f"{tiny_task.__file__}:Tiny"
COMMAND = [sys.executable, "-m", "budgeted.cli.main"]
TOML = f"""
title = "Small"
task = "{TINY}"
precision = "float32"
lrs = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
"""


@pytest.fixture
def toml(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


def run(*arguments, capsys, code=0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == code
    return capsys.readouterr()


def lines(out: Path, file: str = "search.csv") -> list[dict[str, str]]:
    with open(out / "searches" / "small" / file) as opened:
        return list(csv.DictReader(opened))


def test_who_went_on_is_printed_and_written(tmp_path, toml, capsys):
    out, err = run("search", toml, "--jobs", "0", capsys=capsys)
    assert "small, fitted, rung 1 of 3: 6 at 22 steps: 6 of 6 runs" in err
    assert "small, fitted, rung 3 of 3: 1 at 20ep: 1 of 1 runs" in err
    assert re.search(r"lr 0\.\d+ +↑ \d\.\d{4} +↑ \d\.\d{4} +★ \d\.\d{4}", out)
    assert "spent: 466 updates, 2.3 full runs, 39% of training all 6 fully" in out
    written = tmp_path / "runs" / "searches" / "small"
    assert {path.name for path in written.iterdir()} == {
        "search.json", "search.md", "search.csv", "search.png", "search.svg",
    }  # fmt: skip
    assert [
        sum(line["budget"] == b for line in lines(tmp_path / "runs")) for b in ("22 steps", "67 steps", "20ep")
    ] == [6, 2, 1]
    assert sum(int(line["promoted"]) for line in lines(tmp_path / "runs")) == 2 + 1 + 1
    _, err = run("search", toml, "--jobs", "0", capsys=capsys)
    assert "6 of 6 runs, 6 of them from before" in err


def test_the_command_that_it_names_trains_the_very_run(tmp_path, toml, capsys):
    run("search", toml, "--jobs", "0", "--strategy", "trunk", capsys=capsys)
    content = json.loads((tmp_path / "runs" / "searches" / "small" / "search.json").read_text())
    program, *arguments = shlex.split(content["climbs"][0]["command"])
    assert program == "budgeted"
    out, _ = run(*arguments, "--out", "again", "--no-curve", "--json", capsys=capsys)
    (folder,) = (path.parent for path in (tmp_path / "again").glob("*/result.json"))
    assert (tmp_path / "runs" / folder.name / "result.json").exists()
    assert json.loads(out)["metric"]["final"] == content["climbs"][0]["figure"]


def test_a_comparison_says_how_far_rungs_can_be_trusted(tmp_path, toml, capsys):
    toml.write_text(TOML + "truth_seeds = [5]\n")
    out, err = run("search", toml, "--jobs", "0", "--compare", capsys=capsys)
    assert "small, everything: 54 of 54 runs" in err
    assert re.search(r"Kendall's tau with the truth +22 steps +67 steps +20ep", out)
    assert re.search(r"tau of fitted minus that of truncated at 22 steps: [+-]\d\.\d\d", out)
    assert len(lines(tmp_path / "runs", "comparison.csv")) == 3 * 3 * 6
    assert (tmp_path / "runs" / "searches" / "small" / "comparison.png").exists()
    assert "regret flattered" not in out
    toml.write_text(TOML)
    out, _ = run("search", toml, "--jobs", "0", "--compare", capsys=capsys)
    assert "regret flattered; give truth_seeds others than seeds" in " ".join(out.split())


@pytest.mark.parametrize(
    ("strategy", "kills"),
    [
        ("fitted", [(2, os.kill)]),  # the command alone: its workers must leave by themselves
        ("trunk", [(1, os.killpg), (7, os.killpg)]),  # everything, on the first rung and on the second
        ("truncated", [(3, os.killpg)]),
    ],
)
def test_the_command_is_killed_and_goes_on_to_the_same_end(tmp_path, toml, capsys, strategy, kills):
    arguments = ["search", "small.toml", "--strategy", strategy]
    run(*arguments, "--jobs", "0", "--out", "undisturbed", capsys=capsys)

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            [*COMMAND, *arguments, "--jobs", "2", "--save-every", "20ms"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "TINY_SECONDS": "0.003"}, start_new_session=True,
        )  # fmt: skip

    for finished, kill in kills:
        process, until = start(), time.monotonic() + 120
        while len(list((tmp_path / "runs").glob("*/result.json"))) < finished and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
        assert process.poll() is None
        kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=120)
    last = start()
    _, err = last.communicate(timeout=240)
    assert last.returncode == 0, err
    assert "from before" in err
    assert lines(tmp_path / "runs") == lines(tmp_path / "undisturbed")


def test_what_it_will_take(toml, capsys):
    out, _ = run("search", toml, "--dry-run", "--jobs", "0", "--strategy", "truncated", capsys=capsys)
    assert out == (
        "small: 6 configurations on rungs of 22 steps (22 updates), 67 steps (67 updates), 20ep (200 updates): 9 runs, "
        "355 updates, 1.8 full runs\n"
    )
    assert not Path("runs").exists()


def test_what_there_is(capsys):
    out, _ = run("search", capsys=capsys)
    assert re.search(r"digits +Thirty configurations", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "digts"), "search 'digts' is unknown; did you mean 'digits'"),
        (("search", "digits", "--strategy", "fited"), "strategy 'fited' is unknown; did you mean 'fitted'"),
        (("search", "digits", "--seeds", "0"), "at least one is needed"),
        (("search", "digits", "--budget", "5min", "--jobs", "0"), "the budget '5min' is not counted in updates"),
        (("search", "digits", "--budget", "3 steps", "--jobs", "0"), "the first is 0.33 of an update"),
        (("search", "digits", "--gpus", "1"), "--gpus goes with --ray"),
        (("search", "digits", "--save-every", "often"), "--save-every 'often' is not a time"),
    ],
)
def test_a_wrong_argument_ends_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    _, err = run(*arguments, capsys=capsys, code=2)
    assert said in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_the_report_lacks_is_said_before_anything_is_trained(toml, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "scipy" else object())
    _, err = run("search", toml, capsys=capsys, code=2)
    assert "the report needs scipy, which is not installed: pip install 'budgeted[study]'" in err
    assert not Path("runs").exists()
