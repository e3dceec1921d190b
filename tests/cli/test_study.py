"""`budgeted study` and `budgeted report` as a user calls them; real processes, really killed."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

import tiny_task
from budgeted.cli.main import main

TINY = f"{tiny_task.__file__}:Tiny"
COMMAND = [sys.executable, "-m", "budgeted.cli.main"]
TOML = f"""
title = "Small"
task = "{TINY}"
budgets = ["10%", "50%", "100%"]
seeds = 2
schedules = ["const", "step-d1", "linear"]
precision = "float32"
"""


@pytest.fixture
def toml(tmp_path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


def run(*arguments, capsys=None, code=0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    assert end.value.code == code
    return capsys.readouterr() if capsys else ("", "")


def start(*arguments, cwd: Path) -> subprocess.Popen:
    """In a group of its own, so that all of its processes can be killed at once."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def table(out: Path, name: str = "small-tiny_task.py-Tiny") -> list[dict[str, str]]:
    with open(out / "studies" / name / "table.csv") as file:
        return list(csv.DictReader(file))


def finished(out: Path) -> int:
    return len(list(out.glob("*/result.json")))


def wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> list[dict[str, str]]:
    """The table of a study that nobody disturbed, each run trained alone and in one process."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "small.toml").write_text(TOML)
    subprocess.run(
        [*COMMAND, "study", "small.toml", "--jobs", "0", "--no-share"], cwd=folder, check=True, capture_output=True
    )
    return table(folder / "runs")


def test_the_table_is_printed_and_written(tmp_path, toml, reference, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, err = run("study", toml, "--jobs", "0", capsys=capsys)
    assert "Small" in out
    assert re.search(r"linear +\d\.\d{4}", out)
    assert "updates (" in out  # what was shared
    assert "studies/small-tiny_task.py-Tiny: index.html, report.md, tables.tex" in out
    assert "18 of 18 runs" in err
    assert table(tmp_path / "runs") == reference
    _, err = run("study", toml, "--jobs", "0", capsys=capsys)
    assert "18 of 18 runs, 18 of them from before" in err
    out, _ = run("report", "--formats", "none", capsys=capsys)
    assert "Small" in out


def test_killed_workers_driver_and_everything(tmp_path, toml, reference):
    """Kill -9 again and again; the finished table is the same to the bit."""
    runs = tmp_path / "runs"
    arguments = ("study", toml, "--jobs", "2", "--save-every", "20ms")

    first = start(*arguments, cwd=tmp_path)
    wait_for(lambda: finished(runs) >= 2)
    os.kill(first.pid, signal.SIGKILL)  # the driver alone: its workers must leave by themselves
    first.communicate(timeout=120)  # until the last of them has let go of what they print to
    wait_for(lambda: not _alive(first.pid))

    second = start(*arguments, cwd=tmp_path)
    wait_for(lambda: finished(runs) >= 5 or second.poll() is not None)
    os.killpg(second.pid, signal.SIGKILL)  # everything
    second.communicate(timeout=120)

    third = start(*arguments, cwd=tmp_path)
    wait_for(lambda: finished(runs) >= 8 or third.poll() is not None)
    for pid in _children(third.pid):  # workers, and what forks them
        os.kill(pid, signal.SIGKILL)
    _, err = third.communicate(timeout=300)
    if third.returncode:  # what forks the workers was killed with them
        last = start(*arguments, cwd=tmp_path)
        _, err = last.communicate(timeout=300)
        assert last.returncode == 0, err
    assert finished(runs) == 18
    assert table(runs) == reference


def _alive(group: int) -> bool:
    """Whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == pid and int(stat.parent.name) != pid:  # its process group
            found.append(int(stat.parent.name))
    return found


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path, toml, reference):
    runs = tmp_path / "runs"
    first = start("study", toml, "--jobs", "2", cwd=tmp_path)
    wait_for(lambda: finished(runs) >= 3)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal sends it: to every process of the group
    _, err = first.communicate(timeout=120)
    assert first.returncode == 130
    assert re.search(r"SIGINT: \d+ of 18 runs are finished; what was under way has saved", err)
    second = start("study", toml, "--jobs", "2", cwd=tmp_path)
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert "from before" in err
    assert table(runs) == reference


