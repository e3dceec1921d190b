"""Kinetics: its recipe and arguments, its batches from raw files, how it judges, and that it learns movements."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from budgeted import BudgetWarning, TaskError
from budgeted.core.record import RunFolder, Spec
from budgeted.tasks import registry
from budgeted.tasks.clips import join
from budgeted.tasks.i3d import i3d
from budgeted.tasks.kinetics import Kinetics
from budgeted.train.data import Batch
from budgeted.train.loop import fit
from budgeted.train.recipe import varied

av = pytest.importorskip("av", reason='videos are decoded by PyAV: pip install "budgeted[vision]"')
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from videos import MOTIONS, make, moving, write  # noqa: E402 the maker of videos is a script of the benchmarks

CPU = torch.device("cpu")
SMALL = "kinetics(batch=4, crop=32, frames=4, stride=4, clips=2, backbone=scratch)"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with three videos in each of five classes, and one of each to validate, of made-up photographs."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("root")
    torch.manual_seed(0)
    for number in range(4):
        picture = torch.randint(256, (6, 6, 3), dtype=torch.uint8).numpy()
        Image.fromarray(picture).resize((96, 96)).save(folder / f"{number}.jpg")
    make(folder / "kinetics", sorted(folder.glob("*.jpg")), 3, 1, 20, (48, 36))
    return folder


def test_the_recipe():
    task = registry.load("kinetics(backbone=scratch)")
    optimizer = task.optimizer(nn.Linear(2, 2))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.005, 0.9, 1e-4)
    assert (task.batch_size, task.full_budget, task.off_the_shelf) == (32, "300000 steps", "step(1/2, 5/6)")
    assert (task.frames, task.stride, task.crop, task.clips, task.chance) == (8, 8, 224, 10, 1 / 400)


def test_another_batch_scales_rate_and_full_budget():
    task = registry.load("kinetics(batch=8)")
    assert task.optimizer(nn.Linear(2, 2)).param_groups[0]["lr"] == 0.005 / 4
    assert task.full_budget == "1200000 steps"
    assert Kinetics.full_budget == "300000 steps"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("batch=1", "batch is a whole number from 2, and is 1"),
        ("crop=2.5", "crop is a whole number from 32, and is 2.5"),
        ("frames=1", "frames is a whole number from 2, and is 1"),
        ("stride=0", "stride is a whole number from 1, and is 0"),
        ("clips=none", "clips is a whole number from 1, and is none"),
        ("overfit=2", "overfit is 0 or 1, and is 2"),
        ("depth=18", "its arguments are batch=..., crop=..., frames=.*overfit=..."),
    ],
)
def test_arguments_that_are_wrong(arguments, why):
    with pytest.raises(TaskError, match=why):
        registry.load(f"kinetics({arguments})")


def test_without_a_backbone_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    task = registry.load("kinetics")
    with pytest.warns(
        BudgetWarning, match="kinetics trains from scratch: there is no pretrained backbone at '.*resnet18-"
    ):
        varied(task, Spec("kinetics", "1 steps", "const", model="i3d(depth=18)")).model()
    assert task.settings()["backbone"] == "scratch"


# Data


def test_batches_of_clips(root):
    task = registry.load(SMALL)
    data = task.data(root, CPU)
    assert (data.train.samples, len(data.train), data.steps_per_epoch) == (
        12,
        3,
        3,
    )  # 15, the smaller last batch left out
    batches = list(data.train.epoch(0, 0))
    for batch in batches:
        assert batch.inputs.shape == (4, 3, 4, 32, 32)
        assert batch.inputs.is_contiguous(memory_format=torch.channels_last_3d)
        assert batch.targets.dtype == torch.int64
    again = list(data.train.epoch(0, 0, first=1))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches[1:], again, strict=True))
    assert not torch.equal(batches[0].inputs, next(data.train.epoch(0, 1)).inputs)
    judged = list(data.validation)
    assert [batch.inputs.shape for batch in judged] == [(4, 3, 4, 32, 32)] * 2 + [(2, 3, 4, 32, 32)]
    assert torch.cat([batch.targets for batch in judged]).tolist() == [0, 1, 2, 3, 4]
    assert data.validation.samples == 10  # clips


def test_colours_are_normalized_as_the_backbones_were_trained():
    clip = torch.tensor([124, 116, 104], dtype=torch.uint8).expand(1, 2, 4, 4, 3).numpy()
    batch = join([(clip, 3), (clip, 1)], CPU)
    assert batch.inputs.shape == (2, 3, 2, 4, 4)
    assert batch.inputs.abs().max() < 0.02  # the mean of ImageNet
    assert batch.targets.tolist() == [3, 1]


def test_the_number_of_classes_follows_the_data(root):
    task = registry.load(SMALL)
    assert task.models["i3d"](18).fc[1].out_features == 400
    task.data(root, CPU)
    assert task.models["i3d"](18).fc[1].out_features == 5
    assert task.chance == 0.2
    settings = task.settings()
    assert settings["classes"] == 5
    assert settings["videos"] == [15, 5]
    assert settings["backbone"] == "scratch"


def test_the_first_videos_and_a_test_on_them(root):
    task = registry.load(SMALL.replace(")", ", images=7, overfit=1)"))
    data = task.data(root, CPU)
    assert sorted(data.train.source.labels) == [0, 0, 1, 1, 2, 3, 4]
    assert data.validation.stream.source.videos == data.train.source.videos


def test_a_test_on_the_training_videos_needs_no_others(root, tmp_path):
    (tmp_path / "other").symlink_to(root / "kinetics")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train").symlink_to(root / "kinetics" / "train")
    registry.load("kinetics(folder=mine, overfit=1)").data(tmp_path, CPU)
    with pytest.raises(TaskError, match=r"there is neither a list '.*val.csv'"):
        registry.load("kinetics(folder=mine)").data(tmp_path, CPU)
    with pytest.raises(
        TaskError, match=r"there is no folder '.*/yours'; --data or BUDGETED_DATA names the folder that holds"
    ):
        registry.load("kinetics(folder=yours)").data(tmp_path, CPU)


# Judging


class Told(nn.Module):
    """Gives the logits of a list, one row a clip."""

    def __init__(self, logits):
        super().__init__()
        self.logits, self.seen = torch.tensor(logits), 0

    def forward(self, x):
        self.seen += len(x)
        return self.logits[self.seen - len(x) : self.seen]


def test_probabilities_are_averaged_over_clips():
    """Of the first video one clip is sure and right, the other unsure and wrong; the mean of logits would be wrong too."""
    logits = [[4.0, 0.0, 0.0], [0.0, 9.0, 8.9], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]
    batches = [Batch(torch.zeros(4, 3, 2, 8, 8), torch.tensor([0, 1]))]
    found = Kinetics().evaluate(Told(logits), batches)
    chances = torch.tensor(logits).softmax(1).view(2, 2, 3).mean(1)
    assert chances[0].argmax() == 0
    assert torch.tensor(logits[:2]).mean(0).argmax() == 1
    assert (found["accuracy"], found["top5"]) == (0.5, 1.0)
    assert found["validation_loss"] == pytest.approx(-(chances[0, 0].log() + chances[1, 1].log()).item() / 2)


def test_the_best_five():
    logits = [[float(k) for k in range(9)]] * 4
    batches = [Batch(torch.zeros(4, 3, 2, 8, 8), torch.tensor([8, 5, 4, 3]))]
    found = Kinetics().evaluate(Told(logits), batches)
    assert (found["accuracy"], found["top5"]) == (0.25, 0.75)


def test_a_video_that_cannot_be_read_is_left_out_and_told(root, tmp_path):
    photo = moving_photo()
    for part in ("train", "val"):
        for name in ("down", "up"):
            write(tmp_path / "kinetics" / part / name / "a.mp4", moving(photo, MOTIONS[name], 8, (48, 36)))
    damaged = tmp_path / "kinetics" / "val" / "up" / "a.mp4"
    damaged.write_bytes(damaged.read_bytes()[:500])
    task = registry.load(SMALL)
    data = task.data(tmp_path, CPU)
    with pytest.warns(BudgetWarning, match=r"skipped '.*up/a.mp4': Invalid data"):
        batches = list(data.validation)
    assert [batch.targets.tolist() for batch in batches] == [[0]]
    with pytest.raises(TaskError, match="no validation video can be read"):
        task.evaluate(Told([[0.0]]), [])


def moving_photo():
    from PIL import Image

    return Image.effect_noise((96, 96), 80).convert("RGB")


# Training


def run(root, runs, budget, **changed):
    spec = Spec(SMALL, budget, "linear", model="i3d(depth=18, dropout=0)", lr=0.01, precision="float32", **changed)
    folder = RunFolder.create(runs, spec)
    return list(fit(registry.load(SMALL), spec, folder, root=root)), folder


def test_it_trains_from_files_and_the_record_says_how(root, tmp_path):
    rows, folder = run(root, tmp_path, "7 steps", evaluations=2)
    assert rows[-1]["steps"] == 7
    assert {"accuracy", "top5", "validation_loss", "accuracy_raw"} <= rows[-1].keys()
    assert folder.read("environment")["settings"]["crop"] == 32


def test_the_loss_of_a_batch_falls(root):
    torch.manual_seed(0)
    task = registry.load(SMALL)
    batch = next(task.data(root, CPU).train.epoch(0, 0))
    model = i3d(5, 18, dropout=0.0).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    losses = []
    for _ in range(8):
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
