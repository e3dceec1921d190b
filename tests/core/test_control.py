"""The control room: one process trains a run, and hears what others ask."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from budgeted.core import control
from budgeted.core.control import Desk, ask, hold, holder
from budgeted.core.errors import BudgetedError, BudgetWarning, RunFolderError

START = "import os, subprocess, sys, time\nfrom pathlib import Path\nfrom budgeted.core.control import *\nrun = Path(sys.argv[1])\n"
HOLD = "held = hold(run)\nprint('held', flush=True)\ntime.sleep(60)\n"
WORK = """
hold(run)
desk = Desk(run)
print('held', flush=True)
while True:
    while (request := desk.poll()) is not None:
        if request.kind == 'extend':
            desk.answer(request, f"by {request.fields['by']}")
        else:
            desk.refuse(request, f"no {request.kind} here")
    time.sleep(0.01)
"""


class Started:
    """A process that runs a script until the test is over, or it is killed."""

    def __init__(self, path: Path, script: str) -> None:
        command = [sys.executable, "-c", START + script, str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.process.stdout.close()


@pytest.fixture
def run(tmp_path) -> Path:
    path = tmp_path / "my run"
    path.mkdir()
    return path


@pytest.fixture
def desk(run) -> Desk:
    with hold(run):
        yield Desk(run)


def asked(run: Path, kind: str = "extend", **fields: str | float | None) -> None:
    """Ask, and do not wait for an answer."""
    with pytest.raises(RunFolderError, match="has not answered within 0 s"):
        ask(run, kind, fields, wait=0)


def answers(run: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((run / "answers").glob("*.json"))]


# The lock


def test_a_second_process_is_refused_and_told_who_trains(run):
    with Started(run, HOLD) as other:
        assert other.line() == "held"
        end = f"budgeted stop {shlex.quote(str(run))} --in 1min"
        with pytest.raises(RunFolderError) as refusal:
            hold(run)
        sentence = str(refusal.value)
        assert (
            f"run '{run}' is being trained by process {other.process.pid} on host {os.uname().nodename} since"
            in sentence
        )
        assert sentence.endswith(end)
        assert holder(run)["pid"] == other.process.pid


def test_a_killed_process_holds_nothing(run):
    with Started(run, HOLD) as other:
        other.line()
        other.kill()
        assert holder(run) is None
        hold(run).release()


def test_a_second_hold_of_this_process_is_refused_too(run):
    with hold(run), pytest.raises(RunFolderError, match=f"by process {os.getpid()} on host"):
        hold(run)


def test_what_is_released_can_be_held_again(run):
    first = hold(run)
    first.release()
    assert holder(run) is None
    with hold(run):
        first.release()  # once more has no effect
        assert holder(run)["pid"] == os.getpid()
    assert holder(run) is None


def test_nobody_holds_a_run_that_was_never_trained(run):
    assert holder(run) is None
    assert not list(run.iterdir())


FORK = """
held = hold(run)
if not os.fork():
    held.release()  # a child's has no effect
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_forked_child_neither_keeps_the_lock_nor_gives_it_away(run):
    with Started(run, FORK) as parent:
        child = int(parent.line())
        try:
            assert holder(run)["pid"] == parent.process.pid
            parent.kill()
            os.kill(child, 0)  # it lives
            hold(run).release()
        finally:
            os.kill(child, signal.SIGKILL)


