"""Weights to begin with: from a path or torchvision's cache, of the right network, and said where there are none."""

from __future__ import annotations

import warnings

import pytest
import torch
import torchvision

from budgeted import BudgetWarning, TaskError
from budgeted.tasks.pretrained import Backbone
from budgeted.tasks.scaling import positive

FILE = "resnet18-f37072fd.pth"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_torchvisions_cache_is_used(cache):
    pretrained = torchvision.models.resnet18()
    torch.save(pretrained.state_dict(), cache / FILE)
    found = Backbone.find(None, FILE, "coco")
    assert found.origin.startswith(f"{FILE} (sha256 ")
    model = torchvision.models.resnet18(num_classes=7)
    head = model.fc.weight.clone()
    found.load_into(model)
    assert torch.equal(model.layer4[1].conv2.weight, pretrained.layer4[1].conv2.weight)
    assert torch.equal(model.fc.weight, head)  # of other classes


def test_the_file_is_the_one_that_torchvision_downloads():
    from budgeted.tasks.pretrained import RESNETS

    assert torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url.endswith(RESNETS[50])


def test_from_scratch_is_said_unless_it_was_asked_for(cache):
    with pytest.warns(
        BudgetWarning, match=r"coco trains from scratch: there is no pretrained backbone at '.*checkpoints"
    ):
        assert Backbone.find(None, FILE, "coco").weights is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Backbone.find("scratch", FILE, "coco").origin == "scratch"


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(TaskError, match=r"backbone '.*none.pth' cannot be read as weights"):
        Backbone.find(str(tmp_path / "none.pth"), FILE, "coco")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(TaskError, match="cannot be read as weights"):
        Backbone.find(str(tmp_path / "text.pth"), FILE, "coco")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(TaskError, match="holds no state_dict"):
        Backbone.find(str(tmp_path / "other.pth"), FILE, "coco")


def test_another_networks_weights_are_refused(tmp_path):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(TaskError, match=r"is another network's: it has layer1\.2"):
        Backbone.find(str(tmp_path / "deeper.pth"), FILE, "coco").load_into(torchvision.models.resnet18())
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "wider.pth")
    with pytest.raises(TaskError, match="is another network's"):
        Backbone.find(str(tmp_path / "wider.pth"), FILE, "coco").load_into(torchvision.models.resnet18())


@pytest.mark.parametrize("value", [0, -3, 2.5, "many", True, float("nan"), float("inf")])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(TaskError, match="batch is a whole number from 1, and is"):
        positive("batch", value)
