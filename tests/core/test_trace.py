"""The trace: every update once, whatever the disk does."""

from __future__ import annotations

import contextlib
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgeted.core import trace
from budgeted.core.errors import RunFolderError
from budgeted.core.trace import Trace, TraceWriter

HEADER, RECORD = 16, 16
FACTORS = st.floats(allow_nan=False, allow_infinity=False)
UPDATES = st.lists(st.tuples(st.floats(0, 1), FACTORS), max_size=20).map(
    lambda pairs: list(zip(sorted(p for p, _ in pairs), (f for _, f in pairs), strict=True))
)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "trace.bin"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """For hypothesis, which makes many files in one test."""
    return tmp_path_factory.mktemp("trace") / "trace.bin"


def write(path: Path, updates: list[tuple[float, float]]) -> TraceWriter:
    path.unlink(missing_ok=True)
    writer = TraceWriter(path)
    for update in updates:
        writer.add(*update)
    writer.flush()
    return writer


def straight(updates: int, first: int = 0) -> list[tuple[float, float]]:
    return [(k / 10_000, 1 - k / 10_000) for k in range(first, first + updates)]


# Round trip


@given(UPDATES)
def test_what_is_written_is_read_to_the_last_bit(place, updates):
    assert write(place, updates).steps == len(updates)
    read = Trace.read(place)
    assert len(read) == len(updates)
    assert [read[k] for k in range(len(read))] == updates


@given(UPDATES, st.data())
def test_cut_at_any_byte_the_whole_records_count(place, updates, data):
    write(place, updates)
    content = place.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    place.write_bytes(content[:cut])
    whole = max(0, cut - HEADER) // RECORD
    assert list(Trace.read(place)) == updates[:whole]
    writer = TraceWriter(place)
    assert writer.steps == whole
    for update in updates[whole:]:
        writer.add(*update)
    writer.flush()
    assert place.read_bytes() == content


def test_the_file_is_what_the_module_says(path):
    write(path, [(0.0, 1.0), (0.5, 0.25)])
    assert path.read_bytes() == b"bg-trace" + struct.pack("<Q", 1) + struct.pack("<4d", 0.0, 1.0, 0.5, 0.25)


def test_an_update_is_asked_by_its_number(path):
    write(path, straight(3))
    read = Trace.read(path)
    assert (read[0], read[-1]) == (straight(3)[0], straight(3)[2])
    for number in (3, -4):
        with pytest.raises(IndexError, match=f"the trace has 3 updates, and update {number} was asked for"):
            read[number]


def test_a_run_of_no_update_has_an_empty_trace(path):
    TraceWriter(path).flush()
    assert len(Trace.read(path)) == 0
    with pytest.raises(IndexError, match="has 0 updates"):
        Trace.read(path)[0]


# When it is written


def test_it_is_written_in_blocks_without_being_asked(path):
    writer = TraceWriter(path)
    for update in straight(5000):
        writer.add(*update)
    assert 0 < len(Trace.read(path)) < 5000 == writer.steps
    writer.close()
    assert list(Trace.read(path)) == straight(5000)


def test_an_update_costs_no_write(path):
    writer = TraceWriter(path)
    writer.add(0.0, 1.0)
    assert not path.exists()


def test_a_flush_reaches_the_disk(path, monkeypatch):
    synced = []
    monkeypatch.setattr(trace.os, "fsync", synced.append)
    writer = write(path, straight(1))
    writer.flush()
    assert len(synced) == 2


# A resumed run


@pytest.mark.parametrize("written", [0, 4, 7])
@pytest.mark.parametrize("steps", [0, 1, 4, 6, 7])
def test_what_came_after_the_checkpoint_is_dropped(path, written, steps):
    updates = straight(7)
    writer = write(path, updates[:written])
    for update in updates[written:]:
        writer.add(*update)
    writer.truncate(steps)
    assert writer.steps == steps
    assert list(Trace.read(path)) == updates[:steps]
    again = TraceWriter(path)
    again.add(0.9, 0.1)
    again.flush()
    assert list(Trace.read(path)) == [*updates[:steps], (0.9, 0.1)]


def test_a_trace_shorter_than_the_checkpoint_is_refused(path):
    write(path, straight(3))
    with pytest.raises(
        RunFolderError,
        match=r"trace\.bin' has 3 updates, and the checkpoint beside it is from after update 4: .* start the run anew",
    ):
        TraceWriter(path).truncate(4)
    assert list(Trace.read(path)) == straight(3)


# A full disk


