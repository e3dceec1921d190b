"""Random architectures: the same for the same seed, all of them networks, and not all alike."""

from __future__ import annotations

import pytest
import torch

from budgeted import TaskError
from budgeted.core.record import Spec
from budgeted.tasks import registry
from budgeted.tasks.models import resnet18
from budgeted.tasks.random_models import BlockPlan, Layer, Plan, RandomResNet, random_plan, random_resnet
from budgeted.train.recipe import varied


def unmodified(width=8):
    widths = [width * 2**stage for stage in range(4) for _ in range(2)]
    return Plan(width, [BlockPlan([Layer(w), Layer(w)], 2 if k in (2, 4, 6) else 1) for k, w in enumerate(widths)])


def test_without_modifications_it_is_resnet_18():
    ours, theirs = RandomResNet(unmodified(), 3, 10), resnet18(10, 8)
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("seed", range(60))
def test_every_plan_is_a_network_that_passes_gradients(seed):
    model = random_resnet(1, 10, 2, seed=seed, width=4)
    out = model(torch.randn(3, 1, 28, 28))
    assert out.shape == (3, 10)
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.head.parameters())


def test_the_seed_decides_the_plan_and_torch_the_weights():
    assert random_plan(5) == random_plan(5)
    torch.manual_seed(0)
    one = random_resnet(1, 10, 1, seed=5, width=4)
    other = random_resnet(1, 10, 1, seed=5, width=4)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_all_three_kinds_of_modification_come_about():
    changes = [change for seed in range(30) for change in random_plan(seed).changes]
    for words in ("skip from", "no convolution", "no norm", "no shortcut", "times the filters"):
        assert any(words in change for change in changes)
    sizes = {sum(p.numel() for p in random_resnet(1, 10, 1, seed=s, width=8).parameters()) for s in range(20)}
    assert len(sizes) > 15


def test_a_width_scales_the_same_architecture():
    assert random_plan(3, 64).changes == random_plan(3, 8).changes
    assert random_plan(3, 64).blocks[0].stride == random_plan(3, 8).blocks[0].stride


def test_by_name_in_a_task():
    task = varied(registry.load("digits"), Spec("digits", "1ep", "linear", model="random-resnet(7)"))
    assert task.model().plan == random_plan(7, 4)
    with pytest.raises(TaskError, match="unexpected keyword argument 'depth'"):
        varied(registry.load("digits"), Spec("digits", "1ep", "linear", model="random-resnet(depth=3)")).model()
