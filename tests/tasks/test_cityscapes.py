"""Cityscapes and CamVid: the official folders and lists, arguments, bad data, that they learn and go on where they stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from budgeted import BudgetWarning, TaskError
from budgeted.core.errors import Interrupted
from budgeted.core.record import RunFolder, Spec
from budgeted.tasks import registry
from budgeted.tasks.cityscapes import CamVid, Cityscapes
from budgeted.tasks.pspnet import PSPNet, pspnet
from budgeted.tasks.scenes import VOID
from budgeted.train import checkpoint
from budgeted.train.data import Batch
from budgeted.train.loop import fit
from budgeted.train.session import Session

CPU = torch.device("cpu")


@pytest.fixture
def real() -> Path:
    if "BUDGETED_DATA" not in os.environ:
        pytest.skip("needs real data: set BUDGETED_DATA to the folder that holds camvid")
    return Path(os.environ["BUDGETED_DATA"])


def scene(path: Path, labels: Path, ids: list[int], seed: int, size=(40, 30)) -> None:
    """A picture of vertical stripes whose brightness tells their label."""
    stripes = np.random.default_rng(seed).choice(ids, size[0] // 5).repeat(5)
    grid = np.broadcast_to(stripes, (size[1], size[0])).astype(np.uint8)
    for file in (path, labels):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(grid[:, :, None] * 7, 3, 2)).save(path)
    Image.fromarray(grid).save(labels)


@pytest.fixture
def cities(tmp_path) -> Path:
    """The official folders with small scenes: 10 of two cities to train on, 3 of another to validate."""
    for part, city, count in (("train", "aachen", 6), ("train", "bochum", 4), ("val", "lindau", 3)):
        for k in range(count):
            name = f"{city}_{k:06}_000019"
            scene(
                tmp_path / "cityscapes" / "leftImg8bit" / part / city / f"{name}_leftImg8bit.png",
                tmp_path / "cityscapes" / "gtFine" / part / city / f"{name}_gtFine_labelIds.png",
                [0, 7, 11, 23, 26, 33],
                k,
            )
    return tmp_path


@pytest.fixture
def lists(tmp_path) -> Path:
    """Lists as CamVid's, with small scenes."""
    for part, count in (("train", 9), ("val", 3)):
        names = [(f"{part}/{k}.png", f"{part}annot/{k}.png") for k in range(count)]
        for k, (image, labels) in enumerate(names):
            scene(tmp_path / "camvid" / image, tmp_path / "camvid" / labels, [0, 3, 5, 8, 11], k)
        (tmp_path / "camvid" / f"{part}.txt").write_text("".join(f"{a} {b}\n" for a, b in names))
    return tmp_path


# Data


def test_the_train_ids_are_the_official_ones():
    wanted = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    wanted |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # cityscapesScripts: road, sidewalk, building, ..., bicycle
    assert Cityscapes.table == tuple(wanted.get(k, VOID) for k in range(34))


def test_cityscapes_official_folders(cities):
    data = Cityscapes(batch=4, crop=33, backbone="scratch").data(cities, CPU)
    assert (data.train.samples, len(data.train), data.validation.samples) == (8, 2, 3)  # whole batches alone
    batches = list(data.train.epoch(0, 0))
    assert [b.inputs.shape for b in batches] == [(4, 3, 33, 33)] * 2
    assert [b.targets.shape for b in batches] == [(4, 33, 33)] * 2
    whole = next(data.validation.in_order(1)).targets
    assert whole.shape == (1, 30, 40)
    assert set(whole.unique().tolist()) <= {0, 2, 10, 13, 18, VOID}
    ids = np.asarray(Image.open(cities / "cityscapes/gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"))
    assert whole[0].tolist() == np.array(Cityscapes.table)[ids].tolist()


def test_camvids_lists(lists):
    task = CamVid(batch=4, crop=33, images=5)
    data = task.data(lists, CPU)
    assert (data.train.samples, len(data.train), data.validation.samples) == (4, 1, 3)
    assert CamVid().data(lists, CPU).train.source.pairs[0].image.path.endswith("camvid/train/0.png")
    overfit = CamVid(batch=4, crop=33, images=5, overfit=1).data(lists, CPU)
    assert overfit.validation.source.pairs == data.train.source.pairs
    assert overfit.validation.source.read(0, None)[0].shape == (30, 40, 3)  # as they are


def test_another_folder(lists):
    (lists / "camvid").rename(lists / "mine")
    assert CamVid(folder="mine").data(lists, CPU).validation.samples == 3
    with pytest.raises(
        TaskError, match=r"no folder '.*camvid'; --data or BUDGETED_DATA names .* camvid\(folder=NAME\)"
    ):
        CamVid().data(lists, CPU)


