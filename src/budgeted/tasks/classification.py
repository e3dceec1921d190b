"""Image classification by cross-entropy and SGD with momentum, from images in device memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import TaskError
from ..train.data import Batch, Crop, Images
from ..train.task import Task
from .scaling import flag


class Classification(Task):
    """A task whose metric is accuracy on held-out images."""

    chance: ClassVar[float | None] = 0.1  # of ten classes
    rate: float = 0.1
    momentum: ClassVar[float] = 0.9
    weight_decay: ClassVar[float] = 5e-4

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum; weight decay on every parameter, as the paper's code has it."""
        return torch.optim.SGD(
            model.parameters(), lr=self.rate, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(model(batch.inputs), batch.targets)

    def evaluate(self, model: nn.Module, data: Images) -> dict[str, float]:
        """Accuracy, 0 to 1, and mean loss."""
        right = torch.zeros((), device=data.labels.device, dtype=torch.int64)
        loss = torch.zeros((), device=data.labels.device)
        for inputs, targets in data.in_order():
            logits = model(inputs).float()
            right += (logits.argmax(1) == targets).sum()
            loss += nn.functional.cross_entropy(logits, targets, reduction="sum")
        return {"accuracy": right.item() / data.samples, "validation_loss": loss.item() / data.samples}


class Augmented(Classification):
    """One whose training images are shifted and mirrored at random.

    Args:
        augment: 0 to train on the images as they are, which pays where a budget shows each of them a few times only.

    Raises:
        TaskError: for anything but 0 and 1.
    """

    shifts: ClassVar[Crop]

    def __init__(self, augment: int = 1) -> None:
        self.crop = self.shifts if flag("augment", augment) else None

    def settings(self) -> Mapping[str, Any]:
        """Whether they are."""
        return {"augment": self.crop is not None}


def figures(judged: Iterable[tuple[Tensor, Tensor]], what: str) -> dict[str, float]:
    """Top-1 and top-5 accuracy, 0 to 1, and mean loss.

    Args:
        judged: log-probabilities of shape (N, classes), and targets of shape (N,), batch by batch.
        what: a sample is called.

    Raises:
        TaskError: where there is none.
    """
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for logs, targets in judged:
        best = logs.topk(min(5, logs.shape[1]), 1).indices == targets[:, None]
        loss = nn.functional.nll_loss(logs, targets, reduction="sum")
        sums += torch.stack([best[:, 0].sum(), best.sum(), loss]).double().cpu()
        count += len(targets)
    if not count:
        raise TaskError(f"no validation {what} can be read; get them again")
    accuracy, top5, loss_of_all = (sums / count).tolist()
    return {"accuracy": accuracy, "top5": top5, "validation_loss": loss_of_all}


def hold_out(images: Tensor, labels: Tensor, count: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split off `count` samples at random, always the same ones, for validation."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    kept, held = order[count:], order[:count]
    return (images[kept], labels[kept]), (images[held], labels[held])