class Full:
    """A disk with room for so many bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def open(self, path: Path, mode: str, buffering: int):
        file, disk = open(path, mode, buffering=buffering), self  # noqa: SIM115

        class File:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

            def __getattr__(self, name):
                return getattr(file, name)

            def write(self, content):
                if not disk.room:
                    raise OSError(28, "No space left on device")
                written = file.write(bytes(content[: disk.room]))
                disk.room -= written
                return written

        return File()


@given(UPDATES, st.lists(st.one_of(st.none(), st.integers(0, 60)), max_size=6), st.data())
def test_whatever_room_there_is_each_update_is_written_once(place, updates, rooms, data):
    """Updates, and between them flushes that find so much room; None is a writer that begins anew."""
    place.unlink(missing_ok=True)
    writer, done = TraceWriter(place), 0
    with pytest.MonkeyPatch.context() as patch:
        disk = Full(0)
        patch.setattr(trace, "open", disk.open, raising=False)
        for room in rooms:
            more = data.draw(st.integers(0, len(updates) - done))
            for update in updates[done : done + more]:
                writer.add(*update)
            done += more
            if room is None:
                writer = TraceWriter(place)
                done = writer.steps  # what was in memory is lost with its process
                continue
            disk.room = room
            with contextlib.suppress(RunFolderError):
                writer.flush()
            assert writer.steps == done
    writer.flush()
    assert list(Trace.read(place)) == updates[:done]


def test_a_full_disk_does_not_stop_training(path, monkeypatch):
    disk = Full(100)
    writer = TraceWriter(path)
    with monkeypatch.context() as patched:
        patched.setattr(trace, "open", disk.open, raising=False)
        for update in straight(9000):
            writer.add(*update)
        with pytest.raises(
            RunFolderError,
            match=r"the disk of '.*' is full: [\d.]+ kB were to be written, and .* are free; free some space",
        ):
            writer.flush()
        writer.close()
    assert writer.steps == 9000
    writer.flush()
    assert list(Trace.read(path)) == straight(9000)


def test_a_flush_that_does_not_reach_the_disk_is_done_again(path, monkeypatch):
    writer = write(path, straight(2))
    writer.add(0.5, 0.5)

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(trace.os, "fsync", fail)
        with pytest.raises(RunFolderError, match=r"cannot write to '.*': Input/output error"):
            writer.flush()
    writer.flush()
    assert list(Trace.read(path)) == [*straight(2), (0.5, 0.5)]


LIMITED = """
import resource, sys
from pathlib import Path
from budgeted.core.errors import RunFolderError
from budgeted.core.trace import Trace, TraceWriter
path = Path(sys.argv[1])
writer = TraceWriter(path)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, hard))
for k in range(20):
    writer.add(k / 20, 1.0)
try:
    writer.flush()
except RunFolderError as error:
    print(error, path.stat().st_size)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
writer.add(1.0, 0.0)
writer.flush()
print([round(20 * position) for position, factor in Trace.read(path)] == list(range(21)))
"""


def test_a_write_that_the_system_cuts_short_is_made_whole(path):
    done = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True)
    refused, whole = done.stdout.splitlines()
    assert refused.startswith("cannot write to")
    assert refused.endswith(" 150")  # it was really cut
    assert whole == "True"


# Damage


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"nonsense", "is not a trace of a run's updates, or its beginning is damaged"),
        (b"bg-trace" + bytes(8), "is not a trace"),
        (b"bg-trace" + b"\2", "has schema 2, and this version reads up to 1; update budgeted"),
        (b"bg-trace" + struct.pack("<Q", 2), "has schema 2, and this version reads up to 1; update budgeted"),
        (b"zg-trace" + struct.pack("<Q2d", 1, 0, 1), "is not a trace"),
    ],
)
def test_what_is_not_a_trace_of_this_version_is_refused(path, content, sentence):
    path.write_bytes(content)
    for opened in (Trace.read, TraceWriter):
        with pytest.raises(RunFolderError, match=sentence):
            opened(path)


@pytest.mark.parametrize(
    "second",
    [(math.nan, 1.0), (math.inf, 1.0), (1.5, 1.0), (-0.1, 1.0), (0.25, 1.0), (0.5, math.nan), (0.5, -math.inf)],
)
def test_impossible_numbers_name_their_update(path, second):
    content = b"bg-trace" + struct.pack("<Q4d", 1, 0.3, 1.0, *second)
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"trace\.bin' is damaged at update 1: its position is .* after 0\.3"):
        Trace.read(path)


def test_a_missing_trace_is_a_sentence(path):
    with pytest.raises(
        RunFolderError, match=r"there is no trace at '.*'; a run can be trained again from its trace only"
    ):
        Trace.read(path)


def test_what_cannot_be_read_is_a_sentence(path):
    path.mkdir()
    with pytest.raises(RunFolderError, match=r"cannot read '.*': Is a directory"):
        Trace.read(path)