SPAWN = """
held = hold(run)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_program_that_is_started_does_not_keep_the_lock(run):
    with Started(run, SPAWN) as parent:
        child = int(parent.line())
        try:
            parent.kill()
            hold(run).release()
        finally:
            os.kill(child, signal.SIGKILL)


def test_looking_does_not_disturb_who_wants_to_hold(run):
    hold(run).release()
    looking, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.is_set():
            holder(run)
            looking.set()

    looker = threading.Thread(target=look)
    looker.start()
    looking.wait()
    try:
        for _ in range(100):
            hold(run).release()
    finally:
        over.set()
        looker.join()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"pid"'])
def test_a_holder_that_does_not_say_who_it_is_is_another_process(run, content):
    with hold(run):
        (run / "lock").write_bytes(content)
        assert holder(run) == {}
        with pytest.raises(RunFolderError, match="is being trained by another process; wait for it"):
            hold(run)
        with pytest.raises(RunFolderError, match="is just starting or ending; ask again in a moment"):
            ask(run, "extend", {})


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_gone_on_with(run, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(BudgetWarning, match="the file system of '.*' has no locks, so nothing keeps a second process"):
        held = hold(run)
    assert holder(run)["pid"] == os.getpid()
    held.release()
    assert holder(run) is None


def test_a_folder_that_cannot_be_written_is_a_sentence(run):
    with pytest.raises(RunFolderError, match=r"cannot write to '.*': No such file or directory"):
        hold(run / "nowhere")


def test_a_lock_that_cannot_be_taken_leaves_nothing_open(run, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else None
    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(RunFolderError, match=r"cannot write to '.*': Input/output error"):
        hold(run)
    assert before is None or os.listdir("/proc/self/fd") == before


# Requests to another process


def test_what_is_asked_is_answered(run):
    with Started(run, WORK) as other:
        other.line()
        assert ask(run, "extend", {"by": "1h", "to": None}) == "by 1h"
        with pytest.raises(BudgetedError, match=r"^no stop here$"):
            ask(run, "stop", {"in": 5.0})
    assert not list((run / "requests").iterdir())
    assert not list((run / "answers").iterdir())


def test_of_many_who_ask_at_once_each_gets_its_own_answer(run):
    with Started(run, WORK) as other, ThreadPoolExecutor(16) as askers:
        other.line()
        found = list(askers.map(lambda k: ask(run, "extend", {"by": k}), range(48)))
    assert found == [f"by {k}" for k in range(48)]


def test_two_terminals_ask_at_once(run):
    script = "print(ask(run, 'extend', {'by': os.getpid()}))"
    with Started(run, WORK) as other:
        other.line()
        with Started(run, script) as first, Started(run, script) as second:
            assert first.line() == f"by {first.process.pid}"
            assert second.line() == f"by {second.process.pid}"


@pytest.mark.parametrize(("kind", "option"), [("extend", "--extend"), ("stop", "--shorten")])
def test_a_run_that_nobody_trains_is_not_asked(run, kind, option):
    sentence = rf"is not being trained, so nobody hears a request.*: budgeted train --resume '.*my run' {option} --budget \.\.\.$"
    with pytest.raises(RunFolderError, match=sentence):
        ask(run, kind, {"by": "1h"})
    assert not list(run.iterdir())


def test_a_run_that_ends_meanwhile_was_not_asked(run):
    with Started(run, HOLD) as other, ThreadPoolExecutor(1) as asker:
        other.line()
        answer = asker.submit(ask, run, "extend", {"by": "1h"}, 60.0)
        while not (run / "requests").is_dir() or not list((run / "requests").glob("*.json")):
            time.sleep(0.01)
        other.kill()
        with pytest.raises(RunFolderError, match=r"ended before it took the request up\. A run that was stopped gets"):
            answer.result()
    assert not list((run / "requests").iterdir())


INTERRUPTED = """
import signal, threading
threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()
try:
    ask(run, 'extend', {'by': '1h'}, 60.0)
except KeyboardInterrupt:
    print('interrupted', flush=True)