def test_real_camvid(real):
    data = CamVid().data(real, CPU)
    assert (len(data.train.source), data.train.samples, len(data.train), data.validation.samples) == (367, 360, 45, 101)
    batch = next(data.train.epoch(0, 0))
    assert batch.inputs.shape == (8, 3, 161, 161)
    assert batch.inputs.mean().abs() < 1
    assert set(batch.targets.unique().tolist()) <= {*range(11), VOID}
    assert next(data.validation.in_order(1)).inputs.shape == (1, 3, 180, 240)


# Bad data


def test_files_that_are_missing_are_named(cities, lists):
    (lists / "camvid" / "valannot" / "1.png").unlink()
    with pytest.raises(TaskError, match=r"there is no '.*valannot/1.png' \(1 files are missing in all\); .*val\.txt"):
        CamVid().data(lists, CPU)
    (cities / "cityscapes/gtFine/train/bochum/bochum_000002_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(
        TaskError, match=r"no '.*bochum_000002_000019_gtFine_labelIds.png' .*unpack gtFine_trainvaltest"
    ):
        Cityscapes().data(cities, CPU)


def test_folders_that_are_empty(tmp_path):
    (tmp_path / "cityscapes").mkdir()
    with pytest.raises(TaskError, match=r"leftImg8bit/train' has no CITY/\*_leftImg8bit.png; unpack leftImg8bit_train"):
        Cityscapes().data(tmp_path, CPU)
    (tmp_path / "camvid").mkdir()
    with pytest.raises(TaskError, match=r"cannot read the list '.*train.txt' \(.*No such file"):
        CamVid().data(tmp_path, CPU)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\n\n", "train.txt' is empty; each of its lines is IMAGE LABELS"),
        (b"train/0.png\n", "line 1 of '.*train.txt' is 'train/0.png'; each line is IMAGE LABELS"),
        (b"\xff\xfe\x00", "cannot read the list '.*train.txt'"),
    ],
)
def test_lists_that_are_none(lists, content, says):
    (lists / "camvid" / "train.txt").write_bytes(content)
    with pytest.raises(TaskError, match=says):
        CamVid().data(lists, CPU)


def test_labels_of_other_classes_end_training_and_the_test(lists):
    Image.new("L", (40, 30), 40).save(lists / "camvid" / "valannot" / "2.png")
    Image.new("L", (40, 30), 12).save(lists / "camvid" / "trainannot" / "2.png")
    task = CamVid(batch=3, crop=33)
    data = task.data(lists, CPU)
    with pytest.raises(TaskError, match=r"valannot/2.png' has the label 40; labels are from 0 to 11"):
        task.evaluate(Guess(11), data.validation)
    with pytest.raises(TaskError, match=r"trainannot/2.png' has the label 12; labels are from 0 to 11"):
        list(data.train.epoch(0, 0))


def test_a_truncated_file_is_skipped_and_counted(lists):
    file = lists / "camvid" / "train" / "4.png"
    file.write_bytes(file.read_bytes()[:60])
    data = CamVid(batch=3, crop=33).data(lists, CPU)
    with pytest.warns(BudgetWarning, match=r"skipped '.*train/4.png'"):
        assert len(list(data.train.epoch(0, 0))) == 3
    assert list(data.train.skipped.why) == [4]


def test_validation_images_of_void_alone(lists):
    for k in range(3):
        Image.new("L", (40, 30), 11).save(lists / "camvid" / "valannot" / f"{k}.png")
    task = CamVid(crop=33)
    with pytest.raises(TaskError, match="the validation images of camvid have no pixel with a class, only void"):
        task.evaluate(Guess(11), task.data(lists, CPU).validation)


# Arguments


def test_arguments_scale_the_recipe_and_are_recorded():
    task = registry.load("cityscapes(batch=3, crop=321, backbone=scratch, augment=0, images=50)")
    assert isinstance(task, Cityscapes)
    assert (task.batch_size, task.crop) == (3, 321)
    said = task.settings()
    assert (said["batch_size"], said["crop"], said["images"], said["augment"]) == (3, 321, 50, False)
    assert (said["rate"], said["head_rate"]) == (pytest.approx(0.0025), pytest.approx(0.025))
    assert Cityscapes().settings()["rate"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("crop=160", "crop is one more than a multiple of 8, .* and is 160; 161 and 169 are near"),
        ("crop=9", "crop is a whole number from 17, and is 9"),
        ("batch=1", "batch is a whole number from 2, and is 1"),
        ("images=0", "images is a whole number from 2"),
        ("augment=2", "augment is 0 or 1, and is 2"),
        ("overfit=yes", "overfit is 0 or 1, and is yes"),
        (
            "speed=1",
            "its arguments are batch=..., crop=..., backbone=..., folder=..., images=..., overfit=..., augment=...",
        ),
    ],
)
@pytest.mark.parametrize("name", ["cityscapes", "camvid"])
def test_arguments_that_are_refused(name, arguments, says):
    with pytest.raises(TaskError, match=says):
        registry.load(f"{name}({arguments})")


def test_a_backbone_for_a_network_that_has_none():
    with pytest.raises(TaskError, match=r"camvid has a network of its own, .*: leave backbone=resnet50.pth out"):
        registry.load("camvid(backbone=resnet50.pth)")
    assert registry.load("camvid(backbone=scratch)").settings()["backbone"] == "scratch"


