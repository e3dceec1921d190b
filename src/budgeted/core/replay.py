"""A run that trains as a recorded one did."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from .errors import RunFolderError
from .record import RunFolder, Spec, atomic_write, explained
from .trace import Trace


def replayed(folder: RunFolder) -> Spec:
    """The spec of a run that trains as a recorded one did: as many updates, each at the progress and rate that it had then.

    Raises:
        RunFolderError: where the run is unfinished, or has no trace.
    """
    if folder.result is None:
        raise RunFolderError(f"'{folder.path}' is unfinished; go on with it first: budgeted train --resume")
    trace = Trace.read(folder.path / "trace.bin")
    if len(trace) != folder.result["spent"]["steps"]:
        raise RunFolderError(
            f"'{folder.path}' cannot be replayed: it made {folder.result['spent']['steps']} updates, and its trace has {len(trace)}"
        )
    return replace(
        folder.spec,
        budget=f"{len(trace)} steps",
        schedule=str(folder.result["schedule"]),
        precision=str(folder.read("environment")["precision"]),
        replay=_digest(folder.path / "trace.bin"),
    )


def copy_trace(recorded: RunFolder, folder: RunFolder) -> None:
    """Give a new run's folder what it is to replay, so that it needs the recorded run no more."""
    with explained(folder.path):
        atomic_write(folder.path / "replay.bin", (recorded.path / "trace.bin").read_bytes())
    folder.write("replay", {"run": recorded.path.name, "threads": recorded.read("environment")["threads"]})


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
