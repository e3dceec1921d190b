"""Checkpoints: written whole or not at all, the one before kept, and opened without running code from the file."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import RunFolderError
from ..core.record import PART, atomic_write, explain_write_error, explained, sync

SCHEMA = 2
LAST, PREVIOUS, DAMAGED, BEST = "last.pt", "previous.pt", "damaged.pt", "best.safetensors"
_BRIEF = 0.05  # seconds of a write up to which training waits for it
# What a checkpoint of a run holds.
_MUST = {"run": dict, "model": dict, "optimizer": dict, "random": dict, "precision": str, "threads": int}

Note = dict[str, str]
_Best = tuple[dict[str, torch.Tensor], Note]
_Failure = tuple[Exception, _Best | None]


class Saver:
    """Writes a run's checkpoints; beside training where a write takes long enough to gain by it.

    Training waits while the state is copied, which is a fraction of what serializing, checksumming and syncing it take.
    One write is under way at most, and two checkpoints are kept.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._best: _Best | None = None
        self._thread: threading.Thread | None = None
        self._failed: _Failure | None = None
        self.seconds = 0.0  # of the last whole write

    @property
    def beside(self) -> bool:
        """Whether the next write had better run beside training."""
        return self.seconds > _BRIEF

    def keep_best(self, model: nn.Module, note: Note) -> None:
        """Have these weights written as the best ones with the next checkpoint."""
        self._best = _weights(model), note

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return self._thread is not None and self._thread.is_alive()

    def save(self, state: Mapping[str, Any], *, after: Sequence[Path] = (), beside: bool = False) -> None:
        """Write a checkpoint; beside training, a failure is raised by `wait`, or by the next call that writes beside it.

        That call writes all the same, since there may be room again.

        Args:
            state: what is to be written.
            after: files that the disk must have whole before.
            beside: whether training goes on meanwhile.

        Raises:
            RunFolderError: where the disk is full or cannot be written; the checkpoints on it are whole all the same.
        """
        failure = self._finish()
        if not beside:
            self._write(state, after, self._best)
            self._best = None
            return
        self._thread = threading.Thread(target=self._write_quietly, args=(_copy(state), after, self._best))
        self._best = None
        self._thread.start()
        if failure is not None:
            raise failure

    def wait(self) -> None:
        """Have the write under way finished.

        Raises:
            RunFolderError: where it failed.
        """
        if (failure := self._finish()) is not None:
            raise failure

    def _finish(self) -> Exception | None:
        """Why the write that was under way failed, if it did; its best weights are kept for the next attempt."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failed is None:
            return None
        (error, best), self._failed = self._failed, None
        if self._best is None:  # else there are better ones
            self._best = best
        return error

    def _write_quietly(self, state: Mapping[str, Any], after: Sequence[Path], best: _Best | None) -> None:
        try:
            self._write(state, after, best)
        except Exception as error:
            self._failed = error, best

    def _write(self, state: Mapping[str, Any], after: Sequence[Path], best: _Best | None) -> None:
        began = time.monotonic()
        with explained(self._folder):
            for path in after:
                sync(path)
        if best is not None:
            write_weights(self._folder / BEST, *best)
        save(self._folder / LAST, state)
        self.seconds = time.monotonic() - began


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`, and keep it as the previous one; a crash in the middle leaves one of them whole.

    Raises:
        RunFolderError: where the disk is full or cannot be written; the old checkpoint is still whole then.
    """
    buffer, new = io.BytesIO(), path.with_name(f".{path.name}{PART}")
    torch.save({"schema": SCHEMA, **state}, buffer)
    _write(new, buffer.getvalue())
    with explained(path.parent):
        if path.exists():
            os.replace(path, path.with_name(PREVIOUS))
        os.replace(new, path)
        sync(path.parent)


def latest(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, str | None]:
    """The last whole checkpoint of a run, or None where it has none yet; and what is to be said of it.

    A damaged last one is put aside, so that the next write does not push out the whole one before it.

    Raises:
        RunFolderError: where there are only damaged ones, foreign ones, or one from a newer version.
    """
    damage: RunFolderError | None = None
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            state = load(folder / name, device)
        except _Damaged as error:
            damage = damage or error
        else:
            if damage is None:
                return state, None
            with explained(folder):
                os.replace(folder / LAST, folder / DAMAGED)
            return state, f"{damage}; the one before it is used, of update {_steps(state)}"
    if damage is not None:
        raise RunFolderError(f"{damage}, and there is no whole one before it; train anew")
    return None, None


def digest(value: Any) -> str:
    """Of a state's tensors, numbers and text, in their order."""
    found = hashlib.sha256()
    _digest_into(found, value)
    return found.hexdigest()


