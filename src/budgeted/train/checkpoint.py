"""Checkpoints: written whole or not at all, and opened without running code from the file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import RunFolderError
from ..core.record import atomic_write, explain_write_error

SCHEMA = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint at `path`; a crash in the middle leaves the old one.

    Raises:
        RunFolderError: where the disk is full or cannot be written; the old checkpoint is still whole then.
    """
    buffer = io.BytesIO()
    torch.save({"schema": SCHEMA, **state}, buffer)
    _write(path, buffer.getvalue())


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
        raise RunFolderError(
            f"the checkpoint '{path}' is damaged or not a checkpoint of budgeted's ({reason})"
        ) from error
    if not isinstance(state, dict) or "schema" not in state or "run" not in state:
        raise RunFolderError(f"'{path}' is not a checkpoint of budgeted's")
    if state["schema"] > SCHEMA:
        raise RunFolderError(
            f"'{path}' has schema {state['schema']}, and this version reads up to {SCHEMA}; update budgeted"
        )
    return state


def save_weights(path: Path, model: nn.Module, note: dict[str, str]) -> None:
    """Write the model's weights as safetensors, with a note of text beside them."""
    from safetensors.torch import save as to_bytes

    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        copy = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        tensors[name] = copy.contiguous()
    _write(path, to_bytes(tensors, {"format": "pt", **note}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Read safetensors weights into a model.

    Raises:
        RunFolderError: where the file is missing or damaged, or the weights are another model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError:
        raise RunFolderError(f"there are no weights at '{path}'") from None
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise RunFolderError(f"the weights '{path}' are damaged, or another model's ({reason})") from error


def _require_intact(path: Path) -> None:
    """Compare the file with its own checksums, which `torch.load` does not read."""
    with zipfile.ZipFile(path) as file:
        if (damaged := file.testzip()) is not None:
            raise ValueError(f"the checksum of its part '{damaged}' is wrong")


def _write(path: Path, content: bytes) -> None:
    try:
        atomic_write(path, content)
    except OSError as error:
        raise explain_write_error(path.parent, error) from error
