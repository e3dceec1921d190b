"""Pretrained backbones: from a path, or from where torchvision keeps what it downloaded; nothing is fetched."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import BudgetWarning, TaskError

SCRATCH = "scratch"
# Torchvision's residual networks trained on ImageNet (IMAGENET1K_V1), by their depths.
RESNETS = {
    18: "resnet18-f37072fd.pth",
    34: "resnet34-b627a593.pth",
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
    152: "resnet152-394f9c45.pth",
}


@dataclass(frozen=True, slots=True)
class Backbone:
    """Weights to begin with, and where they are from.

    Args:
        weights: by their names in torchvision's model; None where training is from scratch.
        origin: the file and its digest, or `scratch`.
    """

    weights: Mapping[str, Tensor] | None
    origin: str

    @classmethod
    def find(cls, given: str | None, file: str, task: str) -> Backbone:
        """What was asked for; else torchvision's file, where it is in the cache; else none, which is said.

        Args:
            given: a path, `scratch`, or None.
            file: the name of torchvision's, such as `resnet50-0676ba61.pth`.
            task: who asks.

        Raises:
            TaskError: for a path at which there are no weights.
        """
        if given == SCRATCH:
            return cls(None, SCRATCH)
        if given is not None:
            return cls._read(Path(given).expanduser())
        cached = Path(torch.hub.get_dir()) / "checkpoints" / file
        if cached.is_file():
            return cls._read(cached)
        warnings.warn(
            f"{task} trains from scratch: there is no pretrained backbone at '{cached}'. Put torchvision's there, or name one "
            f"as {task}(backbone=PATH); {task}(backbone={SCRATCH}) is silent about it",
            BudgetWarning,
            stacklevel=3,
        )
        return cls(None, SCRATCH)

    @classmethod
    def _read(cls, path: Path) -> Backbone:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a file that is no checkpoint brings up
            why = str(error).partition("\n")[0] or type(error).__name__
            raise TaskError(
                f"backbone '{path}' cannot be read as weights ({why}); name a state_dict that torch.save wrote"
            ) from None
        if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
            raise TaskError(f"backbone '{path}' holds no state_dict: it is to be a mapping of names to tensors")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(content, f"{path.name} (sha256 {digest[:16]})")

    def load_into(self, model: torch.nn.Module, *, without: tuple[str, ...] = ("fc.",)) -> None:
        """Give the model these weights, those of its head left out.

        Raises:
            TaskError: where they are another model's.
        """
        if self.weights is None:
            return
        own = {name: value for name, value in self.weights.items() if not name.startswith(without)}
        try:
            missing, unexpected = model.load_state_dict(own, strict=False)
        except RuntimeError as error:  # shapes
            raise TaskError(
                f"backbone {self.origin} is another network's: {str(error).splitlines()[-1].strip()}"
            ) from None
        # Counters of batches came later than many files.
        missing = [
            name for name in missing if not name.startswith(without) and not name.endswith("num_batches_tracked")
        ]
        unexpected = [name for name in unexpected if not name.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise TaskError(
                f"backbone {self.origin} is another network's: "
                f"{f'it lacks {missing[0]}' if missing else f'it has {unexpected[0]}, which the model has not'}"
            )