def test_a_run_that_always_fails_is_said_and_the_others_end(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.toml"
    path.write_text(TOML.replace(":Tiny", ":Explodes"))
    out, err = run("study", path, "--jobs", "0", "--seeds", "1", capsys=capsys, code=1)
    assert "3 of 9 runs, 6 failed" in err
    assert "the loss was nan at update 25" in err
    assert "PARTIAL" in out
    assert re.search(r"failed: tiny_task.py-Explodes-\w+ \(linear, 50%, seed 0\): the loss was nan at update 25", out)
    _, err = run("study", path, "--jobs", "0", "--seeds", "1", "--retry", capsys=capsys, code=1)
    assert "3 of 9 runs, 3 of them from before, 6 failed" in err


def test_narrowing_on_the_command_line(tmp_path, toml, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, _ = run(
        "study",
        toml,
        "--budgets",
        "10%,3ep",
        "--seeds",
        "4,7",
        "--row",
        "linear",
        "--dry-run",
        "--jobs",
        "0",
        capsys=capsys,
    )
    assert out == "small-tiny_task.py-Tiny: 4 runs, of which 0 are finished; 4 would be trained, 100 updates\n"
    out, _ = run("study", toml, "--dry-run", "--jobs", "0", capsys=capsys)
    assert "18 would be trained, 1,380 updates, 540 of them made for several runs at once" in out
    assert not (tmp_path / "runs").exists()


def test_what_there_is(capsys):
    out, _ = run("study", capsys=capsys)
    assert re.search(r"table2 +Learning rate schedules under budgets", out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("study", "tabel2"), "study 'tabel2' is unknown; did you mean 'table2'"),
        (("study", "quick", "--seeds", "many"), "--seeds 'many' is neither a number of seeds nor a list"),
        (("study", "quick", "--seeds", "0"), "at least one is needed"),
        (("study", "quick", "--row", "liner"), "has no row 'liner'; did you mean 'linear'"),
        (("study", "quick", "--budgets", "soon"), "budgets: budget 'soon'"),
        (("study", "quick", "--save-every", "often"), "--save-every 'often' is not a time"),
        (("study", "quick", "--gpus", "1"), "--gpus goes with --ray"),
        (("study", "quick", "--ray", "local", "--jobs", "2"), "--jobs is of this machine"),
        (("study", "quick", "--task", "digts", "--jobs", "0"), "task 'digts' is unknown"),
        (("study", "quick", "--budgets", "0.01%", "--jobs", "0"), "the least is one"),
        (("report", "nowhere"), "there is no folder 'nowhere'"),
        (("report", ".", "--formats", "pdf"), "--formats 'pdf' is unknown"),
        (("report", "."), "there are no finished runs in"),
    ],
)
def test_a_wrong_argument_ends_in_one_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    _, err = run(*arguments, capsys=capsys, code=2)
    assert said in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_what_the_report_lacks_is_said_before_anything_is_trained(tmp_path, toml, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "plotly" else object())
    _, err = run("study", toml, capsys=capsys, code=2)
    assert "the report needs plotly, which is not installed: pip install 'budgeted[study]', or give --no-report" in err
    assert not (tmp_path / "runs").exists()


def test_a_budget_in_time_is_a_column_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "timed.toml"
    path.write_text(
        f'task = "{TINY}"\nbudgets = ["500ms", "1s"]\nseeds = 1\nschedules = ["linear"]\nprecision = "float32"\n'
    )
    out, _ = run("study", path, "--jobs", "0", capsys=capsys)
    assert re.search(r"0.5s +1s", out) or re.search(r"500ms +1s", out)
    assert len(table(tmp_path / "runs", "timed-tiny_task.py-Tiny")) == 2


def test_runs_of_budgeted_train_are_reported_too(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for schedule in ("linear", "const"):
        run(
            "train",
            TINY,
            "--budget",
            "2ep",
            "--schedule",
            schedule,
            "--lr",
            "0.2",
            "--no-curve",
            "--json",
            capsys=capsys,
        )
    out, _ = run("report", capsys=capsys)
    assert re.search(r"linear, lr 0.2 +\d", out)
    assert (tmp_path / "runs" / "studies" / "all" / "index.html").exists()


def test_a_damaged_study_is_said(tmp_path, capsys):
    folder = tmp_path / "studies" / "s"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text("{")
    _, err = run("report", tmp_path, capsys=capsys, code=2)
    assert "is damaged: it is not JSON; run the study again" in err
    (folder / "study.json").write_text(json.dumps({"schema": 99, "study": {}, "tasks": {}, "cells": []}))
    _, err = run("report", tmp_path, capsys=capsys, code=2)
    assert "has schema 99, and this version reads up to 1; update budgeted" in err


def test_two_studies_need_a_folder_each(tmp_path, toml, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        run(
            "study",
            toml,
            "--jobs",
            "0",
            "--seeds",
            "1",
            "--row",
            "linear",
            "--name",
            name,
            "--no-report",
            capsys=capsys,
        )
    _, err = run("report", "runs", "--out", "x", capsys=capsys, code=2)
    assert "has 2 studies, whose files would overwrite each other" in err
    run("report", "runs/studies/one", "--out", "x", "--formats", "md", capsys=capsys)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["report.md"]


def test_help_names_what_a_study_is():
    text = CliRunner().invoke(__import__("budgeted.cli.study", fromlist=["study"]).study, ["--help"]).output
    assert "schedules x budgets x seeds" in text
