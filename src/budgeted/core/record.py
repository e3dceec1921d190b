"""The run folder: what a run was asked for, what it logged, and how it ended. Reading one needs no framework.

spec.json          what defines the run; its hash is the folder's name
budget.json        the budget that replaced the spec's, where one did
environment.json   versions, machine, and what was chosen on it
rows.jsonl         one row of figures per logged moment
result.json        the figures at the end; absent while the run is unfinished
curve.png          loss, metric and rate over the budget
best.safetensors   the weights with the best metric
last.pt            everything that a resume needs (tensors, numbers and text only)
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, final, get_type_hints

from .errors import RunFolderError

SCHEMA = 1
ROW = (
    "steps",
    "samples",
    "seconds",
    "progress",
    "factor",
    "lr",
    "loss",
    "spent",
    "left",
)  # beside a task's own figures


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

    @property
    def key(self) -> str:
        """Ten hexadecimal digits that name the run."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    @property
    def name(self) -> str:
        task = "".join(c if c.isalnum() or c in "-_." else "-" for c in self.task.rpartition("/")[2])
        return f"{task}-{self.key}"


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
        with _explained(parent):
            parent.mkdir(parents=True, exist_ok=True)
            path, repeat = parent / spec.name, 1
            while True:
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    repeat += 1
                    path = parent / f"{spec.name}-{repeat}"
        folder = cls(path)
        folder.write("spec", {"schema": SCHEMA, **asdict(spec)})
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder.

        Raises:
            RunFolderError: where there is none, or it is not a run's.
        """
        if not path.is_dir():
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
        changed = (self.path / "budget.json").exists()
        return str(self.read("budget").get("budget")) if changed else self.spec.budget

    @property
    def result(self) -> dict[str, Any] | None:
        """The figures at the end, or None while the run is unfinished."""
        return self.read("result") if (self.path / "result.json").exists() else None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The logged rows. A last line cut short by a kill is left out; any other damage is an error."""
        path = self.path / "rows.jsonl"
        if not path.exists():
            return
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line:
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
            except ValueError:
                if number == len(lines):
                    return
                raise RunFolderError(
                    f"'{path}' is damaged at line {number}; remove that line to read the rest"
                ) from None
            yield row

    def discard(self) -> None:
        """Remove a folder in which nothing was trained; one that holds rows or checkpoints stays."""
        if all(child.name in ("spec.json", "environment.json") for child in self.path.iterdir()):
            for child in self.path.iterdir():
                child.unlink()
            self.path.rmdir()

    def append(self, row: Mapping[str, Any]) -> None:
        """Log one row."""
        with _explained(self.path), open(self.path / "rows.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(finite(row)) + "\n")

    def truncate_rows(self, steps: int) -> None:
        """Drop the rows after an update, which a resumed run will log again."""
        kept = [json.dumps(row) + "\n" for row in self.rows() if row["steps"] <= steps]
        with _explained(self.path):
            atomic_write(self.path / "rows.jsonl", "".join(kept).encode())

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
        except ValueError:
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
        with _explained(self.path):
            atomic_write(self.path / f"{name}.json", text.encode())


def atomic_write(path: Path, content: bytes) -> None:
    """Replace a file by new content, so that a reader or a crash sees the old one or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def machine() -> dict[str, Any]:
    """The machine and the interpreter, for the record."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a sentence."""
    try:
        yield
    except OSError as error:
        raise explain_write_error(path, error) from error


def explain_write_error(path: Path, error: OSError) -> RunFolderError:
    if error.errno == errno.ENOSPC:
        return RunFolderError(f"the disk of '{path}' is full; free some space, or give another folder with --out")
    return RunFolderError(f"cannot write to '{path}': {error.strerror or error}; give another folder with --out")


def finite(value: Any) -> Any:
    """JSON has no NaN: such figures become null."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
