"""Measurements that need a model: the norm of the full gradient, and the rate that momentum SGD would need to move as far.

Neither leaves a trace: weights, gradients, batch norm's statistics, the random state and the optimizer are the same to the
bit before and after.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from ..core.errors import BudgetedError
from .process import random_state_kept
from .tally import batch_size

Batch = TypeVar("Batch")
LEAST_BATCHES = 8  # of a sample, for a standard error
_QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Gradient:
    """The norm of the full gradient.

    Args:
        norm: the Euclidean norm over all trained parameters.
        error: its standard error; None where it is exact.
        samples: that it was taken over.
        of: samples in the whole set, or None where that was not said.
        seconds: that it took.
    """

    norm: float
    error: float | None
    samples: int
    of: float | None
    seconds: float


def full_gradient(
    model: nn.Module, loss: Callable[[nn.Module, Batch], Tensor], batches: Iterable[Batch], *, of: float | None = None
) -> Gradient:
    """The norm of the gradient of the mean loss over many batches: ||g*||, g* = 1/N sum_i grad F(x_i, y_i) (Li et al., section 5).

    The gradients of the batches, weighed by their sizes, are added up; no more than one batch is in memory. Without `of`,
    or where it is as many samples as were read, that is exact. Of a sample, the norm of the mean would be too great by the
    noise in it; instead ||g*||^2 is estimated without bias by the products of different batches,

        (1 - f) sum_{i<j} n_i n_j <g_i, g_j> / sum_{i<j} n_i n_j  +  f ||mean||^2,    f = samples / of.

    The model is as it is while training (batch norm uses the statistics of each batch, so its gradient depends on the batch
    size), but for the dropout of PyTorch's modules, which is off. Weight decay, being the optimizer's, is no part of the gradient.

    Args:
        model: what is trained; one in DistributedDataParallel is measured on this rank alone. Sharded ones are refused.
        loss: of a model and a batch, the mean over the batch, a scalar.
        batches: the training set, or a random part of it; not augmented, if the gradient is to be that of the set.
        of: samples in the whole set, where `batches` are a random part of it, of at least 8 batches; infinite, where they are
            drawn from no set or augmented.

    Raises:
        BudgetedError: for no batches, a loss that is no scalar, too few batches of a sample, a sharded model.
    """
    began = time.monotonic()
    model = getattr(model, "module", model) if isinstance(model, nn.parallel.DistributedDataParallel) else model
    parameters = [p for p in model.parameters() if p.requires_grad]
    if any(type(p).__name__ == "DTensor" for p in parameters):
        raise BudgetedError(
            "the full gradient of a sharded model is not measured; probe a model whose parameters are whole"
        )
    total = _Total(parameters, paired=of is not None)
    with left_alone(model), torch.enable_grad():
        for batch in batches:
            value = loss(model, batch)
            if value.numel() != 1:
                raise BudgetedError(
                    f"a probe's loss is a scalar, the mean over the batch, and has shape {tuple(value.shape)}"
                )
            # Not backward(): gradients under way, and what hangs on their accumulation, stay out of it.
            found = torch.autograd.grad(value, parameters, allow_unused=True)
            total.add(found, batch_size(batch) or 1)
    if not total.samples:
        raise BudgetedError("a probe needs data, and was given no batch; a loader that is an iterator may be used up")
    if of is None or total.samples >= of:
        return Gradient(total.norm(), None, total.samples, of, time.monotonic() - began)
    norm, error = total.estimate(of)
    return Gradient(norm, error, total.samples, of, time.monotonic() - began)


class _Total:
    """The sum of the batches' gradients, and what a sample's estimate needs of them one by one."""

    def __init__(self, parameters: Sequence[Tensor], *, paired: bool) -> None:
        self._sum = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in parameters]
        self._paired = paired
        self.samples = 0
        self._products: list[tuple[Tensor, int]] = []  # of a batch's gradient with the mean of those before it

    @torch.no_grad()
    def add(self, gradients: Sequence[Tensor | None], samples: int) -> None:
        there = [(total, g) for total, g in zip(self._sum, gradients, strict=True) if g is not None]
        dense = [g.to_dense() if g.is_sparse else g for _, g in there]
        sums = [total for total, _ in there]
        if self._paired and self.samples:
            dot = sum(
                (t.flatten() @ g.flatten().to(t.dtype) for t, g in zip(sums, dense, strict=True)), torch.zeros(())
            )
            self._products.append((dot / self.samples, samples))
        for total, g in zip(sums, dense, strict=True):
            total.add_(g, alpha=samples)
        self.samples += samples

    def norm(self) -> float:
        """Of the mean over all samples."""
        return math.sqrt(sum(float(t.double().square().sum()) for t in self._sum)) / self.samples

    def estimate(self, of: float) -> tuple[float, float]:
        """The norm over the whole set, and its standard error."""
        products = [float(dot) for dot, _ in self._products]
        if len(products) < LEAST_BATCHES - 1:
            raise BudgetedError(
                f"a sample's standard error needs at least {LEAST_BATCHES} batches, and it has {len(products) + 1}; take a "
                "larger sample or smaller batches"
            )
        sizes = [size for _, size in self._products]
        before, weights = self.samples - sum(sizes), []
        for size in sizes:
            weights.append(size * before)
            before += size
        square = math.fsum(w * v for w, v in zip(weights, products, strict=True)) / sum(weights)
        # Each batch's product with the mean so far scatters as with the whole mean, and a little more: the later half,
        # for which that mean is good, gives the variance of a U-statistic's first-order term. What was read of the set
        # is known, so only the rest is uncertain.
        late = products[len(products) // 2 :]
        unread = 1 - self.samples / of
        error = 2 * statistics.stdev(late) / math.sqrt(len(products) + 1) * math.sqrt(unread)
        # Of a finite set the products of different batches fall short by what the norm of the mean is too great by, in parts
        # that make up for each other.
        square = unread * square + (1 - unread) * self.norm() ** 2
        norm = math.sqrt(max(square, 0.0))
        return norm, error / (2 * norm) if square > error else math.sqrt(error)


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """The model as it is while training, dropout off; afterwards buffers, modes and the random state are as before, to the bit."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    inner = [(m, m.dropout) for m in model.modules() if isinstance(m, nn.MultiheadAttention | nn.RNNBase)]
    with random_state_kept():
        try:
            if not model.training:
                model.train()
            for module, _ in modes:
                if isinstance(module, _DropoutNd):
                    module.eval()
            for module, _ in inner:
                module.dropout = 0.0
            yield
        finally:
            for module, share in inner:
                module.dropout = share
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, kept in buffers:
                    buffer.copy_(kept)
                    module._buffers[name] = buffer


