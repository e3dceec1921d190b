"""A language model of the running Python's own standard library, which every machine has, or of a text file of the user's."""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import TaskError
from ..train.data import Batch
from ..train.task import Data, Task
from .language import Text, Transformer

_NOT_SOURCE = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_HELD_OUT = 20  # every file of so many, or the last part of so many of a text


class StdlibLM(Task):
    """About twelve million bytes of Python, one file in twenty held out; a transformer of 0.8 million weights."""

    name: ClassVar[str] = "stdlib-lm"
    summary: ClassVar[str] = (
        "the text of Python's standard library (embedded) or of --data FILE, byte-level transformer"
    )
    full_budget: ClassVar[str] = "2000 steps"
    off_the_shelf: ClassVar[str] = "cosine(eta=0.1)"
    warmup: ClassVar[str | None] = "10 steps"
    metric: ClassVar[str] = "bits_per_byte"
    maximize: ClassVar[bool] = False
    chance: ClassVar[float | None] = 8.0
    models: ClassVar[Mapping[str, Callable[..., nn.Module]]] = {"transformer": Transformer}
    window: ClassVar[int] = 128
    batch_size: ClassVar[int] = 32
    judged: ClassVar[int] = 512  # windows of the held-out text
    rate: ClassVar[float] = 2e-3

    def data(self, root: Path | None, device: torch.device) -> Data:
        """The library's text, or that of a file where `root` is one.

        Raises:
            TaskError: for a text that is not there, or is too short to train on.
        """
        if root is not None and not root.exists():
            raise TaskError(
                f"there is no '{root}'; --data names a text file to train on, or leave it out for the library's"
            )
        train, held = own_text(root) if root is not None and root.is_file() else library()
        sets = [Text(_bytes(part).to(device), self.window, self.batch_size) for part in (train, held)]
        if min(text.samples for text in sets) < self.batch_size:
            raise TaskError(
                f"'{root}' has {len(train) + len(held):,} bytes, of which one in {_HELD_OUT} are held out; a text to train on has at least "
                f"{_HELD_OUT * (self.batch_size + 1) * (self.window + 1):,}"
            )
        return Data(sets[0], sets[1])

    def model(self) -> nn.Module:
        return Transformer(window=self.window)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """AdamW, weight decay on matrices alone."""
        matrices = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.95), fused=True)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch.inputs).flatten(0, 1), batch.targets.flatten())

    def tokens(self, batch: Batch) -> float:
        """Bytes that are told."""
        return float(batch.targets.numel())

    def evaluate(self, model: nn.Module, data: Text) -> dict[str, float]:
        """Bits per held-out byte, each told from those before it in its window."""
        total, count = torch.zeros((), device=data.content.device, dtype=torch.float64), 0
        for inputs, targets in data.spread(self.judged):
            logits = model(inputs).float().flatten(0, 1)
            total += nn.functional.cross_entropy(logits, targets.flatten(), reduction="sum").double()
            count += targets.numel()
        return {"bits_per_byte": total.item() / count / math.log(2)}


def library() -> tuple[bytes, bytes]:
    """The sources of the standard library in the order of their names, without its tests: to train on, and held out."""
    train: list[bytes] = []
    held: list[bytes] = []
    for number, path in enumerate(_sources()):
        (held if number % _HELD_OUT == _HELD_OUT - 1 else train).append(path.read_bytes())
    return b"\n".join(train), b"\n".join(held)


def _sources() -> Iterator[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.py"))
    for path in found:
        if not _NOT_SOURCE & set(path.parts) and (folder / path).is_file():
            yield folder / path


def own_text(path: Path) -> tuple[bytes, bytes]:
    """A text file, its last twentieth held out.

    Raises:
        TaskError: where it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TaskError(f"cannot read the text '{path}': {error.strerror}") from None
    cut = len(content) - len(content) // _HELD_OUT
    return content[:cut], content[cut:]


def _bytes(content: bytes) -> Tensor:
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.zeros(0, dtype=torch.uint8)
