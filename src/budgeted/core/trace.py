"""What a run used at every update, so that another can be trained with the same.

A time-driven run cannot be repeated by its seed: its progress is that of its machine. `trace.bin` is a header of 16 bytes,
magic and schema version, and then 16 bytes per update: the position in the schedule, in [0, 1], and the factor of the base
rate, both float64. Everything is little endian.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from array import array
from math import isfinite
from pathlib import Path
from typing import final

from .errors import RunFolderError
from .record import explain_write_error

SCHEMA = 1
_MAGIC = b"bg-trace"
_HEADER = struct.Struct("<8sQ")
_RECORD = 16
_BLOCK = 2 * 4096  # numbers that are written together


@final
class TraceWriter:
    """Appends to a trace. What cannot be written stays in memory until it can be.

    Args:
        path: the file. One that exists is gone on with; a record that a kill cut short is dropped.

    Raises:
        RunFolderError: where the file cannot be read, is not a trace, or is from a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written = len(_records(path)) // _RECORD if path.exists() else 0
        self._buffer = array("d")
        self._full = _BLOCK

    @property
    def steps(self) -> int:
        """How many updates the trace has."""
        return self._written + len(self._buffer) // 2

    def add(self, position: float, factor: float) -> None:
        """Note one update. A disk that is full is for `flush` to tell."""
        self._buffer.extend((position, factor))
        if len(self._buffer) >= self._full:
            with contextlib.suppress(OSError):
                self._write()
            self._full = len(self._buffer) + _BLOCK

    def flush(self, *, sync: bool = True) -> None:
        """Have every update written, and, unless that is for another to do, on the disk.

        Raises:
            RunFolderError: where the disk is full or cannot be written. Nothing is lost: the next call writes all of it.
        """
        try:
            self._write(sync=sync)
        except OSError as error:
            raise explain_write_error(self.path.parent, error, 8 * len(self._buffer)) from error

    def truncate(self, steps: int) -> None:
        """Drop what came after an update, which a resumed run will do again.

        Raises:
            RunFolderError: where the trace has fewer updates, or cannot be written.
        """
        if steps > self.steps:
            raise RunFolderError(
                f"'{self.path}' has {self.steps} updates, and the checkpoint beside it is from after update {steps}: "
                "the file is damaged or another run's; start the run anew"
            )
        del self._buffer[2 * max(0, steps - self._written) :]
        self._written = min(self._written, steps)
        self.flush()

    def close(self) -> None:
        """Write what is left, where that can be; what a checkpoint needs is on disk already."""
        with contextlib.suppress(OSError):
            self._write()

    def _write(self, *, sync: bool = False) -> None:
        content = _little_endian(self._buffer).tobytes()
        if not self._written:
            content = _HEADER.pack(_MAGIC, SCHEMA) + content
        with open(self.path, "r+b" if self._written else "wb", buffering=0) as file:
            # From where the last whole write ended: what one that failed has left goes.
            file.truncate(file.seek(_HEADER.size + _RECORD * self._written if self._written else 0))
            left = memoryview(content)
            while left:
                left = left[file.write(left) :]
            if sync:
                os.fsync(file.fileno())
        self._written, self._buffer = self.steps, array("d")


@final
class Trace:
    """A recorded run: `trace[k]` is (position, factor) of update k."""

    def __init__(self, numbers: array[float]) -> None:
        self._numbers = numbers

    @classmethod
    def read(cls, path: Path) -> Trace:
        """The whole records of a file; a last one that a kill cut short is left out.

        Raises:
            RunFolderError: where the file is missing, damaged, not a trace, or from a newer version.
        """
        content, numbers = _records(path), array("d")
        numbers.frombytes(content)
        numbers = _little_endian(numbers)
        before = 0.0
        for update, (position, factor) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
            if not before <= position <= 1 or not isfinite(factor):
                raise RunFolderError(
                    f"'{path}' is damaged at update {update}: its position is {position!r} after {before!r}, where it rises "
                    f"from 0 to 1, and its factor {factor!r}; a run whose trace is damaged cannot be trained again"
                )
            before = position
        return cls(numbers)

    def __len__(self) -> int:
        return len(self._numbers) // 2

    def __getitem__(self, update: int) -> tuple[float, float]:
        if not -len(self) <= update < len(self):
            raise IndexError(f"the trace has {len(self)} updates, and update {update} was asked for")
        place = 2 * (update % len(self))
        return self._numbers[place], self._numbers[place + 1]


def _records(path: Path) -> bytes:
    """The whole records of a file, as they are."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RunFolderError(f"there is no trace at '{path}'; a run can be trained again from its trace only") from None
    except OSError as error:
        raise RunFolderError(f"cannot read '{path}': {error.strerror}") from None
    if _HEADER.pack(_MAGIC, SCHEMA).startswith(content):
        return b""  # a kill came while it was begun
    magic, schema = _HEADER.unpack(content[: _HEADER.size].ljust(_HEADER.size, b"\0"))
    if magic != _MAGIC or not schema:
        raise RunFolderError(f"'{path}' is not a trace of a run's updates, or its beginning is damaged")
    if schema > SCHEMA:
        raise RunFolderError(f"'{path}' has schema {schema}, and this version reads up to {SCHEMA}; update budgeted")
    whole = (len(content) - _HEADER.size) // _RECORD * _RECORD
    return content[_HEADER.size : _HEADER.size + whole]


def _little_endian(numbers: array[float]) -> array[float]:
    if sys.byteorder == "big":
        numbers = array("d", numbers)
        numbers.byteswap()
    return numbers
