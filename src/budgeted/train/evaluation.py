"""When to evaluate, what it will cost, and batch norm's statistics made fit to be evaluated."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .attach import Run
from .data import Batch

PART = "evaluation of a part"  # the activity that tells what a whole one takes
_OVER_TIME = 10  # evaluations over a budget in time; where the budget counts, one an epoch
_GUESSED_AT_WORST = 2.0  # times its guess from an update, that an evaluation is told to take by one of a part
_SHARE = 0.05  # of the time so far that evaluations before the last may take, where time is the budget
_PARTS = 0.2  # of one of all samples, that those of a part may take together
_ENOUGH = 3  # evaluations before the last, after which little doubt is left what that takes


@dataclass(slots=True)
class Evaluations:
    """Fixed points of progress, thinned where time is the budget and they would eat too much of it."""

    points: int
    passed: int = 0
    skipped: int = 0  # of the passed, for want of time

    @classmethod
    def of(cls, run: Run, steps_per_epoch: int, wanted: int | None) -> Evaluations:
        """As many as wanted; else one an epoch, or ten where time is a limit."""
        steps = run.remaining.get("steps")
        if wanted is None and (run.ledger.timed or steps is None):
            wanted = _OVER_TIME
        return cls(wanted or max(1, round((steps or 0) / steps_per_epoch)))

    def due(self, run: Run) -> bool:
        """Whether a point was crossed, other than the end, and there is time for an evaluation."""
        point = self._point(run)
        if point <= self.passed or point >= self.points:
            return False
        evaluation = run.ledger.activities.get("evaluation")
        if evaluation is None or not run.ledger.timed:
            return True
        parts = run.ledger.activities.get(PART)
        spent = evaluation.seconds + (parts.seconds if parts is not None else 0.0)
        if spent + max(evaluation.recent) <= _SHARE * run.ledger.seconds:
            return True
        self.passed, self.skipped = point, self.skipped + 1
        return False

    def part(self, seconds: float, left: float) -> float:
        """The share of the samples that may be evaluated at each point to tell what all of them take.

        Args:
            seconds: that all of them are thought to take.
            left: seconds of the budget.

        Returns:
            1 where there is time for so many of all samples on the way that these tell it.
        """
        whole = _SHARE * left / max(seconds, 1e-6)  # the first of them comes when all its time was passed
        return min(whole, _PARTS) / self.points if whole < _ENOUGH else 1.0

    def took(self, run: Run) -> None:
        """One was made where the run stands: until the next point none is due."""
        self.passed = self._point(run)

    def to_come(self, run: Run) -> int:
        """How many more there will be after one now, the last one included, as far as there is time for them."""
        left = self.points - self._point(run)
        evaluation = run.ledger.activities.get("evaluation")
        if run.ledger.timed:
            if evaluation is None or not evaluation.count:
                return 1  # what one costs is known after it: slow ones that are kept time for would end the run at once
            seconds = run.ledger.seconds_left()
            left = min(left, 1 + int(_SHARE * (seconds or 0.0) / max(*evaluation.recent, 1e-6)))
        return max(1, left)

    def _point(self, run: Run) -> int:
        return int(run.progress * self.points + 1e-9)


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the samples that an evaluation takes, whose cost tells that of all of them."""

    samples: Any
    times: float  # as many samples are all of them
    guess: float  # seconds that all of them take, told from an update

    @classmethod
    def of(cls, validation: Any, share: float, seed: int, guess: float) -> Part | None:
        """A random part; None where none can be drawn, or where it would be no sample, or all of them."""
        if not hasattr(validation, "subset") or not 1 / validation.samples <= share < 1:
            return None
        samples = validation.subset(share, seed)
        return cls(samples, validation.samples / samples.samples, guess)

    def whole(self, seconds: float) -> float:
        """What all of them take, where these take so long: what it costs beside the samples does not grow with them."""
        return min(self.times * seconds, _GUESSED_AT_WORST * self.guess)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether the model keeps running statistics that can lag behind its weights."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def with_fresh_statistics(
    model: nn.Module, batches: Iterable[Batch], autocast: AbstractContextManager[object]
) -> nn.Module:
    """A copy of the model whose batch norms hold the mean statistics of some training batches.

    At small budgets the running averages lag behind the weights, and cost points of accuracy at the end.
    """
    model = copy.deepcopy(model)
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()  # dropout stays out of it, as in the evaluation to come, and draws no random numbers
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    with torch.inference_mode(), autocast:
        for batch in batches:
            model(batch.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model
