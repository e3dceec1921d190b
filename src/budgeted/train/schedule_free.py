"""The schedule-free optimizers of the library `schedulefree` (Defazio et al. 2024), which replace the decay by an average.

They keep three sets of weights: z takes the steps, x is the average of the z's and what is to be evaluated, and gradients
are taken at y = (1 - beta) z + beta x. The model holds y while training and x in evaluation mode; which of the two is kept
in the parameter groups (`train_mode`), so the optimizer's own state tells. `optimizer.train()` has to come before the
first update; `enter_training` calls it.

Under `budgeted.attach` (found with version 1.4.1):

- The schedule to give is `const`, with a warm-up: the library asks for one, and weighs each z in x by the square of the
  highest rate so far, so that the first small steps count for little. Its own `warmup_steps` multiplies with it; use one.
  RAdamScheduleFree warms up by itself.
- A schedule that decays is followed, but has no part in the average: the highest rate stays, so late and small steps weigh
  as much as early and large ones. x remains the plain mean of all z's since the warm-up.
- What a schedule drives beside the rate must not be the momentum or beta1 (`one-cycle` does): y, and x as found from it,
  are only right while beta stays what it was.
- A checkpoint is made in training mode, and holds y, z and the weights of the average: it is resumed to the same bits.
  What is kept as the outcome of the run has to be saved in evaluation mode.
- Batch norm's statistics are those of y. For x they have to be taken anew (`with_fresh_statistics`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.optim import Optimizer


def is_schedule_free(optimizer: Optimizer) -> bool:
    """Whether it is one that holds other weights while training than are to be evaluated.

    The library's closure variants hold the weights to be evaluated between updates, and need nothing.
    """
    return all("train_mode" in group for group in optimizer.param_groups)


def enter_training(optimizer: Optimizer) -> None:
    """Make a schedule-free optimizer ready for its first update; nothing happens to others, or a second time."""
    if is_schedule_free(optimizer):
        optimizer.train()  # type: ignore[attr-defined]


@contextmanager
def evaluation_mode(optimizer: Optimizer) -> Iterator[None]:
    """The weights to be evaluated are in the model inside; afterwards the ones before, to the last bit.

    The library takes them from one another by arithmetic, whose rounding would change training at every evaluation, so
    they are kept aside meanwhile. Nothing happens to other optimizers, nor to one that is not in training mode.
    """
    if not is_schedule_free(optimizer) or not optimizer.param_groups[0]["train_mode"]:
        yield
        return
    parameters = [p.detach() for group in optimizer.param_groups for p in group["params"]]
    kept = [p.clone() for p in parameters]
    optimizer.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        optimizer.train()  # type: ignore[attr-defined]
        torch._foreach_copy_(parameters, kept)
