from __future__ import annotations

import builtins
import subprocess
import sys
import time

import pytest

from budgeted.core import clock


def test_the_age_covers_the_time_before_the_import():
    code = "import time; time.sleep(0.2); from budgeted.core.clock import process_age; print(process_age())"
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert age >= 0.2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells in /proc when a process started")
def test_the_process_is_older_than_its_modules():
    """And grows older in seconds: a wrong unit would break one of the two."""
    imported = time.monotonic() - clock._IMPORTED
    first = clock.process_age()
    time.sleep(0.05)
    assert first >= imported
    assert 0.05 <= clock.process_age() - first < 60


@pytest.mark.parametrize("content", [None, "", "1 (python) R 0", "1 (a) b) R " + "x " * 40])
def test_without_proc_the_import_is_the_anchor(monkeypatch, tmp_path, content):
    stat, real = tmp_path / "stat", builtins.open
    if content is not None:
        stat.write_text(content)
    monkeypatch.setattr(clock, "open", lambda _, **how: real(stat, **how), raising=False)
    monkeypatch.setattr(clock, "_IMPORTED", -5.0)
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    assert clock.process_age() == 12.0


def test_a_command_with_spaces_and_brackets_is_read_right(monkeypatch, tmp_path):
    fields = ["S", *["0"] * 18, "200", "0"]
    (tmp_path / "stat").write_text(f"7 (odd ) name (x)) {' '.join(fields)}\n")
    real = builtins.open
    monkeypatch.setattr(clock, "open", lambda _, **how: real(tmp_path / "stat", **how), raising=False)
    monkeypatch.setattr(clock.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(time, "clock_gettime", lambda _: 10.0)
    assert clock.process_age() == 8.0
