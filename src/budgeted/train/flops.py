"""FLOPs of the real update, by PyTorch's counter, once per shape of batch.

A multiplication and its addition are two FLOPs; matrix products, convolutions and attention are counted. What activation
checkpointing computes again is counted too; autocast, torch.func and DDP change nothing, and each process counts its own.
A causal mask does not make attention cheaper: it is counted as its whole matrix.

A compiled model runs uncompiled while it is counted, as torch.compile works under no dispatch mode; it is compiled at the
next batch of that shape, and not anew afterwards. Matrix-vector products, FFTs and decompositions count nothing. Of some
fused operators, such as LSTM's, the products are out of sight: a model with one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..core.errors import BudgetError

Signature = tuple[Any, ...]

_SHAPES = 1000  # remembered; a loader with more of them hardly repeats one
_OUT_OF_SIGHT = ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn", "_grouped_mm", "_scaled_grouped_mm", "_int_mm")
_NOTHING = nullcontext()


class Flops:
    """Counts the FLOPs of updates: `around` what computes a batch, `take` when the update has happened.

    A batch of a new shape is computed under the counter; the next ones of that shape are charged what it cost.
    Micro-batches add up until `take`. What a body runs after its last update is not counted.
    """

    def __init__(self) -> None:
        self._costs: dict[Signature, float] = {}
        self._spent = 0.0  # and not taken yet
        self._body: _Body | None = None  # under the counter now
        self._ended: list[_Body] = []  # whose counters could not be removed yet
        self._unseen: set[str] = set()

    def around(self, batch: Any) -> AbstractContextManager[None]:
        """A context for what computes a batch: forward, backward and, where one is due, the optimizer's step.

        It may be left in any way, and late: the counter is removed when `around`, `take` or `close` is called next,
        at the latest. A batch of other things than tensors, arrays and numbers has no shape, and is counted each time.
        """
        if self._body is not None or self._ended:
            self.close()
        signature = _signature(batch)
        cost = None if signature is None else self._costs.get(signature)
        if cost is None:
            return self._counted(signature)
        self._spent += cost
        return _NOTHING

    def take(self) -> float:
        """The FLOPs since the last call, those of a body under way up to now.

        Raises:
            BudgetError: where an operator's FLOPs cannot be seen.
        """
        if self._body is not None:
            self._body.updated = True
            self._spent += self._body.take()
        elif self._ended:
            self.close()
        if self._unseen:
            raise BudgetError(
                f"the FLOPs of this model cannot be counted: PyTorch's counter sees nothing of {min(self._unseen)}; "
                "pass flops_per_step=, or give a budget in another unit"
            )
        spent, self._spent = self._spent, 0.0
        return spent

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What happens inside is no part of an update, for instance an evaluation in the loop's body."""
        body = self._body
        before = body.total() if body is not None else 0
        try:
            yield
        finally:
            if body is not None:
                body.skipped += body.total() - before

    def close(self) -> None:
        """Stop counting, whatever is under way."""
        if self._body is not None:
            self._end(self._body)
        self._ended = [body for body in self._ended if not body.remove()]

    @contextmanager
    def _counted(self, signature: Signature | None) -> Iterator[None]:
        body = self._body = _Body(self._unseen)
        try:
            yield
        except BaseException:
            self._end(body)  # what was spent was spent, but a whole batch may cost more
            raise
        if self._end(body) and signature is not None:
            if len(self._costs) >= _SHAPES:
                self._costs.clear()
            self._costs[signature] = body.taken

    def _end(self, body: _Body) -> bool:
        """Count no more of a body; whether it was still under way."""
        if body is not self._body:
            return False
        self._body = None
        if not body.updated:
            self._spent += body.take()
        body.end()
        if not body.remove():
            self._ended.append(body)
        return True


class _Body:
    """What runs under PyTorch's counter, from when this is made until `end`."""

    def __init__(self, unseen: set[str]) -> None:
        self.updated = False  # whether an update has happened in it
        self.taken = self.skipped = 0
        self._counter = FlopCounterMode(display=False, custom_mapping=_formulas(unseen))
        self._counter.mod_tracker = _NoModules()  # type: ignore[assignment]
        # A model compiled with fullgraph=True would refuse to run under the counter.
        self._uncompiled = torch.compiler.set_stance("force_eager")
        self._counter.__enter__()

    def total(self) -> int:
        return self._counter.get_total_flops() - self.skipped

    def take(self) -> int:
        """What was counted since the last call."""
        before, self.taken = self.taken, self.total()
        return self.taken - before

    def end(self) -> None:
        self._uncompiled.__exit__(None, None, None)

    def remove(self) -> bool:
        """Remove the counter from the stack of dispatch modes, if it lies on top: leaving a mode removes whatever does.

        It lies elsewhere where a generator was closed late: in another thread, within another mode's context, or by the
        garbage collector while the counter itself was at work.
        """
        stack = _get_current_dispatch_mode_stack()
        if not stack or stack[-1] is not self._counter.mode:
            return False
        self._counter.__exit__(None, None, None)
        return True


class _NoModules:
    """In place of the counter's record of modules, whose hooks on all of them get in the way of torch.compile."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _formulas(unseen: set[str]) -> dict[Any, Callable[..., int]]:
    """What PyTorch's counter lacks: attention on the CPU, and a note of operators that it would count as nothing."""
    aten = torch.ops.aten

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    def attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(gradient, query, key, value))

    def unknown(operator: Any) -> Callable[..., int]:
        def note(*_: Any, **__: Any) -> int:
            unseen.add(str(operator))
            return 0

        return note

    formulas: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    for operator in (getattr(aten, name, None) for name in _OUT_OF_SIGHT):
        if operator is not None:
            formulas[operator] = unknown(operator)
    return formulas


def _signature(batch: Any) -> Signature | None:
    """Shapes and dtypes of all tensors and arrays in a batch; None where something else is in it."""
    if isinstance(batch, torch.Tensor) or (hasattr(batch, "shape") and hasattr(batch, "dtype")):
        return (batch.shape, batch.dtype)
    if batch is None or isinstance(batch, bool | int | float):
        return ()
    if isinstance(batch, list | tuple):
        parts = batch
    elif isinstance(batch, Mapping):
        parts = [*batch.values()]
    elif is_dataclass(batch):
        parts = [getattr(batch, field.name) for field in fields(batch)]
    else:
        return None
    found = []
    for part in parts:
        signature = _signature(part)
        if signature is None:
            return None
        found.append(signature)
    return tuple(found)