# Equivalent rates


@dataclass(frozen=True, slots=True)
class EquivalentRate:
    """The rate, as a share of a base, with which momentum SGD would make the steps that an adaptive optimizer makes.

    Args:
        median, low, high: over all weights; low and high are the 10 % and the 90 % quantile.
        weights: how many there are.
    """

    median: float
    low: float
    high: float
    weights: int


def equivalent_rate(optimizer: Optimizer, base: float = 0.1) -> EquivalentRate:
    """Equation 13 of Li et al., appendix C, from the optimizer's state after its last update.

        beta_t = (lr / base) / ((1 - beta1^t) (sqrt(v) + eps))

    for each weight, against momentum SGD in the paper's form, m <- beta1 m + (1 - beta1) g, w <- w - base beta_t m; PyTorch's
    SGD, which leaves the (1 - beta1) out, makes the same steps at (1 - beta1) times that rate. v is what the optimizer really
    divides by: for Adam and AdamW v / (1 - beta2^t); for AMSGrad PyTorch takes the maximum of the uncorrected v and corrects
    it then, where the paper's equation 11 takes that of the corrected ones. RMSprop has no correction, v is centred where the
    optimizer is, and its momentum adds to the steps: beta_t = (lr / base) / ((1 - momentum) (sqrt(v) + eps)).

    Args:
        optimizer: Adam, AdamW (either with amsgrad) or RMSprop, after at least one update.
        base: the base rate of momentum SGD that it is compared with; the paper's is 0.1.

    Raises:
        BudgetedError: for another optimizer, or one that has made no update.
    """
    _require_positive(base)
    return _summary(rate for group, p in _stepped(optimizer) for rate in [_from_state(optimizer, group, p, base)])


def _from_state(optimizer: Optimizer, group: dict[str, Any], p: Tensor, base: float) -> Tensor:
    state, lr = optimizer.state[p], float(group["lr"])
    if isinstance(optimizer, torch.optim.RMSprop):
        v = state["square_avg"] - state["grad_avg"].square() if group["centered"] else state["square_avg"]
        divided: Tensor = (1 - group["momentum"]) * (v.clamp_min(0).sqrt() + group["eps"])
        return lr / base / divided
    (beta1, beta2), t = group["betas"], float(state["step"])
    v = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    by: Tensor = (1 - beta1**t) * ((v / (1 - beta2**t)).sqrt() + group["eps"])
    return lr / base / by


