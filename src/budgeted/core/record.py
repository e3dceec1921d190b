"""The run folder: what a run was asked for, what it logged, and how it ended. Reading one needs no framework.

spec.json          what defines the run; its hash is the folder's name
error.json         why a run of a study failed
budget.json        the budget that replaced the spec's, where one did
environment.json   versions, machine, and what was chosen on it
rows.jsonl         one row of figures per logged moment
trace.bin          progress and factor of every update
result.json        the figures at the end; absent while the run is unfinished
curve.png          loss, metric and rate over the budget
best.safetensors   the weights with the best metric
last.pt            everything that a resume needs (tensors, numbers and text only); previous.pt is the one before
lock               held by the process that trains the run
requests, answers  what other terminals ask of it
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, final, get_type_hints

from .errors import RunFolderError
from .text import file_name, format_bytes

SCHEMA = 1
PART = ".part"  # the end of the name of a file that is not whole yet, which begins with a dot
ROW = (
    "steps",
    "samples",
    "seconds",
    "progress",
    "factor",
    "lr",
    "loss",
    "gradient",
    "spent",
    "left",
)  # beside a task's own figures
# What probes find, in the rows of the updates that they were made after.
PROBED = (
    "full_gradient",
    "full_gradient_error",
    "equivalent_rate",
    "equivalent_rate_low",
    "equivalent_rate_high",
    "applied_rate",
)


Keep = Literal["all", "best", "figures"]  # of what a run writes: all; no checkpoint after the end; nor any weights
_LATER = ("average", "replay", "model", "optimizer", "lr", "subset", "probes", "probe_share", "probes_charged")


@final
@dataclass(frozen=True, slots=True)
class Spec:
    """What defines a run: two runs with equal specs are the same run."""

    task: str
    budget: str
    schedule: str
    seed: int = 0
    deterministic: bool = False
    precision: str = "auto"
    refresh: bool = True
    evaluations: int | None = None
    average: str | None = None  # of the weights, evaluated beside them
    replay: str | None = None  # the digest of the trace that gives the rates
    model: str | None = None  # another than the task's, as is what follows
    optimizer: str | None = None
    lr: float | None = None  # the base rate
    subset: float | None = None  # the share of the training data that is drawn once, before training
    probes: int | None = None  # how often the full gradient is measured, at both ends and evenly in between
    probe_share: float | None = None  # of the training data that it is measured on; None for all of it
    probes_charged: bool | None = None  # whether the budget pays for them; None for yes

    @property
    def key(self) -> str:
        """Ten hexadecimal digits that name the run."""
        later = {name for name in _LATER if getattr(self, name) is None}  # as before there were these
        defining = {name: value for name, value in asdict(self).items() if name not in later}
        text = json.dumps({"schema": SCHEMA, **defining}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def family(self) -> Spec:
        """What runs have in common that differ in budget, schedule and how they are looked at only."""
        return replace(self, budget="", schedule="", refresh=True, evaluations=None)

    @property
    def name(self) -> str:
        return f"{file_name(self.task)}-{self.key}"


@final
@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder on disk."""

    path: Path

    @classmethod
    def create(cls, parent: Path, spec: Spec) -> RunFolder:
        """A new folder under `parent`, named after the spec; a number is added where the spec was run before.

        Raises:
            RunFolderError: where the folder cannot be made or written.
        """
        with explained(parent):
            parent.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(dir=parent, prefix=f".{spec.name}."))
            try:
                new.chmod(0o755)
                cls(new).write("spec", asdict(spec))
                for path in cls._places(parent, spec):
                    try:
                        new.rename(path)  # a folder with a name is a whole one
                    except OSError as error:
                        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                            raise
                    else:
                        sync(parent)
                        return cls(path)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
        raise AssertionError("there is always another number")

    @classmethod
    def unfinished(cls, parent: Path, spec: Spec, *, changed: bool = True) -> RunFolder | None:
        """The latest run of a spec under `parent` that has no result yet, or None.

        Args:
            parent, spec: where, and which.
            changed: whether one counts whose budget was changed on the way.
        """
        latest = None
        for path in cls._places(parent, spec):
            if not os.path.lexists(path):
                return latest
            if (path / "spec.json").is_file() and not (path / "result.json").exists():
                latest = cls(path) if changed or not cls(path).changed else latest
        return latest

    @property
    def changed(self) -> bool:
        """Whether the run's budget is another than the spec's."""
        return (self.path / "budget.json").exists()

    @classmethod
    def finished(cls, parent: Path, spec: Spec) -> RunFolder | None:
        """The first run of a spec under `parent` that has a result, or None; one whose budget was changed does not count."""
        for path in cls._places(parent, spec):
            if not os.path.lexists(path):
                return None
            if (path / "spec.json").is_file() and (path / "result.json").exists() and not cls(path).changed:
                return cls(path)
        return None

    @classmethod
    def obtain(cls, parent: Path, spec: Spec) -> RunFolder:
        """The run of a spec under `parent`: a finished one if there is any, else the latest unfinished one, else a new one.

        Raises:
            RunFolderError: where a folder cannot be made.
        """
        return cls.finished(parent, spec) or cls.unfinished(parent, spec, changed=False) or cls.create(parent, spec)

    @property
    def error(self) -> str | None:
        """Why the run failed, where it did and was not tried again since."""
        return str(self.read("error").get("error")) if (self.path / "error.json").exists() else None

    def forgive(self) -> None:
        """Let a failed run be tried again."""
        with explained(self.path):
            (self.path / "error.json").unlink(missing_ok=True)

    @staticmethod
    def _places(parent: Path, spec: Spec) -> Iterator[Path]:
        yield parent / spec.name
        for repeat in itertools.count(2):
            yield parent / f"{spec.name}-{repeat}"

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder.

        Raises:
            RunFolderError: where there is none, or it is not a run's.
        """
        if not os.path.isdir(path):  # False too for a name that no file can have
            raise RunFolderError(f"there is no run folder at '{path}'; give the folder that `budgeted train` printed")
        if not (path / "spec.json").is_file():
            raise RunFolderError(f"'{path}' is not a run folder: it has no spec.json")
        return cls(path)

    @property
    def spec(self) -> Spec:
        """What defines the run.

        Raises:
            RunFolderError: for a damaged spec, or one from a newer version.
        """
        found = self.read("spec")
        known = {field.name for field in fields(Spec)}
        try:
            spec = Spec(**{key: value for key, value in found.items() if key in known})
        except TypeError:
            raise RunFolderError(
                f"'{self.path / 'spec.json'}' does not describe a run; it has {', '.join(found)}"
            ) from None
        for name, kind in get_type_hints(Spec).items():
            if not isinstance(getattr(spec, name), kind):
                raise RunFolderError(f"'{self.path / 'spec.json'}' is damaged: its {name} is {getattr(spec, name)!r}")
        return spec

    @property
    def budget(self) -> str:
        """The budget that is in force: the spec's, or the one that replaced it."""
        if not (self.path / "budget.json").exists():
            return self.spec.budget
        budget = self.read("budget").get("budget")
        if not isinstance(budget, str):
            raise RunFolderError(f"'{self.path / 'budget.json'}' is damaged: its budget is {budget!r}")
        return budget

    @property
    def result(self) -> dict[str, Any] | None:
        """The figures at the end, or None while the run is unfinished."""
        return self.read("result") if (self.path / "result.json").exists() else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The logged rows. A last line cut short by a kill is left out; any other damage is an error."""
        path = self.path / "rows.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunFolderError(f"cannot read '{path}': {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
            except (ValueError, RecursionError):
                if number == len(lines):
                    return
                raise RunFolderError(
                    f"'{path}' is damaged at line {number}; remove that line to read the rest"
                ) from None
            yield row

    def discard(self) -> None:
        """Remove a folder in which nothing was trained; one that holds rows or checkpoints stays."""
        untrained = {
            "spec.json",
            "environment.json",
            "replay.bin",
            "replay.json",
            "trace.bin",
            "lock",
            "requests",
            "answers",
        }
        if all(child.name in untrained or not child.stat().st_size for child in self.path.iterdir()):
            shutil.rmtree(self.path)

    def sweep(self) -> None:
        """Remove what writes that a kill cut short have left; only for who holds the run's lock."""
        with explained(self.path):
            for path in self.path.glob(f".*{PART}"):
                path.unlink()

    def read(self, name: str) -> dict[str, Any]:
        """One of the JSON files.

        Raises:
            RunFolderError: where it is missing, damaged, or from a newer version.
        """
        path = self.path / f"{name}.json"
        try:
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise RunFolderError(f"cannot read '{path}': {error.strerror}") from None
        except (ValueError, RecursionError):
            raise RunFolderError(f"'{path}' is damaged: it is not JSON") from None
        if not isinstance(found, dict) or not isinstance(found.get("schema"), int):
            raise RunFolderError(f"'{path}' is not a run's file: it has no schema version")
        if found["schema"] > SCHEMA:
            raise RunFolderError(
                f"'{path}' has schema {found['schema']}, and this version reads up to {SCHEMA}; update budgeted"
            )
        return found

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write one of the JSON files, whole or not at all."""
        text = json.dumps({"schema": SCHEMA, **finite(content)}, indent=1)
        with explained(self.path):
            atomic_write(self.path / f"{name}.json", text.encode())


class RowLog:
    """The rows of a run under way: appended, and kept in memory while the disk is full.

    Args:
        folder: the run's.
        keep: rows to go on from; what a resumed run will log again is dropped.

    Raises:
        RunFolderError: where the rows are damaged or cannot be written.
    """

    def __init__(self, folder: RunFolder, keep: int | None = None) -> None:
        self.path = folder.path / "rows.jsonl"
        self._unwritten: list[bytes] = []
        kept = [json.dumps(row).encode() + b"\n" for row in itertools.islice(folder.rows(), keep)]
        self.count, self._size = len(kept), sum(map(len, kept))
        with explained(folder.path):
            atomic_write(self.path, b"".join(kept))

    def append(self, row: Mapping[str, Any]) -> None:
        """Log one row; where it cannot be written now, it is with the next one."""
        self._unwritten.append(json.dumps(finite(row)).encode() + b"\n")
        self.count += 1
        with contextlib.suppress(OSError):
            self._write()

    def flush(self) -> None:
        """Have every row written; that it is on the disk is for `sync`.

        Raises:
            RunFolderError: where the disk is full or cannot be written.
        """
        with explained(self.path.parent, sum(map(len, self._unwritten))):
            self._write()

    def _write(self) -> None:
        with open(self.path, "r+b", buffering=0) as file:
            file.truncate(self._size)  # of a row that was written in part
            file.seek(self._size)
            content = b"".join(self._unwritten)
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._size += len(content)
            self._unwritten.clear()


def atomic_write(path: Path, content: bytes) -> None:
    """Replace a file by new content, so that a reader or a crash sees the old one or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # gone already, where an interrupt came right after the rename
            os.unlink(temporary)
        raise
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def machine() -> dict[str, Any]:
    """The machine and the interpreter, for the record."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


@contextmanager
def explained(path: Path, size: int | None = None) -> Iterator[None]:
    """Turn the system's refusal to write so many bytes into a sentence."""
    try:
        yield
    except OSError as error:
        raise explain_write_error(path, error, size) from error


def explain_write_error(path: Path, error: OSError, size: int | None = None) -> RunFolderError:
    """The sentence for a write of so many bytes that the system refused."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        figures = ""
        if size is not None:
            figures = (
                f": {format_bytes(size)} were to be written, and {format_bytes(shutil.disk_usage(path).free)} are free"
            )
        return RunFolderError(
            f"the disk of '{path}' is full{figures}; free some space, or give another folder with --out"
        )
    return RunFolderError(f"cannot write to '{path}': {error.strerror or error}; give another folder with --out")


def finite(value: Any) -> Any:
    """JSON has no NaN: such figures become null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