"""


def test_who_gives_up_has_not_asked(run, desk):
    with Started(run, INTERRUPTED) as asker:
        assert asker.line() == "interrupted"
    assert desk.poll() is None


# The desk


def test_requests_are_handed_out_once_each_in_the_order_in_which_they_were_asked(run, desk):
    for turn in range(3):
        asked(run, "extend", by=turn)
    handed = [desk.poll() for _ in range(4)]
    assert [request and (request.kind, request.fields) for request in handed] == [
        ("extend", {"by": 0}),
        ("extend", {"by": 1}),
        ("extend", {"by": 2}),
        None,
    ]


def test_what_was_not_answered_in_time_stays_asked(run, desk):
    with pytest.raises(
        RunFolderError, match=r"has not answered within 0\.1 s, .* stays asked and is taken up after the next update"
    ):
        ask(run, "extend", {"by": "1h"}, wait=0.1)
    request = desk.poll()
    assert request.fields == {"by": "1h"}
    desk.answer(request, "done")
    assert answers(run) == [{"schema": 1, "answer": "done"}]
    desk.clear()
    assert answers(run) == []


def test_what_was_asked_of_an_earlier_process_is_refused(run):
    with Started(run, HOLD) as other:
        other.line()
        asked(run, by="1h")
        other.kill()
    with hold(run):
        desk = Desk(run)
        asked(run, by="2h")
        assert desk.poll().fields == {"by": "2h"}
    assert [answer["refused"] for answer in answers(run)] == [
        f"run '{run}' was started anew since this was asked; ask again"
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is damaged: it is not JSON"),
        (b"\xff\xfe", "is damaged: it is not JSON"),
        (b"[" * 100_000, "is damaged: it is not JSON"),
        (b"{}", "it has no schema version"),
        (b'{"schema": 2}', "has schema 2, and this version reads up to 1; update budgeted"),
        (b'{"schema": 1, "kind": "extend"}', "is not a request: that is a kind, and fields of text and numbers"),
        (b'{"schema": 1, "kind": 3, "fields": {}}', "is not a request"),
        (b'{"schema": 1, "kind": "extend", "fields": {"by": []}}', "is not a request"),
        (None, "is not a file"),
    ],
)
def test_what_is_no_request_is_set_aside_with_a_sentence(run, desk, content, sentence):
    (run / "requests").mkdir()
    file = run / "requests" / "0.json"
    os.mkfifo(file) if content is None else file.write_bytes(content)
    asked(run, by="1h")
    with pytest.warns(BudgetWarning, match=f"a request was set aside: .*{sentence}"):
        request = desk.poll()
    assert request.fields == {"by": "1h"}
    assert sentence in answers(run)[0]["refused"]
    assert file.with_name("0.json.damaged").exists()
    assert desk.poll() is None


def test_other_files_are_left_alone(run, desk):
    (run / "requests").mkdir()
    for name in ("notes.txt", ".0.json.x7", ".json"):
        (run / "requests" / name).write_text("{")
    assert desk.poll() is None
    assert len(list((run / "requests").iterdir())) == 3


def test_a_request_that_cannot_be_removed_is_not_taken_up_again(run, desk, monkeypatch):
    asked(run, by="1h")
    request = desk.poll()

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", fail)
        desk.answer(request, "done")
    assert len(list((run / "requests").iterdir())) == 1
    assert desk.poll() is None


def test_an_answer_that_cannot_be_written_does_not_stop_the_run(run, desk, monkeypatch):
    asked(run, by="1h")
    request = desk.poll()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(control, "atomic_write", full)
        with pytest.warns(BudgetWarning, match="cannot answer a request: the disk of '.*' is full"):
            desk.refuse(request, "no")
    assert not list((run / "requests").glob("*.json"))


def test_who_asked_is_told_that_the_answer_was_lost(run, desk):
    def lose_it() -> None:
        while (request := desk.poll()) is None:
            time.sleep(0.01)
        (run / "requests" / f"{request.id}.json").unlink()

    with ThreadPoolExecutor(1) as running:
        running.submit(lose_it)
        with pytest.raises(RunFolderError, match="took the request up, but its answer could not be written"):
            ask(run, "extend", {"by": "1h"}, wait=0.5)


def test_a_request_that_cannot_be_written_is_a_sentence(run, desk):
    (run / "requests").write_text("")
    with pytest.raises(
        RunFolderError, match=r"cannot write a request to '.*requests': File exists; only who may write"
    ):
        ask(run, "extend", {"by": "1h"})
    assert desk.poll() is None
