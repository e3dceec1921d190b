"""FLOPs: by hand, once per shape, and nothing left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint

from budgeted import BudgetError
from budgeted.train.flops import Flops


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    yield
    assert not counting()
    assert torch._dynamo.eval_frame._stance.stance == "default"


def counting() -> int:
    return len(_get_current_dispatch_mode_stack())


def cost(compute: Callable[[], object]) -> float:
    flops = Flops()
    with flops.around(torch.empty(1)):
        compute()
    return flops.take()


def linear(batch: int = 4) -> tuple[nn.Module, torch.Tensor, int]:
    """A layer, its input, and the FLOPs of one product of theirs."""
    return nn.Linear(8, 16), torch.randn(batch, 8), 2 * batch * 8 * 16


# By hand


def test_a_linear_layer_is_2mnk_forward_and_as_much_for_each_gradient_backward():
    layer, x, product = linear()
    assert cost(lambda: layer(x)) == product
    assert cost(lambda: layer(x).sum().backward()) == 2 * product  # the input needs no gradient
    assert cost(lambda: layer(x.clone().requires_grad_()).sum().backward()) == 3 * product
    layer.weight.requires_grad_(False)
    assert cost(lambda: layer(x).sum().backward()) == product


def test_a_convolution_is_a_product_at_every_place():
    layer, x = nn.Conv2d(3, 5, 3, stride=2, padding=1), torch.randn(2, 3, 8, 8)
    product = 2 * 2 * (4 * 4) * 5 * (3 * 3 * 3)
    assert cost(lambda: layer(x).sum().backward()) == 2 * product
    assert cost(lambda: layer(x.clone().requires_grad_()).sum().backward()) == 3 * product


@pytest.mark.parametrize("dropout", [0.0, 0.1], ids=["fused", "in parts"])
def test_attention_is_two_products_forward(dropout):
    query, key, value = (torch.randn(2, 4, 16, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 4 * 16 * 16 * 8
    assert cost(lambda: scaled_dot_product_attention(query, key, value, dropout_p=dropout)) == 2 * product


def test_attention_is_four_products_backward_and_one_that_the_fused_kernel_computes_again():
    query, key, value = (torch.randn(2, 4, 16, 8, requires_grad=True) for _ in range(3))
    product = 2 * 2 * 4 * 16 * 16 * 8
    assert cost(lambda: scaled_dot_product_attention(query, key, value).sum().backward()) == 7 * product
    whole = cost(lambda: scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward())
    assert whole == 7 * product  # a mask makes it no cheaper


def test_a_model_without_products_costs_nothing():
    table = nn.Embedding(10, 3)
    assert cost(lambda: table(torch.arange(4)).sum().backward()) == 0


def test_what_checkpointing_computes_again_is_counted():
    layer, x, product = linear()
    inner = nn.Sequential(layer, nn.Tanh())
    x.requires_grad_()
    assert cost(lambda: inner(x).sum().backward()) == 3 * product
    assert cost(lambda: checkpoint(inner, x, use_reentrant=False).sum().backward()) == 4 * product


def test_autocast_changes_nothing():
    layer, x, product = linear()

    def halved() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = layer(x).sum()
        loss.backward()

    assert cost(halved) == 2 * product


def test_functional_gradients_are_counted():
    layer, x, product = linear()
    parameters = dict(layer.named_parameters())

    def loss(parameters: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, parameters, (x,)).sum()

    assert cost(lambda: torch.func.grad(loss)(parameters, x)) == 2 * product
    assert cost(lambda: torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)) == 2 * product


def test_a_replica_counts_what_its_model_does():
    layer, x, product = linear()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        replica = nn.parallel.DistributedDataParallel(layer)
        assert cost(lambda: replica(x).sum().backward()) == 2 * product
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="LSTM is computed in parts here")
def test_an_operator_out_of_sight_is_refused():
    flops, layer = Flops(), nn.LSTM(8, 8)
    with flops.around(torch.empty(1)):
        layer(torch.randn(3, 4, 8))[0].sum().backward()
    with pytest.raises(
        BudgetError,
        match=r"sees nothing of aten\.mkldnn_rnn_layer; pass flops_per_step=, or give a budget in another unit",
    ):
        flops.take()


def test_counting_changes_no_bit():
    def train(around: Callable[[Any], AbstractContextManager[None]]) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 3))
        attention = nn.MultiheadAttention(8, 2)
        with around(None):
            x = torch.randn(5, 4, 8)
            (
                model(torch.randn(4, 3, 8, 8)).square().mean() + attention(x, x, x, need_weights=False)[0].mean()
            ).backward()
        return [parameter.grad for module in (model, attention) for parameter in module.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(train(Flops().around), train(nullcontext), strict=True))


# Once per shape


def test_a_known_shape_is_charged_and_not_counted_again():
    flops, (layer, x, product) = Flops(), linear()
    for turn in range(3):
        with flops.around((x,)):
            assert counting() == (turn == 0)
            layer(x).sum().backward()
        assert flops.take() == 2 * product


class Pair(NamedTuple):
    inputs: torch.Tensor
    targets: torch.Tensor


@dataclass
class Graph:
    nodes: torch.Tensor
    size: int


@pytest.mark.parametrize(
    ("first", "same", "other"),
    [
        (torch.ones(4, 8), torch.zeros(4, 8), torch.ones(3, 8)),
        (torch.ones(4), torch.zeros(4), torch.ones(4, dtype=torch.float64)),
        (np.ones(4), np.zeros(4), np.ones(5)),
        ([torch.ones(4), 1], [torch.zeros(4), 2.5], [torch.ones(5), 1]),
        ({"x": torch.ones(4), "y": None}, {"x": torch.zeros(4), "y": None}, {"x": torch.ones(5), "y": None}),
        (Pair(torch.ones(4), torch.ones(4)), Pair(torch.zeros(4), torch.ones(4)), Pair(torch.ones(4), torch.ones(2))),
        ([[torch.ones(4)], []], [[torch.zeros(4)], []], [[], [torch.ones(4)]]),
        (Graph(torch.ones(4), 4), Graph(torch.zeros(4), 5), Graph(torch.ones(5), 4)),
        (0, 1, torch.ones(1)),
    ],
)
def test_shapes_and_types_make_a_shape(first, same, other):
    flops, seen = Flops(), []
    for batch in (first, same, other):
        with flops.around(batch):
            seen.append(counting())
    assert seen == [1, 0, 1]


@pytest.mark.parametrize("batch", ["some text", [torch.ones(2), b"text"], {"x": object()}])
def test_what_has_no_shape_is_counted_each_time(batch):
    flops, (layer, x, product) = Flops(), linear()
    for rows in (4, 2):
        with flops.around(batch):
            layer(x[:rows])
        assert flops.take() == product * rows / 4


def test_more_shapes_than_are_worth_remembering_are_counted_right():
    flops, (layer, x, product) = Flops(), linear()
    for size in range(1001):
        with flops.around(torch.empty(size)):
            pass
    with flops.around(x):
        layer(x)
    assert flops.take() == product


# Updates


def test_micro_batches_add_up_until_the_update():
    flops, (layer, x, product) = Flops(), linear()
    taken = []
    for turn in range(8):
        with flops.around(x):
            layer(x).sum().backward()
            if turn % 4 == 3:
                taken.append(flops.take())
    assert taken == [8 * product, 8 * product]
    assert flops.take() == 0


def test_an_update_takes_what_was_counted_when_it_happens_in_the_optimizers_hook():
    flops, (layer, x, product) = Flops(), linear()
    optimizer, taken = torch.optim.SGD(layer.parameters(), lr=0.1), []
    optimizer.register_step_post_hook(lambda *_: taken.append(flops.take()))
    for _ in range(3):
        with flops.around(x):
            layer(x).sum().backward()
            optimizer.step()
    assert taken == [2 * product] * 3


def test_what_follows_the_update_is_not_counted():
    flops, (layer, x, product) = Flops(), linear()
    for _ in range(2):
        with flops.around(x):
            layer(x)
            assert flops.take() == product
            layer(x)  # an evaluation, for instance
    assert flops.take() == 0


def test_several_updates_of_one_batch_are_charged_alike():
    flops, (layer, x, product) = Flops(), linear()
    for _ in range(2):
        taken = 0.0
        with flops.around(x):
            for _ in range(3):
                layer(x)
                taken += flops.take()
        assert taken == 3 * product


def test_what_is_set_aside_is_not_counted():
    flops, (layer, x, product) = Flops(), linear()
    for _ in range(2):
        with flops.around(x):
            with flops.aside():
                layer(x)
            layer(x)
        assert flops.take() == product
    with flops.aside():
        layer(x)
    assert flops.take() == 0


# Compiled models


@pytest.mark.parametrize("fullgraph", [False, True])
def test_a_compiled_model_is_counted_uncompiled_and_compiled_once(fullgraph):
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    flops, (layer, x, product) = Flops(), linear()
    model = torch.compile(layer, backend=backend, fullgraph=fullgraph)
    compiled = []
    for _ in range(3):
        with flops.around(x):
            model(x).sum().backward()
        compiled.append(len(graphs))
        assert flops.take() == 2 * product
    assert compiled == [0, 1, 1]
    with Flops().around(x):
        model(x)
    model(x)
    assert len(graphs) == 1


# However the body is left


def over(flops: Flops, batches: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    for batch in batches:
        with flops.around(batch):
            yield batch


def test_a_loop_that_is_broken_off():
    flops, (layer, x, product) = Flops(), linear()
    for batch in over(flops, [x, x]):
        layer(batch)
        break
    assert not counting()
    assert flops.take() == product  # it was spent
    with flops.around(x):
        layer(x), layer(x)
    assert flops.take() == 2 * product  # and not taken for a whole batch


def test_a_loop_that_raises():
    flops, (layer, x, product) = Flops(), linear()

    def train() -> None:
        for batch in over(flops, [x, x]):
            layer(batch)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train()
    assert not counting()
    assert flops.take() == product


def test_a_loop_that_goes_on_later():
    flops, (layer, x, product) = Flops(), linear()
    batches = over(flops, [x, x])
    for batch in batches:
        layer(batch)
        break
    assert counting() == 1
    for batch in batches:
        layer(batch)
    assert flops.take() == 2 * product


def test_a_loop_that_is_forgotten_ends_when_the_next_begins():
    flops, (layer, x, product) = Flops(), linear()
    forgotten = over(flops, [x, x])
    layer(next(forgotten))
    for batch in over(flops, [x, x]):
        layer(batch)
        assert counting() == 1
        forgotten.close()  # late, and within another body
        assert counting() == 1
        break
    assert flops.take() == 2 * product


def test_a_loop_that_the_garbage_collector_closes():
    flops, (layer, x, product) = Flops(), linear()
    cycle: list[Any] = [over(flops, [x, x])]
    cycle.append(cycle)
    layer(next(cycle[0]))
    del cycle
    assert counting() == 1
    gc.collect()
    assert not counting()
    assert flops.take() == product


def test_a_loop_that_is_closed_while_the_counter_is_at_work():
    """The counter is not on the stack then, and comes back to it."""
    flops, (layer, x, product) = Flops(), linear()
    batches = [over(flops, [x, x])]

    class Late(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            batches.clear()
            return torch.zeros(())

    layer(next(batches[0]))
    torch.Tensor._make_subclass(Late, torch.ones(2)).sum()
    assert not batches
    assert counting() == 1
    assert flops.take() == product
    assert not counting()


def test_a_loop_that_another_thread_closes():
    flops, (layer, x, product) = Flops(), linear()
    batches = over(flops, [x, x])
    layer(next(batches))
    closer = threading.Thread(target=batches.close)
    closer.start()
    closer.join()
    assert counting() == 1  # a stack is its thread's own
    with flops.around(x):
        layer(x)
    assert not counting()
    assert flops.take() == 2 * product


class Other(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def test_a_loop_that_is_closed_within_another_mode_leaves_that_one_alone():
    flops, (layer, x, product) = Flops(), linear()
    batches = over(flops, [x, x])
    layer(next(batches))
    with Other() as other:
        batches.close()
        assert _get_current_dispatch_mode_stack()[-1] is other
    assert flops.take() == product
    assert not counting()


def test_closing_stops_whatever_is_under_way():
    flops, (layer, x, product) = Flops(), linear()
    with flops.around(x):
        layer(x)
        flops.close()
        assert not counting()
        layer(x)
    assert flops.take() == product