class Moved:
    """What one update moved the weights by, as an equivalent rate: made by `watching`."""

    def __init__(self, optimizer: Optimizer, base: float) -> None:
        self._optimizer, self._base = optimizer, base
        self._before = {
            p: p.detach().clone() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
        }
        self._rate: EquivalentRate | None = None

    @property
    def rate(self) -> EquivalentRate:
        """The rate; known when the context is left.

        Raises:
            BudgetedError: where the optimizer made no update inside, or no weight moved.
        """
        if self._rate is None:
            raise BudgetedError(
                "no update was watched, or none that moved a weight along its gradient: call optimizer.step() inside "
                "`with watching(optimizer)`"
            )
        return self._rate

    def _look(self) -> None:
        found = [self._rates(group, p) for group, p in _stepped(self._optimizer)]
        with contextlib.suppress(BudgetedError):  # where no weight moved: said by whoever asks
            self._rate = _summary(rates for rates in found if rates is not None)

    def _rates(self, group: dict[str, Any], p: Tensor) -> Tensor | None:
        if p not in self._before:
            return None
        before, optimizer, lr = self._before[p], self._optimizer, float(group["lr"])
        direction = p.grad if isinstance(optimizer, torch.optim.RMSprop) else optimizer.state[p]["exp_avg"]
        assert direction is not None
        direction = -direction if group["maximize"] else direction
        start = before
        if group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)):
            start = before * (1 - lr * group["weight_decay"])  # decoupled decay is no part of the step
        elif isinstance(optimizer, torch.optim.RMSprop):
            direction = direction + group["weight_decay"] * before
        moved: Tensor = (start - p.detach()) / self._base
        steady = direction != 0
        return (moved[steady] / direction[steady]).abs()


@contextmanager
def watching(optimizer: Optimizer, base: float = 0.1) -> Iterator[Moved]:
    """Watch one update, and find the equivalent rate from how far the weights really moved.

        beta_t = (w_{t-1} - w_t) / (base m_t)

    for each weight, where m_t is the optimizer's own average of the gradients, and the gradient itself for RMSprop. Where it
    is near 0 the quotient is mostly rounding; median and quantiles do not mind.

    >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> adam = torch.optim.Adam([w], lr=0.01)
    >>> (w * torch.tensor([2.0, 4.0])).sum().backward()
    >>> with watching(adam) as moved: adam.step()
    >>> round(moved.rate.low, 3), round(equivalent_rate(adam).low, 3)
    (0.25, 0.25)

    Args:
        optimizer: as of `equivalent_rate`; RMSprop without momentum.
        base: the same.

    Raises:
        BudgetedError: for another optimizer, and where `rate` is asked for and there was no update.
    """
    _require_positive(base)
    _require_known(optimizer)
    if not is_watchable(optimizer):
        raise BudgetedError(
            "RMSprop's momentum mixes steps that were divided by different v, so no single rate made this one; use equivalent_rate"
        )
    before = [(p, _steps(optimizer, p)) for group in optimizer.param_groups for p in group["params"]]
    moved = Moved(optimizer, base)
    yield moved
    if any(_steps(optimizer, p) != steps for p, steps in before):
        moved._look()


def is_adaptive(optimizer: Optimizer) -> bool:
    """Whether equivalent rates are known of it."""
    return isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW | torch.optim.RMSprop)


def is_watchable(optimizer: Optimizer) -> bool:
    """Whether what it moves the weights by is a rate of their own times one direction."""
    return is_adaptive(optimizer) and not any(group.get("momentum") for group in optimizer.param_groups)


def _require_known(optimizer: Optimizer) -> None:
    if not is_adaptive(optimizer):
        raise BudgetedError(
            f"the equivalent rate is defined for Adam, AdamW and RMSprop, and this is {type(optimizer).__name__}; of SGD it is "
            "its own rate"
        )


def _require_positive(base: float) -> None:
    if not 0 < base < math.inf:
        raise BudgetedError(
            f"base is the rate of momentum SGD that is compared with, positive and finite, and is {base}"
        )


def _steps(optimizer: Optimizer, p: Tensor) -> float:
    return float(optimizer.state[p]["step"]) if optimizer.state.get(p) else 0.0


def _stepped(optimizer: Optimizer) -> list[tuple[dict[str, Any], Tensor]]:
    """The parameters that were updated, with their groups."""
    _require_known(optimizer)
    found = [(group, p) for group in optimizer.param_groups for p in group["params"] if _steps(optimizer, p)]
    if not found:
        raise BudgetedError("the optimizer has made no update yet, so its rates are not known; ask after the first one")
    return found


def _summary(rates: Iterable[Tensor]) -> EquivalentRate:
    every = torch.cat([torch.zeros(0), *(rate.detach().flatten().float().cpu() for rate in rates)])
    if not len(every):
        raise BudgetedError("no weight moved along its gradient, so there is no rate to tell")
    # By order and not by torch.quantile, which refuses more than 16 million values.
    low, middle, high = (float(every.kthvalue(1 + round(q * (len(every) - 1))).values) for q in _QUANTILES)
    return EquivalentRate(middle, low, high, len(every))