def test_heads_learn_ten_times_as_fast_as_what_was_trained_before():
    task = Cityscapes(backbone="scratch")
    model = pspnet(19, width=8)
    encoder, heads = task.optimizer(model).param_groups
    assert (encoder["lr"], heads["lr"]) == (0.01, 0.1)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.encoder.parameters()}
    assert len(encoder["params"]) + len(heads["params"]) == len(list(model.parameters()))
    assert [group["lr"] for group in task.optimizer(nn.Conv2d(3, 19, 1)).param_groups] == [0.1]


def test_a_backbone_is_found_or_its_absence_said(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.warns(BudgetWarning, match="cityscapes trains from scratch: there is no pretrained backbone at"):
        assert isinstance(Cityscapes().model(), PSPNet)
    with pytest.raises(TaskError, match=r"backbone 'none.pth' cannot be read as weights"):
        Cityscapes(backbone="none.pth").model()


# The metric and the loss


class Guess(nn.Module):
    """Says class 3 everywhere."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, x):
        logits = torch.zeros(len(x), self.classes, *x.shape[2:])
        logits[:, 3] = 1.0
        return logits


def test_the_metric_is_over_all_images_at_once(lists):
    task = CamVid(crop=33)
    data = task.data(lists, CPU).validation
    found = task.evaluate(Guess(11), data)
    targets = torch.cat([b.targets.flatten() for b in data.in_order(1)])
    judged = targets[targets != VOID]
    share = (judged == 3).float().mean().item()
    assert found == {
        "miou": pytest.approx(share / len(judged.unique())),  # the union of class 3 is all there is
        "pixel_accuracy": pytest.approx(share),
    }


def test_the_auxiliary_loss_counts_for_two_fifths():
    task, model = CamVid(), pspnet(11, width=8, dropout=0.0)
    batch = Batch(torch.randn(2, 3, 33, 33), torch.randint(11, (2, 33, 33)))
    main, auxiliary = (nn.functional.cross_entropy(x, batch.targets) for x in model(batch.inputs))
    torch.testing.assert_close(task.loss(model, batch), main + 0.4 * auxiliary)
    torch.testing.assert_close(
        task.loss(model.eval(), batch), nn.functional.cross_entropy(model(batch.inputs), batch.targets)
    )


# Training

SMALL = "pspnet(width=8)"


@pytest.mark.parametrize("precision", ["float32", "bf16-channels-last"])
def test_cityscapes_trains(cities, precision):
    text = "cityscapes(batch=5, crop=33, backbone=scratch)"
    spec = Spec(text, "4ep", "poly", model=SMALL, lr=0.01, precision=precision, evaluations=1)
    folder = RunFolder.create(cities / "runs", spec)
    rows = list(fit(registry.load(text), spec, folder, root=cities))
    assert rows[-1]["steps"] == 8
    assert rows[-1]["loss"] < next(row["loss"] for row in rows if "loss" in row)
    assert 0 < rows[-1]["miou"] <= 1
    assert folder.read("environment")["settings"]["batch_size"] == 5


def test_the_published_network_takes_an_update(cities):
    task = Cityscapes(batch=2, crop=33, backbone="scratch", images=2)
    data, model = task.data(cities, CPU), task.model()  # silent about the backbone: it was asked to be
    assert task.settings()["backbone"] == "scratch"
    optimizer = task.optimizer(model)
    loss = task.loss(model, next(data.train.epoch(0, 0)))
    loss.backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    assert 0 < loss < 20


def test_an_interrupted_run_goes_on_to_the_same_bits(lists, monkeypatch):
    text = "camvid(batch=3, crop=33)"
    spec = Spec(text, "4ep", "linear", model=SMALL, precision="float32", evaluations=4)
    whole, stopped = RunFolder.create(lists / "whole", spec), RunFolder.create(lists / "stopped", spec)
    list(fit(registry.load(text), spec, whole, root=lists))
    update = Session.update

    def update_and_stop(session, *given):
        update(session, *given)
        if session.run.ledger.steps == 7:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "update", update_and_stop)
        with pytest.raises(Interrupted, match="stopped after update 7 and saved"):
            list(fit(registry.load(text), spec, stopped, root=lists))
    list(fit(registry.load(text), spec, stopped, root=lists))
    assert stopped.result["metric"] == whole.result["metric"]
    a, b = (checkpoint.load(folder.path / "last.pt", CPU)["model"] for folder in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_real_scenes_are_learnt(real, tmp_path):
    text = "camvid(images=8, batch=4, crop=97, overfit=1, augment=0)"
    spec = Spec(text, "20ep", "linear", model=SMALL, lr=0.05, precision="float32", evaluations=1)
    rows = list(fit(registry.load(text), spec, RunFolder.create(tmp_path, spec), root=real))
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert rows[-1]["pixel_accuracy"] > 0.4  # the largest class has 0.32