def _digest_into(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        found.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        found.update(plain.flatten().view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        for key, item in value.items():
            found.update(repr(key).encode())
            _digest_into(found, item)
    elif isinstance(value, list | tuple):
        for item in value:
            _digest_into(found, item)
    else:
        found.update(repr(value).encode())


def remove(folder: Path) -> None:
    """Delete a finished run's checkpoints; its best weights stay."""
    with explained(folder):
        for name in (LAST, PREVIOUS, DAMAGED):
            (folder / name).unlink(missing_ok=True)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers and text only (`weights_only`).

    Raises:
        RunFolderError: where it is missing, damaged, foreign, or from a newer version.
    """
    if not path.exists():
        raise RunFolderError(f"there is no checkpoint at '{path}': the run ended before its first one; start it anew")
    try:
        path.open("rb").close()
    except OSError as error:
        raise RunFolderError(f"cannot read '{path}': {error.strerror}") from None
    try:
        _require_intact(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise _Damaged(f"the checkpoint '{path}' is damaged or not a checkpoint of budgeted's ({reason})") from error
    if not isinstance(state, dict) or not isinstance(state.get("schema"), int):
        raise _Damaged(f"'{path}' is not a checkpoint of budgeted's")
    if state["schema"] != SCHEMA:
        advice = "update budgeted" if state["schema"] > SCHEMA else "finish it with the version that wrote it"
        raise RunFolderError(f"'{path}' has schema {state['schema']}, and this version reads {SCHEMA}; {advice}")
    for name, kind in _MUST.items():
        if not isinstance(state.get(name), kind):
            raise _Damaged(f"'{path}' is not a checkpoint of budgeted's: it has no {name}")
    try:
        _steps(state)
    except (LookupError, TypeError, ValueError):
        raise _Damaged(f"'{path}' is not a checkpoint of budgeted's: its run has no ledger") from None
    return state


def require_alike(found: Any, like: Any) -> None:
    """Hold what was loaded against an example of its shape; anything is like None.

    Raises:
        TypeError, LookupError: where it lacks that shape.
    """
    if like is None:
        return
    numbers = isinstance(found, int | float) and isinstance(like, int | float)
    if isinstance(found, bool) != isinstance(like, bool) or not (numbers or isinstance(found, type(like))):
        raise TypeError(f"{type(found).__name__} instead of {type(like).__name__}")
    for key in like if isinstance(like, dict) else ():
        require_alike(found[key], like[key])


class _Damaged(RunFolderError):
    """A checkpoint that cannot be used, where another one might be."""


def _steps(state: Mapping[str, Any]) -> int:
    return int(state["run"]["ledger"]["spent"]["steps"])


def _copy(value: Any) -> Any:
    """The state as it is now, in memory of its own."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        copied = copy.copy(value)  # with what a module's state has as attributes: the versions of its layout
        copied.update({key: _copy(item) for key, item in value.items()})
        return copied
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value


# Weights


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    weights = {}
    for name, tensor in model.state_dict().items():
        copy = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        weights[name] = copy.contiguous()
    return weights


def save_weights(path: Path, model: nn.Module, note: Note) -> None:
    """Write the model's weights as safetensors, with a note of text and their checksum beside them."""
    write_weights(path, _weights(model), note)


def write_weights(path: Path, weights: dict[str, torch.Tensor], note: Note) -> None:
    """The same for weights that were copied before."""
    from safetensors.torch import save as to_bytes

    _write(path, to_bytes(weights, {"format": "pt", **note, "sha256": _digest(weights, note)}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Read safetensors weights into a model.

    Raises:
        RunFolderError: where the file is missing or damaged, or the weights are another model's.
    """
    weights, _ = read_weights(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise RunFolderError(f"the weights '{path}' are another model's ({reason})") from error


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], Note]:
    """The weights of a safetensors file, and its note.

    Raises:
        RunFolderError: where the file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            note: Note = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it is no mapping
    except FileNotFoundError:
        raise RunFolderError(f"there are no weights at '{path}'") from None
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise RunFolderError(f"the weights '{path}' are damaged ({reason})") from error
    note.pop("format", None)
    if note and note.pop("sha256", None) != _digest(weights, note):  # files from elsewhere have no note
        raise RunFolderError(f"the weights '{path}' are damaged: their checksum is another, or missing")
    return weights, note


def _digest(weights: Mapping[str, torch.Tensor], note: Note) -> str:
    digest = hashlib.sha256(repr(sorted(note.items())).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _require_intact(path: Path) -> None:
    """Compare the file with its own checksums, which `torch.load` does not read."""
    with zipfile.ZipFile(path) as file:
        if (damaged := file.testzip()) is not None:
            raise ValueError(f"the checksum of its part '{damaged}' is wrong")


def _write(path: Path, content: bytes) -> None:
    try:
        atomic_write(path, content)
    except OSError as error:
        raise explain_write_error(path.parent, error, len(content)) from error
