"""A task with parts of its recipe replaced."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny_task
from budgeted import BudgetedError, TaskError
from budgeted.core.record import RunFolder, Spec
from budgeted.tasks import registry
from budgeted.train.data import Crop, Images
from budgeted.train.loop import fit
from budgeted.train.optimizers import NAMES, named_optimizer
from budgeted.train.recipe import named_model, varied

CPU = torch.device("cpu")


def spec(**more) -> Spec:
    return Spec("digits", "1ep", "linear", **more)


def layer() -> nn.Module:
    return nn.Linear(2, 2, bias=False)


def result(tmp_path, task, what: Spec):
    training = fit(task, what, RunFolder.create(tmp_path, what))
    while True:
        try:
            next(training)
        except StopIteration as end:
            return end.value


def test_a_spec_that_replaces_nothing_leaves_the_task_alone():
    task = registry.load("digits")
    assert varied(task, spec()) is task


def test_each_part_can_be_replaced():
    task = varied(
        registry.load("digits"), spec(model="mlp(width=8)", optimizer="adamw(weight_decay=0.1)", lr=0.02, subset=0.25)
    )
    model = task.model()
    optimizer = task.optimizer(model)
    data = task.data(None, CPU)
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [8, 10]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.02, 0.1)
    assert data.train.samples == round(0.25 * 1437)
    assert (len(data.train), data.steps_per_epoch) == (6, 23)
    assert task.metric == "accuracy"  # the rest is the task's


def test_groups_keep_their_ratio_under_another_base_rate():
    class Two(tiny_task.Tiny):
        def optimizer(self, model):
            first, *rest = model.parameters()
            return torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.3}])

    task = varied(Two(), spec(lr=0.01))
    assert [g["lr"] for g in task.optimizer(task.model()).param_groups] == pytest.approx([0.01, 0.03])


def test_a_budget_buys_as_many_updates_on_a_subset(tmp_path):
    """An epoch of the budget is one of the whole data (Li et al., appendix F)."""
    whole, part = (result(tmp_path, registry.load("digits"), spec(subset=s, precision="float32")) for s in (None, 0.1))
    assert whole["spent"]["steps"] == part["spent"]["steps"] == 23
    assert part["metric"]["best"] < whole["metric"]["best"]


def test_the_whole_as_a_subset_is_the_same_images(tmp_path):
    images = registry.load("digits").data(None, CPU).train
    whole = images.subset(1.0, 0)
    assert sorted(whole.labels.tolist()) == sorted(images.labels.tolist())


@pytest.mark.parametrize("crop", [None, Crop(2, flip=True)])
def test_a_subset_is_drawn_once_from_the_seed(crop):
    pixels = torch.arange(40 * 8 * 8, dtype=torch.int64).remainder(251).to(torch.uint8).view(40, 8, 8, 1)
    images = Images(pixels, torch.arange(40), (0.0,), (1.0,), 4, crop)
    part, again, other = images.subset(0.25, 3), images.subset(0.25, 3), images.subset(0.25, 4)
    assert part.labels.tolist() == again.labels.tolist() != other.labels.tolist()
    assert len(part.labels) == 10
    assert part.images.shape[1] == (8 if crop is None else 12)  # padded, as the whole is
    assert all(batch.inputs.shape == (1, 1, 8, 8) for batch in part.in_order(1))  # but read as they are
    same = images.images[part.labels]
    assert torch.equal(part.images, same)
    assert images.subset(1e-9, 0).samples == 1


def test_data_without_subsets_is_said():
    with pytest.raises(TaskError, match="that of task 'digits' has no subset"):
        varied(tiny_task.Tiny(), spec(subset=0.5)).data(None, CPU)


# Models


def test_a_model_of_the_users_own(tmp_path):
    path = tmp_path / "nets.py"
    path.write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\nnumber = int\nmade = small()\n"
    )
    assert isinstance(named_model(f"{path}:small", registry.load("digits")), nn.Sequential)
    with pytest.raises(TaskError, match=r"is a int, and no torch\.nn\.Module"):
        named_model(f"{path}:number", registry.load("digits"))
    with pytest.raises(TaskError, match="is an object; name a class or a function that makes one anew"):
        named_model(f"{path}:made", registry.load("digits"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mpl", "model 'mpl' is unknown; did you mean 'mlp'. the models of digits are conv-net, mlp"),
        ("mlp(depth=3)", r"model 'mlp\(depth=3\)': mlp\(\) got an unexpected keyword argument 'depth'"),
        ("mlp(", "the parentheses do not match|not understood"),
    ],
)
def test_an_unknown_model_is_said(text, why):
    with pytest.raises(BudgetedError, match=why):
        named_model(text, registry.load("digits"))


# Optimizers


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_an_optimizer_that_steps(name):
    model = nn.Linear(3, 3, bias=False)
    arguments = "(lr=0.1)" if name in ("sgd", "schedule-free-sgd") else ""
    optimizer = named_optimizer(name + arguments, model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    if name == "sparseadam":
        model.weight.grad = torch.ones(3, 3).to_sparse()
    else:
        model.weight.sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model.weight.detach(), before)


def test_amsgrad_is_the_papers():
    """Li et al., appendix C: 0.001, 0.9 and 0.99."""
    optimizer = named_optimizer("amsgrad", layer())
    assert isinstance(optimizer, torch.optim.Adam)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["amsgrad"], group["eps"]) == (0.001, (0.9, 0.99), True, 1e-8)


def test_arguments_are_numbers_pairs_and_truths():
    group = named_optimizer("adamw(betas=0.8:0.95, amsgrad=true, fused=false)", layer()).param_groups[0]
    assert (group["betas"], group["amsgrad"], group["fused"]) == ((0.8, 0.95), True, False)
    assert named_optimizer("adamw", layer()).param_groups[0]["fused"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("adamv", "'adamv' is unknown; did you mean 'adam"),
        ("sgd(momentun=0.9)", "it has no 'momentun'; did you mean 'momentum'"),
        ("sgd(0.1)", "'0.1' has no name; its arguments are lr, momentum"),
        ("sgd(lr=-1)", "Invalid learning rate"),
        ("sgd lr", "is not understood; write a name such as sgd"),
    ],
)
def test_an_impossible_optimizer_is_said(text, why):
    with pytest.raises(BudgetedError, match=why):
        named_optimizer(text, layer())
