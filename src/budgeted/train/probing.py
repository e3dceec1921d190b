"""The probes of a run under way: when they are due, and what they find."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..core.errors import BudgetedError, BudgetError
from ..core.record import Spec
from .attach import Run
from .data import Batch, TrainingData
from .probe import LEAST_BATCHES, equivalent_rate, is_adaptive

if TYPE_CHECKING:
    from .session import Session


@dataclass(slots=True)
class Probing:
    """Even intervals of progress: before the first update, on the way, and after the last.

    Args:
        points: how often, at least twice.
        share: of the training data, or None for all of it.
        charged: whether the budget pays.
        passed: how many points lie behind.
    """

    points: int
    share: float | None
    charged: bool
    passed: int = 0
    watch: bool = False  # whether the next update is to be watched
    seconds: float = 0.0  # that the last one took

    @classmethod
    def of(cls, spec: Spec, train: TrainingData, *, several: bool) -> Probing:
        """Those that a run wants.

        Raises:
            BudgetError: for free ones in a run of several ranks, and for a sample of too few batches.
        """
        assert spec.probes is not None
        charged, share = spec.probes_charged is not False, spec.probe_share
        if several and not charged:
            raise BudgetError("what several ranks do is charged to their budget; leave --free-probes out")
        if share is not None and math.ceil(share * len(train)) < LEAST_BATCHES:
            raise BudgetError(
                f"probes on {share:g} of the training data read {math.ceil(share * len(train))} of its {len(train)} batches, and a standard "
                f"error needs {LEAST_BATCHES}; give a share of at least {LEAST_BATCHES / len(train):.2g}, or none for all of it"
            )
        return cls(spec.probes, share, charged)

    def due(self, run: Run) -> bool:
        """Whether a point was crossed, other than the end."""
        return not run.done and self._crossed(run) > self.passed

    def _crossed(self, run: Run) -> int:
        return 1 + int(run.progress * (self.points - 1) + 1e-9)

    def took(self, run: Run) -> None:
        """One was made where the run stands."""
        self.passed, self.watch = self._crossed(run), True

    def figures(self, session: Session) -> dict[str, float]:
        """Probe a run where it stands."""
        run, task, given = session.run, session.task, session.circumstances
        batches, of = self._data(session.data.train, session.spec.seed)

        def loss(model: nn.Module, batch: Batch) -> Tensor:
            # Here alone a signal may break in: not while the model is being put back as it was.
            with given.signals.at_once, session.precision.autocast(given.device):
                return task.loss(model, session.precision.prepare(batch))

        more = max(1, self.points - self._crossed(run)) if not run.done else 0
        found = run.probe(session.model, loss, batches, of=of, charged=self.charged, more=more).gradient
        self.seconds = found.seconds
        figures = {"full_gradient": found.norm}
        if found.error is not None:
            figures["full_gradient_error"] = found.error
        if (
            is_adaptive(session.optimizer) and run.ledger.steps and not run.done
        ):  # when the rate held is that of no update
            with contextlib.suppress(BudgetedError):  # where no weight has a gradient
                rate = equivalent_rate(session.optimizer)
                figures |= {
                    "equivalent_rate": rate.median,
                    "equivalent_rate_low": rate.low,
                    "equivalent_rate_high": rate.high,
                }
        return figures

    def _data(self, train: TrainingData, seed: int) -> tuple[Iterator[Batch], float | None]:
        """The batches to read, and the samples in the whole set if they are not all of them.

        Data that cannot be had without augmentation is taken with it, as a sample of what augmentation may make of it.
        """
        unaugmented = getattr(train, "unaugmented", None)
        if unaugmented is not None:
            return unaugmented(self.share, seed), None if self.share is None else train.samples  # type: ignore[attr-defined]
        count = len(train) if self.share is None else math.ceil(self.share * len(train))
        return (batch for _, batch in zip(range(count), train.epoch(seed, -2), strict=False)), math.inf
