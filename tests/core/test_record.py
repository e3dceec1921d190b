"""The run folder: whole files, honest rows, and sentences for what is damaged."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from budgeted.core import record
from budgeted.core.errors import RunFolderError
from budgeted.core.record import RowLog, RunFolder, Spec, atomic_write

SPEC = Spec("digits", "10ep", "linear", seed=3)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs", SPEC)


def names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


def log(folder: RunFolder, *steps: int) -> RowLog:
    rows = RowLog(folder)
    for step in steps:
        rows.append({"steps": step})
    return rows


def steps_in(folder: RunFolder) -> list[int]:
    return [row["steps"] for row in folder.rows()]


def refuse(number: int) -> Callable[..., None]:
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


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
            "average": "ema(0.999)",
            "replay": "0123456789abcdef",
        }.items()
    ]
    assert Spec("digits", "10ep", "linear", seed=3).name == SPEC.name
    assert len({spec.key for spec in [SPEC, *others]}) == 11
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
    rows, written = [{"steps": k, "loss": k / 3} for k in range(5)], RowLog(folder)
    for row in rows:
        written.append(row)
    assert list(folder.rows()) == rows
    assert written.count == 5


def test_an_unfinished_run_has_neither_result_nor_rows(folder):
    assert folder.result is None
    assert list(folder.rows()) == []


def test_nan_and_infinity_become_null(folder):
    RowLog(folder).append({"steps": 1, "loss": float("nan")})
    folder.write("result", {"final": [float("inf"), {"x": -float("inf")}], "best": 0.5})
    assert next(folder.rows())["loss"] is None
    assert folder.result == {"schema": 1, "final": [None, {"x": None}], "best": 0.5}


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
    monkeypatch.setattr(record, "atomic_write", refuse(number))
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
    log(folder, 1)
    whole = (folder.path / "rows.jsonl").read_bytes()
    line = b'{"steps": 2, "loss": 0.25}\n'
    for cut in range(len(line) - 1):
        (folder.path / "rows.jsonl").write_bytes(whole + line[:cut])
        assert steps_in(folder) == [1]
    (folder.path / "rows.jsonl").write_bytes(whole + line)
    assert steps_in(folder) == [1, 2]


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


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"schema":' * 100_000, b'{"schema": ' + b"1" * 5000 + b"}", b'{"schema": "1"}']
)
def test_what_json_cannot_hold_is_a_sentence_too(folder, content):
    (folder.path / "result.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"is damaged: it is not JSON|it has no schema version"):
        _ = folder.result
    (folder.path / "rows.jsonl").write_bytes(content + b"\n{}\n")
    if content.startswith(b'{"schema": "'):
        assert len(list(folder.rows())) == 2
    else:
        with pytest.raises(RunFolderError, match=r"rows\.jsonl' is damaged at line 1"):
            list(folder.rows())


@pytest.mark.parametrize("name", ["budget.json", "result.json", "spec.json", "rows.jsonl"])
def test_a_folder_in_the_place_of_a_file_is_a_sentence(folder, name):
    with contextlib.suppress(FileNotFoundError):
        (folder.path / name).unlink()
    (folder.path / name).mkdir()
    with pytest.raises(RunFolderError, match=r"cannot read|is not a run folder"):
        read_all(folder)


@pytest.mark.parametrize("budget", [{}, {"budget": 3}, {"budget": None}, {"budget": ["10ep"]}])
def test_a_damaged_budget_is_a_sentence(folder, budget):
    folder.write("budget", budget)
    with pytest.raises(RunFolderError, match=r"budget\.json' is damaged: its budget is "):
        _ = folder.budget


def test_a_changed_budget_is_the_one_in_force(folder):
    assert folder.budget == "10ep"
    folder.write("budget", {"budget": "20ep"})
    assert folder.budget == "20ep"
    assert folder.spec == SPEC


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_name_that_no_file_can_have_is_a_sentence(tmp_path, name):
    with pytest.raises(RunFolderError, match="there is no run folder at"):
        RunFolder.open(tmp_path / name)


def test_what_is_no_run_folder_is_a_sentence(tmp_path):
    with pytest.raises(RunFolderError, match="there is no run folder at"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match=r"is not a run folder: it has no spec\.json"):
        RunFolder.open(tmp_path)


def test_only_a_folder_in_which_nothing_was_trained_is_discarded(tmp_path):
    empty, used = RunFolder.create(tmp_path, SPEC), RunFolder.create(tmp_path, SPEC)
    log(used, 1)
    empty.discard()
    used.discard()
    assert names(tmp_path) == [used.path.name]
    assert names(used.path) == ["rows.jsonl", "spec.json"]


def test_a_folder_with_a_checkpoint_is_not_discarded(folder):
    (folder.path / "last.pt").write_bytes(b"weights")
    (folder.path / "lock").write_bytes(b"1")
    folder.discard()
    assert names(folder.path) == ["last.pt", "lock", "spec.json"]


# Rows of a run under way


class Disk:
    """A file system under `record` that takes so many bytes more; then it is full until there is room again."""

    def __init__(self, monkeypatch) -> None:
        self.free = 1 << 30
        disk = self

        class File:
            def __init__(self, path, mode, buffering):
                self.inner = open(path, mode, buffering=buffering)  # noqa: SIM115 closed with this one

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.inner.close()

            def __getattr__(self, name):
                return getattr(self.inner, name)

            def truncate(self, size):
                disk.free += os.fstat(self.inner.fileno()).st_size - size
                self.inner.truncate(size)

            def write(self, content):
                if content and not disk.free:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                taken = self.inner.write(content[: disk.free])
                disk.free -= taken
                return taken

        monkeypatch.setattr(record, "open", File, raising=False)


@pytest.mark.parametrize("free", range(40))
def test_rows_wait_in_memory_while_the_disk_is_full(folder, monkeypatch, free):
    """However much of a row fits: each is written once there is room, in order and once."""
    rows, disk = log(folder, 0, 1), Disk(monkeypatch)
    disk.free = free
    for step in range(2, 7):
        rows.append({"steps": step})
    assert rows.count == 7
    seen = steps_in(folder)
    assert seen == list(range(len(seen)))
    assert len(seen) < 7
    disk.free += 12
    rows.append({"steps": 7})
    disk.free += 1000
    rows.append({"steps": 8})
    assert steps_in(folder) == list(range(9))
    assert rows.count == 9


def test_rows_that_wait_are_written_before_a_checkpoint(folder, monkeypatch):
    rows, disk = log(folder, 0), Disk(monkeypatch)
    disk.free = 5
    rows.append({"steps": 1})
    with pytest.raises(RunFolderError, match=r"^the disk of '.*' is full: 13 bytes were to be written, and"):
        rows.flush()
    disk.free = 1000
    rows.flush()
    rows.flush()
    assert steps_in(folder) == [0, 1]


def test_a_full_disk_may_come_and_go(folder, monkeypatch):
    dice, rows, disk = random.Random(0), RowLog(folder), Disk(monkeypatch)
    for step in range(300):
        disk.free = dice.choice([0, 0, dice.randrange(60), 1000])
        rows.append({"steps": step})
        seen = steps_in(folder)
        assert seen == list(range(len(seen)))
    disk.free = 1 << 20
    rows.flush()
    assert steps_in(folder) == list(range(300))


def test_rows_are_on_disk_after_sync(folder, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    rows = log(folder, 1, 2)
    synced.clear()
    record.sync(rows.path)
    assert synced == [(folder.path / "rows.jsonl").stat().st_ino]


@pytest.mark.parametrize("keep", [None, 0, 1, 3, 5, 9])
def test_a_resumed_run_goes_on_from_the_rows_it_keeps(folder, keep):
    log(folder, 1, 2, 3, 4, 5)
    with open(folder.path / "rows.jsonl", "a") as file:
        file.write('{"steps": 6, "lo')  # cut short by a kill
    rows = RowLog(folder, keep)
    kept = [1, 2, 3, 4, 5][:keep]
    assert (rows.count, steps_in(folder)) == (len(kept), kept)
    rows.append({"steps": 6})
    assert (rows.count, steps_in(folder)) == (len(kept) + 1, [*kept, 6])


def test_a_last_row_without_its_end_of_line_is_kept_whole(folder):
    log(folder, 1, 2)
    path = folder.path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    RowLog(folder).append({"steps": 3})
    assert steps_in(folder) == [1, 2, 3]


def test_damage_behind_the_rows_that_are_kept_does_not_matter(folder):
    log(folder, 1, 2)
    with open(folder.path / "rows.jsonl", "ab") as file:
        file.write(b"\0\0\0\n\0\n")
    rows = RowLog(folder, keep=2)
    rows.append({"steps": 3})
    assert steps_in(folder) == [1, 2, 3]


def test_rows_that_are_gone_are_a_sentence_at_the_checkpoint(folder):
    rows = log(folder, 1)
    (folder.path / "rows.jsonl").unlink()
    rows.append({"steps": 2})
    with pytest.raises(RunFolderError, match=r"^cannot write to '.*': No such file or directory"):
        rows.flush()


# Folders of runs that were cut short


@pytest.mark.parametrize("refused", ["rename", "chmod", "write"])
def test_a_folder_with_a_name_is_a_whole_one(tmp_path, monkeypatch, refused):
    """A kill or an error before the rename leaves nothing that a run would be taken for."""
    target = RunFolder if refused == "write" else Path
    for error, expected in ((OSError(5, "broken"), RunFolderError), (KeyboardInterrupt("now"), KeyboardInterrupt)):

        def fail(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(target, refused, fail)
            with pytest.raises(expected, match="cannot write to '.*': broken" if expected is RunFolderError else "now"):
                RunFolder.create(tmp_path, SPEC)
        assert names(tmp_path) == []
        assert RunFolder.unfinished(tmp_path, SPEC) is None
    assert RunFolder.create(tmp_path, SPEC).path.name == SPEC.name


def test_what_a_kill_within_create_leaves_is_not_taken_for_a_run(tmp_path, monkeypatch):
    """As after SIGKILL, when nothing can be cleared away."""
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", refuse(5))
        patched.setattr(record.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(RunFolderError, match="cannot write to"):
            RunFolder.create(tmp_path, SPEC)
    assert all(name.startswith(".") for name in names(tmp_path))
    assert RunFolder.unfinished(tmp_path, SPEC) is None
    assert RunFolder.create(tmp_path, SPEC).path.name == SPEC.name


def test_the_unfinished_run_of_a_spec_is_found(tmp_path):
    assert RunFolder.unfinished(tmp_path, SPEC) is None
    assert RunFolder.unfinished(tmp_path / "nowhere", SPEC) is None
    first, second, third = (RunFolder.create(tmp_path, SPEC) for _ in range(3))
    RunFolder.create(tmp_path, replace(SPEC, seed=9))
    assert RunFolder.unfinished(tmp_path, SPEC) == third
    third.write("result", {})
    assert RunFolder.unfinished(tmp_path, SPEC) == second
    for folder in (first, second):
        folder.write("result", {})
    assert RunFolder.unfinished(tmp_path, SPEC) is None


def test_the_unfinished_run_is_found_behind_a_folder_that_is_no_run(tmp_path):
    """Such as one of which a kill left half."""
    broken = RunFolder.create(tmp_path, SPEC)
    (broken.path / "lock").write_bytes(b"1")
    (broken.path / "spec.json").unlink()
    assert RunFolder.unfinished(tmp_path, SPEC) is None
    second = RunFolder.create(tmp_path, SPEC)
    assert RunFolder.unfinished(tmp_path, SPEC) == second


def test_a_task_with_a_name_that_is_too_long_is_a_sentence(tmp_path):
    spec = replace(SPEC, task="mine.py:" + "A" * 300)
    assert RunFolder.unfinished(tmp_path, spec) is None
    with pytest.raises(RunFolderError, match=r"^cannot write to '.*': File name too long"):
        RunFolder.create(tmp_path, spec)


def test_only_what_cut_off_writes_left_is_swept(folder, monkeypatch):
    log(folder, 1)
    whole = names(folder.path)

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", kill)
        patched.setattr(os, "unlink", lambda _: None)  # a kill clears nothing away
        for name in ("last.pt", "rows.jsonl", "result.json"):
            with pytest.raises(Killed):
                atomic_write(folder.path / name, b"half")
    (folder.path / ".gitignore").write_text("*\n")  # somebody's own
    (folder.path / ".ipynb_checkpoints").mkdir()
    assert len(names(folder.path)) == len(whole) + 5
    folder.sweep()
    assert names(folder.path) == [".gitignore", ".ipynb_checkpoints", *whole]


def test_an_interrupt_right_after_the_rename_is_no_other_error(tmp_path, monkeypatch):
    """The second Ctrl-C may come there."""
    replace_file = os.replace

    def interrupt(*paths):
        replace_file(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt), record.explained(tmp_path):
        atomic_write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_new_folder_survives_a_loss_of_power(tmp_path, monkeypatch):
    """Its name is an entry of the folder above."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    RunFolder.create(tmp_path, SPEC)
    assert synced[-1] == tmp_path.stat().st_ino


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_how_much_was_missing_is_said(tmp_path, monkeypatch, number):
    monkeypatch.setattr(record.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    error = record.explain_write_error(tmp_path, OSError(number, os.strerror(number)), 44_800_000)
    assert str(error) == (
        f"the disk of '{tmp_path}' is full: 44.8 MB were to be written, and 1.5 MB are free; "
        "free some space, or give another folder with --out"
    )


# One thousand damaged folders


def read_all(folder: RunFolder) -> tuple:
    opened = RunFolder.open(folder.path)
    return opened.spec, opened.budget, opened.result, list(opened.rows())


def damaged(content: bytes, dice: random.Random) -> bytes:
    """Bits flipped, bytes lost or added, cut short, or nested, or something else altogether."""
    place, kind = dice.randrange(len(content) + 1), dice.randrange(9)
    match kind:
        case 0:
            changed = bytearray(content)
            for _ in range(dice.choice([1, 1, 2, 20])):
                changed[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
            return bytes(changed)
        case 1:
            return content[:place]
        case 2:
            return content[:place] + dice.randbytes(dice.randrange(1, 30)) + content[place:]
        case 3:
            return content[:place] + content[place + dice.randrange(1, 50) :]
        case 4:
            return b"\0" * dice.choice([0, 1, len(content)])
        case 5:
            return content[:place] + b"\0" * 100
        case 6:
            return dice.choice([b"[", b'{"a":', b'{"schema":']) * dice.choice([1, 50_000]) + content
        case 7:
            return dice.choice(
                [b"null", b"[]", b"3", b'"x"', b"{}", b'{"schema": 1}', b'{"schema": 99}', b"NaN", b"\xef\xbb\xbf{}"]
            )
        case _:
            return changed_value(content, dice)


def changed_value(content: bytes, dice: random.Random) -> bytes:
    """Sound JSON in which one value is another."""
    line = dice.choice(content.splitlines(keepends=True)) if b"}\n{" in content else content
    found = json.loads(line)
    found[dice.choice(list(found))] = dice.choice([None, True, -1, 10**30, 1e308, "", "x", [], {}, [[3]], {"a": 1}])
    return content.replace(line, json.dumps(found).encode() + b"\n" * (line is not content))


@pytest.mark.parametrize("part", range(4))
def test_one_thousand_damaged_folders_are_read_or_a_sentence(tmp_path, part):
    folder = RunFolder.create(tmp_path, SPEC)
    folder.write("budget", {"budget": "20ep"})
    folder.write("result", {"metric": {"name": "accuracy", "best": 0.9}, "spent": {"steps": 200}})
    log(folder, *range(20))
    whole = {path: path.read_bytes() for path in folder.path.iterdir()}
    dice, sentences = random.Random(part), []
    for _ in range(250):
        path = dice.choice(sorted(whole))
        path.write_bytes(damaged(whole[path], dice))
        try:
            spec, budget, result, rows = read_all(folder)
        except RunFolderError as error:
            sentences.append(str(error))
        else:
            assert all(type(value) in (str, int, float, bool, type(None)) for value in asdict(spec).values())
            assert isinstance(budget, str)
            assert isinstance(result, dict)
            assert all(isinstance(row, dict) for row in rows)
        path.write_bytes(whole[path])
    assert 80 < len(sentences) < 240
    assert all(str(folder.path) in sentence for sentence in sentences)
    assert read_all(folder)[:2] == (SPEC, "20ep")
