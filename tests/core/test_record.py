"""The run folder: whole files, honest rows, and sentences for what is damaged."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from budgeted.core import record
from budgeted.core.errors import RunFolderError
from budgeted.core.record import RunFolder, Spec, atomic_write

SPEC = Spec("digits", "10ep", "linear", seed=3)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", SPEC)


def names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


# Names


def test_equal_specs_have_equal_names_and_any_other_spec_has_another():
    others = [
        replace(SPEC, **{field: value})
        for field, value in {
            "task": "cifar10",
            "budget": "11ep",
            "schedule": "cosine",
            "seed": 4,
            "deterministic": True,
            "precision": "bf16",
            "refresh": False,
            "evaluations": 7,
        }.items()
    ]
    assert Spec("digits", "10ep", "linear", seed=3).name == SPEC.name
    assert len({spec.key for spec in [SPEC, *others]}) == 9
    assert all(len(spec.key) == 10 for spec in others)


def test_a_name_is_the_same_in_every_process():
    """A literal: a change of it would train every finished run again."""
    assert SPEC.name == "digits-9d10096258"


@pytest.mark.parametrize("task", ["../../up/mine.py:My Task", "a b:c/d", "ä:ö\n"])
def test_a_name_is_a_single_part_of_a_path(task, tmp_path):
    created = RunFolder.create(tmp_path, replace(SPEC, task=task))
    assert created.path.parent == tmp_path
    assert not set(created.path.name) & set("/: \n")


def test_a_spec_that_was_run_before_gets_a_number(tmp_path):
    first, second, third = (RunFolder.create(tmp_path, SPEC).path.name for _ in range(3))
    assert (second, third) == (f"{first}-2", f"{first}-3")


# Round trip


def test_what_is_written_is_read(folder):
    assert RunFolder.open(folder.path).spec == SPEC
    folder.write("result", {"metric": 0.5})
    assert folder.result == {"schema": 1, "metric": 0.5}
    rows = [{"steps": k, "loss": k / 3} for k in range(5)]
    for row in rows:
        folder.append(row)
    assert list(folder.rows()) == rows


def test_an_unfinished_run_has_neither_result_nor_rows(folder):
    assert folder.result is None
    assert list(folder.rows()) == []


def test_nan_and_infinity_become_null(folder):
    folder.append({"steps": 1, "loss": float("nan")})
    folder.write("result", {"final": [float("inf"), {"x": -float("inf")}], "best": 0.5})
    assert next(folder.rows())["loss"] is None
    assert folder.result == {"schema": 1, "final": [None, {"x": None}], "best": 0.5}


def test_rows_after_an_update_are_dropped(folder):
    for steps in range(1, 6):
        folder.append({"steps": steps})
    folder.truncate_rows(3)
    assert [row["steps"] for row in folder.rows()] == [1, 2, 3]


def test_a_spec_of_this_version_may_gain_fields(folder):
    content = json.loads((folder.path / "spec.json").read_text()) | {"later": 1}
    (folder.path / "spec.json").write_text(json.dumps(content))
    assert folder.spec == SPEC


# Atomic writes


def test_a_failing_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def fail(*_):
        raise OSError(5, "broken")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(record.os, function, fail)
            with pytest.raises(OSError, match="broken"):
                atomic_write(path, b"new")
        assert path.read_bytes() == b"old"
        assert names(tmp_path) == ["file"]
    atomic_write(path, b"new")
    assert path.read_bytes() == b"new"


def test_an_interrupt_in_the_middle_leaves_the_old_file_too(tmp_path, monkeypatch):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(record.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_new_file_can_be_read_by_others(tmp_path):
    atomic_write(tmp_path / "file", b"")
    assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (28, r"^the disk of '.*' is full; free some space, or give another folder with --out$"),
        (13, "^cannot write to '"),
    ],
)
def test_the_systems_refusal_is_a_sentence(folder, monkeypatch, number, sentence):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(record, "atomic_write", fail)
    with pytest.raises(RunFolderError, match=sentence):
        folder.write("result", {})


def test_a_file_in_the_place_of_the_folder_is_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(
        RunFolderError, match=r"^cannot write to '.*runs': File exists; give another folder with --out$"
    ):
        RunFolder.create(tmp_path / "runs", SPEC)


# Damage


def test_a_last_line_cut_short_is_left_out_wherever_it_was_cut(folder):
    folder.append({"steps": 1})
    whole = (folder.path / "rows.jsonl").read_bytes()
    line = b'{"steps": 2, "loss": 0.25}\n'
    for cut in range(len(line) - 1):
        (folder.path / "rows.jsonl").write_bytes(whole + line[:cut])
        assert [row["steps"] for row in folder.rows()] == [1]
    (folder.path / "rows.jsonl").write_bytes(whole + line)
    assert [row["steps"] for row in folder.rows()] == [1, 2]


def test_a_resumed_run_writes_on_after_a_line_cut_short(folder):
    folder.append({"steps": 1})
    with open(folder.path / "rows.jsonl", "a") as file:
        file.write('{"steps": 2, "lo')
    folder.truncate_rows(2)
    folder.append({"steps": 2})
    assert [row["steps"] for row in folder.rows()] == [1, 2]


@pytest.mark.parametrize("line", [b'{"steps": 2', b"\xff\xfe", b"3", b"nonsense"])
def test_damage_in_the_middle_names_its_line(folder, line):
    good = b'{"steps": 1}\n'
    (folder.path / "rows.jsonl").write_bytes(good + line + b"\n" + good)
    with pytest.raises(RunFolderError, match=r"rows\.jsonl' is damaged at line 2; remove that line to read the rest"):
        list(folder.rows())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is damaged: it is not JSON"),
        (b'{"schema": 1, "task"', "is damaged: it is not JSON"),
        (b"\xff\xff", "is damaged: it is not JSON"),
        (b"[1]", "it has no schema version"),
        (b'{"task": "digits"}', "it has no schema version"),
        (b'{"schema": 2}', "has schema 2, and this version reads up to 1; update budgeted"),
        (b'{"schema": 1, "task": "digits"}', "does not describe a run; it has schema, task"),
        (b'{"schema": 1, "task": 3, "budget": "1ep", "schedule": "linear"}', "is damaged: its task is 3"),
        (b'{"schema": 1, "task": "t", "budget": "1ep", "schedule": "linear", "seed": "x"}', "its seed is 'x'"),
    ],
)
def test_a_damaged_spec_is_a_sentence(folder, content, sentence):
    (folder.path / "spec.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=sentence):
        _ = folder.spec


def test_what_is_no_run_folder_is_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match="there is no run folder at"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"is not a run folder: it has no spec\.json"):
        RunFolder.open(tmp_path)


def test_only_a_folder_in_which_nothing_was_trained_is_discarded(tmp_path):
    empty, used = RunFolder.create(tmp_path, SPEC), RunFolder.create(tmp_path, SPEC)
    used.append({"steps": 1})
    empty.discard()
    used.discard()
    assert names(tmp_path) == [used.path.name]
    assert names(used.path) == ["rows.jsonl", "spec.json"]
