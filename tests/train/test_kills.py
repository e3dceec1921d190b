"""Runs that are killed again and again, each life a process of its own: the harness of `benchmarks/kills.py`, in small."""

from __future__ import annotations

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
