"""The run folder's control room: who trains the run, and what others ask of it meanwhile.

lock        locked by the process that trains the run, and says which
requests/   one file per request, removed when it is answered
answers/    one file per answer, removed by who asked
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import functools
import json
import os
import platform
import secrets
import shlex
import stat
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard, final

from .errors import BudgetedError, BudgetWarning, RunFolderError
from .record import SCHEMA, RunFolder, atomic_write, explain_write_error

Fields = Mapping[str, str | float | None]

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
_TRIES, _PAUSE = 10, 0.02  # seconds; who looks whether there is a lock is in its way for a moment
_POLL = 0.05  # seconds
_open: set[int] = set()  # the descriptors of lock files that this process has


# The lock


def hold(path: Path) -> Hold:
    """Be the only process that trains the run in a folder, until `release` or the end of this process, however it ends.

    Raises:
        RunFolderError: where another process trains it, or the folder cannot be written.
    """
    _close_in_children()
    try:
        handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        _open.add(handle)
        try:
            _lock(handle, path)
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(_this_process()).encode(), 0)
        except BaseException:
            _close(handle)
            raise
    except OSError as error:
        raise explain_write_error(path, error) from error
    return Hold(handle)


@final
class Hold:
    """A run folder that this process trains in; as a context, until its end."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def release(self) -> None:
        """Let others train the run. A forked child's has no effect, nor has a second one."""
        handle, self._handle = self._handle, None
        if handle is not None and handle in _open:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
            _close(handle)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder(path: Path) -> dict[str, Any] | None:
    """Who trains the run now, as `pid`, `host` and `since`; empty where it does not say; None where nobody does.

    Raises:
        RunFolderError: where the lock cannot be read.
    """
    _close_in_children()
    try:
        handle = os.open(path / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunFolderError(f"cannot read '{path / 'lock'}': {error.strerror}") from None
    _open.add(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _content(handle)
    except OSError:  # without locks, a process that was killed cannot be told from one that trains
        return _content(handle) or None
    finally:
        _close(handle)


def _lock(handle: int, path: Path) -> None:
    for _ in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"the file system of '{path}' has no locks, so nothing keeps a second process from training the same run",
                BudgetWarning,
                stacklevel=3,
            )
            return
    raise RunFolderError(
        f"run '{path}' is being trained by {_name(_content(handle))}; "
        f"wait for it, or end it with: budgeted stop {shlex.quote(str(path))} --in 1min"
    )


def _this_process() -> dict[str, Any]:
    since = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return {"schema": SCHEMA, "id": secrets.token_hex(8), "pid": os.getpid(), "host": platform.node(), "since": since}


def _content(handle: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _name(process: Mapping[str, Any]) -> str:
    if "pid" not in process:
        return "another process"
    return f"process {process['pid']} on host {process.get('host')} since {process.get('since')}"


def _close(handle: int) -> None:
    _open.discard(handle)
    os.close(handle)


@functools.cache
def _close_in_children() -> None:
    """A forked child, such as a data loader's worker, shares the lock, and would keep it when its parent is killed."""
    os.register_at_fork(after_in_child=_close_all)


def _close_all() -> None:
    for handle in tuple(_open):
        _close(handle)


# Requests


def ask(path: Path, kind: str, fields: Fields, wait: float = 10.0) -> str:
    """Ask something of the process that trains a run, and return its answer.

    Args:
        path: the run folder.
        kind: what is asked, `extend` or `stop`.
        fields: the figures of the request.
        wait: seconds to wait for the answer.

    Raises:
        BudgetedError: where the run refuses; the message is its own.
        RunFolderError: where nobody trains the run, it ended before it answered, or there is no answer yet.
    """
    process = holder(path)
    if process is None:
        raise RunFolderError(f"run '{path}' is not being trained, so nobody hears a request. {_how_else(path, kind)}")
    if "id" not in process:
        raise RunFolderError(f"run '{path}' is just starting or ending; ask again in a moment")
    name = f"{time.time_ns():020}-{secrets.token_hex(4)}"  # in the order in which they were asked
    request, answer = path / "requests" / f"{name}.json", path / "answers" / f"{name}.json"
    try:
        for folder in (request.parent, answer.parent):
            folder.mkdir(exist_ok=True)
        _write(request, {"to": process["id"], "kind": kind, "fields": dict(fields)})
    except OSError as error:
        raise RunFolderError(
            f"cannot write a request to '{request.parent}': {error.strerror}; only who may write there can change the run"
        ) from error
    end = time.monotonic() + wait
    with _withdrawn_on_interrupt(request):
        while not answer.exists():
            if (holder(path) or {}).get("id") != process["id"] and not answer.exists():
                request.unlink(missing_ok=True)
                raise RunFolderError(f"run '{path}' ended before it took the request up. {_how_else(path, kind)}")
            if time.monotonic() >= end:
                raise RunFolderError(_no_answer(path, request, wait))
            time.sleep(_POLL)
    found = RunFolder(answer.parent).read(name)
    with contextlib.suppress(OSError):
        answer.unlink()
    if "refused" in found:
        raise BudgetedError(str(found["refused"]))
    return str(found.get("answer"))


@contextmanager
def _withdrawn_on_interrupt(request: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        request.unlink(missing_ok=True)
        raise


def _how_else(path: Path, kind: str) -> str:
    if (path / "result.json").exists():
        return "It is finished: its budget is spent; train anew with another one"
    change = "--shorten" if kind == "stop" else "--extend"
    return (
        "A run that was stopped gets another budget when it goes on: "
        f"budgeted train --resume {shlex.quote(str(path))} {change} --budget ..."
    )


def _no_answer(path: Path, request: Path, wait: float) -> str:
    if not request.exists():
        return f"run '{path}' took the request up, but its answer could not be written; see what the run prints"
    return (
        f"run '{path}' has not answered within {wait:g} s, as it does while it evaluates, for instance. "
        "The request stays asked and is taken up after the next update; do not ask again"
    )


@final
@dataclass(frozen=True, slots=True)
class Request:
    """What was asked of a run."""

    id: str
    kind: str
    fields: Fields


@final
class Desk:
    """The running side: hands out the requests that come into a run folder, and takes the answers.

    Requests to an earlier process are refused, and those that cannot be read set aside; neither stops the run.

    Args:
        path: the run folder, which this process holds.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._requests, self._answers = RunFolder(path / "requests"), path / "answers"
        self._seen: set[str] = set()  # so that none is taken up twice, even if it cannot be removed

    def clear(self) -> None:
        """Remove the answers that nobody fetched from an earlier process."""
        for answer in self._answers.glob("*.json"):
            with contextlib.suppress(OSError):
                answer.unlink()

    def poll(self) -> Request | None:
        """The next request, in the order in which they were asked. Costs one look into a folder."""
        for name in self._waiting():
            self._seen.add(name)
            request = self._read(name)
            if request is not None:
                return request
        return None

    def answer(self, request: Request, sentence: str) -> None:
        """Say that what was asked was done."""
        self._reply(request.id, {"answer": sentence})

    def refuse(self, request: Request, sentence: str) -> None:
        """Say why it was not."""
        self._reply(request.id, {"refused": sentence})

    def _waiting(self) -> list[str]:
        try:
            names = os.listdir(self._requests.path)
        except OSError:  # nobody has asked anything yet
            return []
        found = {name.removesuffix(".json") for name in names if name.endswith(".json") and name[0] != "."}
        return sorted(found - self._seen)

    def _read(self, name: str) -> Request | None:
        file = self._requests.path / f"{name}.json"
        try:
            if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for
                raise RunFolderError(f"'{file}' is not a file")
            found = self._requests.read(name)
            kind, fields = found.get("kind"), found.get("fields")
            if not isinstance(kind, str) or not _are_fields(fields):
                raise RunFolderError(f"'{file}' is not a request: that is a kind, and fields of text and numbers")
        except OSError:  # it was withdrawn
            return None
        except (RunFolderError, RecursionError) as error:
            self._set_aside(file, str(error))
            self._reply(name, {"refused": str(error)})
            return None
        request = Request(name, kind, fields)
        if found.get("to") != self._holder_id():
            self.refuse(request, f"run '{self._path}' was started anew since this was asked; ask again")
            return None
        return request

    def _holder_id(self) -> object:
        with contextlib.suppress(OSError), open(self._path / "lock", "rb") as file:
            return _content(file.fileno()).get("id")
        return None

    def _set_aside(self, file: Path, why: str) -> None:
        with contextlib.suppress(OSError):
            file.rename(file.with_name(f"{file.name}.damaged"))
        _warn(f"a request was set aside: {why}")

    def _reply(self, name: str, content: Mapping[str, str]) -> None:
        try:
            self._answers.mkdir(exist_ok=True)
            _write(self._answers / f"{name}.json", content)
        except OSError as error:
            _warn(f"cannot answer a request: {explain_write_error(self._answers, error)}")
        with contextlib.suppress(OSError):
            (self._requests.path / f"{name}.json").unlink()


def _are_fields(found: object) -> TypeGuard[Fields]:
    return isinstance(found, dict) and all(
        value is None or isinstance(value, str | int | float) for value in found.values()
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    atomic_write(path, json.dumps({"schema": SCHEMA, **content}).encode())


def _warn(sentence: str) -> None:
    warnings.warn(sentence, BudgetWarning, stacklevel=4)
