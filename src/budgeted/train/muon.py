"""Muon for whole models (Jordan et al. 2024): matrices and filters move along orthogonal directions, the rest by AdamW.

PyTorch's own takes matrices alone and computes in bfloat16, which processors without its arithmetic do twenty times as slowly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: the steepest at 0 that stay near 1
_TINY = 1e-7  # a gradient's norm that is nothing
_TOGETHER = 3  # steps of the iteration on squares alone


class Muon(Optimizer):
    """Momentum, made orthogonal, for each matrix or filter bank W of m x n (a filter's inputs in one row); AdamW for the rest.

    ```
    B <- momentum B + (1 - momentum) G
    O  = U V^T, nearly, where U S V^T = momentum B + (1 - momentum) G      (Newton-Schulz)
    W <- (1 - lr weight_decay) W - 0.2 sqrt(max(m, n)) lr O
    ```

    The factor makes an entry's step as large as AdamW's at the same rate (Liu et al. 2025, section 2.2), so one base rate
    serves both. Biases, normalisation and embeddings are the rest, in a second group.

    Args:
        model: what is to be optimized. It stands in for the parameters, as they do not tell an embedding from a matrix.
        lr: base rate, at least 0.
        momentum: 0 to 1.
        weight_decay: decoupled, of the matrices, at least 0; the rest has none.
        betas: AdamW's.
        eps: AdamW's.
        steps: of the Newton-Schulz iteration, at least 1.

    Raises:
        ValueError: for a value out of range, or a model without parameters.

    >>> [len(group["params"]) for group in Muon(nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))).param_groups]
    [1, 3]
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float = 0.02,
        momentum: float = 0.9,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        steps: int = 5,
    ) -> None:
        for name, value in {"lr": lr, "weight_decay": weight_decay, "eps": eps}.items():
            if not value >= 0:
                raise ValueError(f"{name} is at least 0, and is {value}")
        if not (isinstance(betas, tuple | list) and len(betas) == 2):
            raise ValueError(f"betas are a pair such as (0.9, 0.99), and are {betas}")
        for name, value in {"momentum": momentum, "beta1": betas[0], "beta2": betas[1]}.items():
            if not 0 <= value < 1:
                raise ValueError(f"{name} is from 0 to below 1, and is {value}")
        if not (steps >= 1 and steps == int(steps)):
            raise ValueError(f"steps are a whole number, at least 1, and are {steps}")
        turned, rest = matrices(model)
        groups: list[dict[str, Any]] = [
            {"params": turned, "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": int(steps)},
            {"params": rest, "lr": lr, "betas": betas, "weight_decay": 0.0, "eps": eps},
        ]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if moved:
                (self._turn if "steps" in group else self._adamw)(group, moved)
        return loss

    def _turn(self, group: dict[str, Any], moved: list[Tensor]) -> None:
        gradients: list[Tensor] = [p.grad for p in moved]  # type: ignore[misc]
        for p in moved:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in moved]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        looked_ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
        directions = orthogonal([_matrix(ahead) for ahead in looked_ahead], group["steps"])
        rate = float(group["lr"])
        torch._foreach_mul_(moved, 1 - rate * group["weight_decay"])
        for p, direction in zip(moved, directions, strict=True):
            p.add_(_like(direction, p), alpha=-0.2 * max(direction.shape) ** 0.5 * rate)

    def _adamw(self, group: dict[str, Any], moved: list[Tensor]) -> None:
        for p in moved:
            if not self.state[p]:
                step = torch.zeros((), device=p.device, dtype=torch.float32)
                self.state[p].update(step=step, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        states = [self.state[p] for p in moved]
        adamw(
            moved,
            [p.grad for p in moved],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """A model's matrices and filter banks, embeddings left out, and the rest of its parameters."""
    embedded = {id(p) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) for p in m.parameters()}
    turned: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for p in model.parameters():
        is_matrix = p.ndim >= 2 and min(len(p), p.numel() // max(1, len(p))) > 1 and id(p) not in embedded
        (turned if is_matrix else rest).append(p)
    return turned, rest


def orthogonal(matrices: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """For each matrix U S V^T nearly U V^T: singular values that are not tiny come to 0.7 to 1.2.

    Newton-Schulz iteration X <- (a + b X X^T + c (X X^T)^2) X from X / |X|. Its factors are polynomials of the first X X^T, so
    it runs on these small squares, all of one size at once, and X takes part at every third step alone. Without that the
    rounding of the squares, where it makes a singular value negative, would grow tenfold a step.

    Args:
        matrices: each of shape (m, n).
        steps: of the iteration.

    Returns:
        Matrices of the same shapes, in float32 at least.
    """
    a, b, c = _COEFFICIENTS
    found = [m.mT if m.shape[0] > m.shape[1] else m for m in matrices]
    found = [m.float() if m.dtype in (torch.bfloat16, torch.float16) else m for m in found]
    lengths = torch._foreach_clamp_min(torch._foreach_norm(found), _TINY)
    found = list(torch._foreach_div(found, lengths))
    alike: defaultdict[tuple[int, torch.dtype, torch.device], list[int]] = defaultdict(list)
    for i, m in enumerate(found):
        alike[len(m), m.dtype, m.device].append(i)
    for (size, dtype, device), members in alike.items():
        one = torch.eye(size, dtype=dtype, device=device)
        for first in range(0, steps, _TOGETHER):
            squares = torch.stack([found[i].mm(found[i].mT) for i in members])
            product = one.expand_as(squares)
            together = min(_TOGETHER, steps - first)
            for k in range(together):
                powers = torch.baddbmm(squares, squares, squares, beta=b, alpha=c)
                product = torch.baddbmm(product, powers, product, beta=a)
                if k + 1 < together:  # from either side, as they commute
                    squares = torch.baddbmm(squares, powers, squares, beta=a)
                    squares = torch.baddbmm(squares, powers, squares, beta=a)
            for i, factor in zip(members, product, strict=True):
                found[i] = factor.mm(found[i])
    return [m.mT if given.shape[0] > given.shape[1] else m for given, m in zip(matrices, found, strict=True)]


def _matrix(p: Tensor) -> Tensor:
    """A filter's inputs in one row, in the order that they have in memory."""
    return p.permute(0, *range(2, p.ndim), 1).flatten(1) if _channels_last(p) else p.flatten(1)


def _like(matrix: Tensor, p: Tensor) -> Tensor:
    """The reverse."""
    if _channels_last(p):
        return matrix.reshape(len(p), *p.shape[2:], p.shape[1]).permute(0, p.ndim - 1, *range(1, p.ndim - 1))
    return matrix.reshape(p.shape)


def _channels_last(p: Tensor) -> bool:
    return p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last)
