"""Checkpoints: written whole or not at all, the one before kept, and opened without running code from the file."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import RunFolderError
from ..core.record import atomic_write, explain_write_error

SCHEMA = 2
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.safetensors"
_BRIEF = 0.05  # seconds of a write up to which training waits for it
_MUST = ("run", "model", "optimizer", "random", "precision", "threads")  # what a checkpoint of a run holds

Note = dict[str, str]


class Saver:
    """Writes a run's checkpoints; beside training where a write takes long enough to gain by it.

    Training waits while the state is copied, which is a fraction of what serializing, checksumming and syncing it take.
    One write is under way at most, and two checkpoints are kept.

    Args:
        folder: where they go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._best: tuple[dict[str, torch.Tensor], Note] | None = None
        self._thread: threading.Thread | None = None
        self._error: RunFolderError | None = None
        self.seconds = 0.0  # of the last whole write

    @property
    def beside(self) -> bool:
        """Whether the next write had better run beside training."""
        return self.seconds > _BRIEF

    def keep_best(self, model: nn.Module, note: Note) -> None:
        """Have these weights written as the best ones with the next checkpoint."""
        self._best = _weights(model), note

    def save(self, state: Mapping[str, Any], *, beside: bool = False) -> None:
        """Write a checkpoint; beside training, a failure is raised by the next call or by `wait`.

        Raises:
            RunFolderError: where the disk is full or cannot be written; the checkpoints on it are whole all the same.
        """
        self.wait()
        if beside:
            self._thread = threading.Thread(target=self._write_quietly, args=(_copy(state), self._best))
            self._best = None
            self._thread.start()
        else:
            self._write(state, self._best)
            self._best = None

    def wait(self) -> None:
        """Have the write under way finished.

        Raises:
            RunFolderError: where it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write_quietly(self, state: Mapping[str, Any], best: tuple[dict[str, torch.Tensor], Note] | None) -> None:
        try:
            self._write(state, best)
        except RunFolderError as error:
            self._error = error
            if self._best is None:
                self._best = best  # for the next attempt, unless there is a better one

    def _write(self, state: Mapping[str, Any], best: tuple[dict[str, torch.Tensor], Note] | None) -> None:
        began = time.monotonic()
        if best is not None:
            write_weights(self._folder / BEST, *best)
        save(self._folder / LAST, state)
        self.seconds = time.monotonic() - began


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`, and keep it as the previous one; a crash in the middle leaves one of them whole.

    Raises:
        RunFolderError: where the disk is full or cannot be written; the old checkpoint is still whole then.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, buffer)
    _write(path.with_name(f".{path.name}"), buffer.getvalue())
    try:
        if path.exists():
            os.replace(path, path.with_name(PREVIOUS))
        os.replace(path.with_name(f".{path.name}"), path)
    except OSError as error:
        raise explain_write_error(path.parent, error) from error


def latest(folder: Path, device: torch.device) -> tuple[dict[str, Any] | None, str | None]:
    """The last whole checkpoint of a run, or None where it has none yet; and what is to be said of it.

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
            return state, f"{damage}; the one before it is used, of update {_steps(state)}" if damage else None
    if damage is not None:
        raise RunFolderError(f"{damage}, and there is no whole one before it; train anew")
    return None, None


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers and text only (`weights_only`).

    Raises:
        RunFolderError: where it is missing, damaged, foreign, or from a newer version.
    """
    if not path.exists():
        raise RunFolderError(f"there is no checkpoint at '{path}': the run ended before its first one; start it anew")
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
    if missing := [name for name in _MUST if name not in state]:
        raise _Damaged(f"'{path}' is not a checkpoint of budgeted's: it has no {missing[0]}")
    return state


class _Damaged(RunFolderError):
    """A checkpoint that cannot be used, where another one might be."""


def _steps(state: Mapping[str, Any]) -> int:
    return int(state["run"]["ledger"]["spent"]["steps"])


def _copy(value: Any) -> Any:
    """The state as it is now, in memory of its own."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
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

    _write(path, to_bytes(weights, {"format": "pt", **note, "sha256": _digest(weights)}))


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
    if note.get("sha256", _digest(weights)) != _digest(weights):
        raise RunFolderError(f"the weights '{path}' are damaged: their checksum is another")
    return weights, note


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
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
