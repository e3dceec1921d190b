"""Runs that are killed again and again, each life a process of its own: the harness of `benchmarks/kills.py`, in small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["KILL", "TERM", "USR1"])
def test_the_outcome_is_that_of_a_run_left_alone(signal):
    command = [sys.executable, str(HARNESS), "--kills", "20", "--signal", signal, "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"20 kills by SIG{signal} in " in done.stdout
    assert done.stdout.endswith("every outcome equal to the undisturbed run's, to the bit\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "model", "budget"),
    [
        ("imagenette64(images=64, crop=32, batch=16, overfit=1)", None, "20steps"),
        ("camvid(images=12, crop=65, batch=4, overfit=1)", None, "12steps"),
    ],
)
def test_so_it_is_where_threads_read_the_data(task, model, budget):
    if "BUDGETED_DATA" not in os.environ:
        pytest.skip("needs real data: set BUDGETED_DATA to the folder that holds imagenette64 and camvid")
    command = [sys.executable, str(HARNESS), "--kills", "3", "--task", task, "--budget", budget, "--evaluations", "3"]
    command += ["--data", os.environ["BUDGETED_DATA"], *(("--model", model) if model else ())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "every outcome equal to the undisturbed run's, to the bit" in done.stdout
