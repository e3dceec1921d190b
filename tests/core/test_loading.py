"""Objects of the user's own."""

from __future__ import annotations

import json
import sys

import pytest

from budgeted.core.errors import BudgetedError
from budgeted.core.loading import load_object


@pytest.fixture(autouse=True)
def _modules_are_forgotten():
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = path


def test_a_file_and_a_name(tmp_path):
    (tmp_path / "things_in_a_file.py").write_text("answer = 42\n")
    assert load_object(f"{tmp_path}/things_in_a_file.py:answer") == 42


def test_a_module_and_a_name():
    assert load_object("json:dumps") is json.dumps


def test_a_module_of_the_folder_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "things_right_here.py").write_text("answer = 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])  # as the installed command has it
    assert load_object("things_right_here:answer") == 42


def test_a_dataclass_in_a_file_finds_its_module(tmp_path):
    (tmp_path / "has_dataclass.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Thing:\n    x: int = 1\n"
    )
    assert load_object(f"{tmp_path}/has_dataclass.py:Thing")().x == 1


@pytest.mark.parametrize("name", ["nothing", ":x", "x:", "", ":"])
def test_what_names_no_object(name):
    with pytest.raises(BudgetedError, match=r"names no object; write path/to/file\.py:Name or module:Name"):
        load_object(name)


def test_no_such_file_module_or_name(tmp_path):
    (tmp_path / "empty_file.py").write_text("")
    with pytest.raises(BudgetedError, match=r"^there is no file 'nowhere\.py'$"):
        load_object("nowhere.py:x")
    with pytest.raises(BudgetedError, match="importing 'no_such_module' failed with ModuleNotFoundError"):
        load_object("no_such_module:x")
    with pytest.raises(BudgetedError, match=r"empty_file\.py' has no 'Missing'$"):
        load_object(f"{tmp_path}/empty_file.py:Missing")


@pytest.mark.parametrize("source", ["1 / 0", "import not_installed_anywhere", "def broken(:"])
def test_an_import_that_fails_says_with_what(tmp_path, source):
    (tmp_path / "fails.py").write_text(source)
    with pytest.raises(BudgetedError, match=r"failed with (ZeroDivisionError|ModuleNotFoundError|SyntaxError): "):
        load_object(f"{tmp_path}/fails.py:x")
