"""Our tasks' data, against torchvision's reading where there is real data; and tasks of a user's own."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from budgeted import BudgetedError, TaskError
from budgeted.core.budget import Budget
from budgeted.core.spec import schedule
from budgeted.tasks import cifar10, fashion_mnist, registry
from budgeted.tasks.classification import hold_out
from budgeted.tasks.models import resnet18

CPU = torch.device("cpu")
TINY = Path(__file__).parents[1] / "tiny_task.py"


@pytest.fixture
def real() -> Path:
    if "BUDGETED_DATA" not in os.environ:
        pytest.skip("needs real data: set BUDGETED_DATA to the folder that holds FashionMNIST and cifar-10-batches-py")
    return Path(os.environ["BUDGETED_DATA"])


@pytest.fixture
def offline(monkeypatch):
    """Downloads fail as they do without a network, and are counted."""
    import torchvision

    tried = []

    def fail(root, download=False):
        tried.append((root, download))
        raise RuntimeError("<urlopen error [Errno -3] Temporary failure in name resolution>\nmore of it")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    return tried


# Ours


@pytest.mark.filterwarnings("ignore:.* trains from scratch")  # backbones are not on every machine
@pytest.mark.parametrize("name", registry.OURS)
def test_every_task_of_ours_is_complete(name):
    task = registry.load(name)
    assert task.name == name
    assert task.summary
    assert Budget.parse(task.full_budget)
    assert schedule(task.off_the_shelf)
    model = task.model()
    optimizer = task.optimizer(model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_the_networks_have_the_size_of_the_published_ones():
    assert sum(p.numel() for p in resnet18(10).parameters()) == 11_173_962  # of many CIFAR-10 repositories
    assert registry.load("cifar10").model()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert registry.load("fashion-mnist").model()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_digits():
    from sklearn.datasets import load_digits

    task = registry.load("digits")
    data = task.data(None, CPU)
    assert (data.train.samples, data.validation.samples, len(data.train)) == (1437, 360, 23)
    batch = next(data.train.epoch(0, 0))
    assert batch.inputs.shape == (64, 1, 8, 8)
    assert batch.targets.dtype == torch.int64
    together = torch.cat([data.train.images, data.validation.images]).squeeze(3).reshape(1797, 64)
    original = torch.from_numpy(load_digits().images / 16 * 255).round().to(torch.uint8).reshape(1797, 64)
    assert Counter(map(tuple, together.tolist())) == Counter(map(tuple, original.tolist()))
    inputs = torch.cat([b.inputs for b in data.train.in_order(500)])
    assert abs(inputs.mean()) < 0.02
    assert abs(inputs.std() - 1) < 0.02
    assert task.model()(batch.inputs).shape == (64, 10)
    labels = iter(data.validation.labels.tolist())
    assert task.evaluate(lambda x: torch.eye(10)[[next(labels) for _ in x]], data.validation)["accuracy"] == 1.0


def test_the_split_is_a_partition_and_always_the_same():
    images, labels = torch.arange(100), torch.arange(100)
    (kept, _), (held, held_labels) = hold_out(images, labels, 20)
    assert sorted(kept.tolist() + held.tolist()) == list(range(100))
    assert torch.equal(held, held_labels)
    torch.rand(3)
    assert torch.equal(hold_out(images, labels, 20)[1][0], held)


@pytest.mark.parametrize(("name", "shape"), [("fashion-mnist", (28, 28, 1)), ("cifar10-narrow", (32, 32, 3))])
def test_images_are_trained_on_as_they_are_where_that_is_asked_for(name, shape, monkeypatch):
    pictures = torch.randint(0, 256, (5064, *shape), dtype=torch.uint8), torch.arange(5064)
    monkeypatch.setattr({"fashion-mnist": fashion_mnist, "cifar10-narrow": cifar10}[name], "read", lambda _: pictures)
    plain, usual = registry.load(f"{name}(augment=0)"), registry.load(name)
    assert (plain.settings(), usual.settings()) == ({"augment": False}, {"augment": True})
    train = plain.data(None, CPU).train
    batch = next(train.epoch(0, 0))
    as_they_are = dict(zip(train.labels.tolist(), next(train.in_order(64)).inputs, strict=True))
    drawn = zip(batch.inputs, batch.targets.tolist(), strict=True)
    assert all(torch.equal(image, as_they_are[label]) for image, label in drawn)
    shifted = next(usual.data(None, CPU).train.epoch(0, 0))
    assert torch.equal(shifted.targets, batch.targets)
    assert not torch.equal(shifted.inputs, batch.inputs)
    with pytest.raises(TaskError, match="augment is 0 or 1, and is 2"):
        registry.load(f"{name}(augment=2)")


def balance(labels: torch.Tensor) -> list[int]:
    return torch.bincount(labels).tolist()


def test_fashion_mnist_is_what_torchvision_reads(real):
    import torchvision

    images, labels = fashion_mnist.read(real)
    theirs = torchvision.datasets.FashionMNIST(real, train=True)
    assert images.shape == (60000, 28, 28, 1)
    assert torch.equal(images.squeeze(3), theirs.data)
    assert torch.equal(labels, theirs.targets)
    assert balance(labels) == [6000] * 10
    data = registry.load("fashion-mnist").data(real, CPU)
    assert (data.train.samples, data.validation.samples, len(data.train)) == (55000, 5000, 430)
    assert max(abs(n - 500) for n in balance(data.validation.labels)) < 100
    assert next(data.train.epoch(0, 0)).inputs.shape == (128, 1, 28, 28)
    held = next(data.validation.in_order(5000)).inputs
    assert abs(held.mean()) < 0.02
    assert abs(held.std() - 1) < 0.02


def test_cifar10_is_what_torchvision_reads(real):
    import torchvision

    images, labels = cifar10.read(real)
    theirs = torchvision.datasets.CIFAR10(real, train=True)
    assert images.shape == (50000, 32, 32, 3)
    for index in (0, 1, 9999, 10000, 31415, 49999):
        picture, label = theirs[index]
        assert images[index].flatten().tolist() == list(picture.tobytes())
        assert labels[index] == label
    assert balance(labels) == [5000] * 10
    data = registry.load("cifar10-narrow").data(real, CPU)
    assert (data.train.samples, data.validation.samples, len(data.train)) == (45000, 5000, 352)
    assert max(abs(n - 500) for n in balance(data.validation.labels)) < 100
    assert next(data.train.epoch(0, 0)).inputs.shape == (128, 3, 32, 32)
    held = next(data.validation.in_order(5000)).inputs
    assert held.mean((0, 2, 3)).abs().max() < 0.02
    assert (held.std((0, 2, 3)) - 1).abs().max() < 0.02


# Data that is missing or damaged


def test_damaged_files_are_named(real, tmp_path, offline):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        shutil.copy(real / "FashionMNIST" / "raw" / name, folder)
    content = (folder / "train-labels-idx1-ubyte").read_bytes()
    for broken in (content[:-1], content + b"0", b"\1" + content[1:], b""):
        (folder / "train-labels-idx1-ubyte").write_bytes(broken)
        with pytest.raises(TaskError, match=r"train-labels-idx1-ubyte' is damaged: it has \d+ bytes, and the original"):
            fashion_mnist.read(tmp_path)
    assert offline == []

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in cifar10._FILES:
        (folder / name).symlink_to(real / "cifar-10-batches-py" / name)
    content = bytearray((folder / "data_batch_3").read_bytes())
    (folder / "data_batch_3").unlink()
    for broken in (content[:-1], bytes([*content[:1000], content[1000] ^ 1, *content[1001:]]), b""):
        (folder / "data_batch_3").write_bytes(broken)
        with pytest.raises(
            TaskError, match=r"data_batch_3' is damaged: its MD5 is not the original's; remove it and get"
        ):
            cifar10.read(tmp_path)


def test_a_pickle_that_is_not_the_original_is_not_opened(tmp_path, offline):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in cifar10._FILES:
        (folder / name).write_bytes(b"cos\nmkdir\n(S'" + str(tmp_path / "marker").encode() + b"'\ntR.")
    with pytest.raises(TaskError, match="is damaged"):
        cifar10.read(tmp_path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(("name", "what"), [("cifar10", "CIFAR-10"), ("fashion-mnist", "Fashion-MNIST")])
def test_without_data_and_network_one_sentence_says_what_to_do(tmp_path, offline, name, what):
    home = tmp_path / "data"
    with pytest.raises(TaskError, match=rf"^{what} is not in '.*' and could not be downloaded \(<urlopen") as caught:
        registry.load(name).data(home, CPU)
    assert "\n" not in str(caught.value)
    assert "--data or BUDGETED_DATA" in str(caught.value)
    assert offline == [(str(home), True)]
    assert not home.exists()  # nothing empty is left behind


def test_an_empty_folder_of_the_users_stays(tmp_path, offline):
    with pytest.raises(TaskError, match="could not be downloaded"):
        cifar10.read(tmp_path)
    assert tmp_path.is_dir()


def test_without_a_folder_the_cache_is_used(tmp_path, offline, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TaskError, match=r"\.cache/budgeted/cifar-10-batches-py'"):
        cifar10.read(None)
    assert os.listdir(tmp_path / ".cache") == []


def test_what_the_download_brought_is_read(tmp_path, monkeypatch):
    import torchvision

    def download(root, download):
        folder = Path(root) / "FashionMNIST" / "raw"
        folder.mkdir(parents=True)
        (folder / "train-images-idx3-ubyte").write_bytes(
            bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (60000, 28, 28)) + bytes(60000 * 784)
        )
        (folder / "train-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + (60000).to_bytes(4, "big") + bytes([3]) * 60000
        )

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", download)
    images, labels = fashion_mnist.read(tmp_path / "new")
    assert images.shape == (60000, 28, 28, 1)
    assert labels.unique().tolist() == [3]


def test_a_download_that_brings_only_part_says_what_is_missing(tmp_path, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", lambda *_, **__: None)
    with pytest.raises(TaskError, match=r"could not be downloaded \(data_batch_1 is missing\)"):
        cifar10.read(tmp_path)


# A user's own


def test_a_task_in_a_file_needs_neither_base_class_nor_name():
    task = registry.load(f"{TINY}:Tiny")
    assert task.name == f"{TINY}:Tiny"
    assert task.warmup is None
    assert registry.load(f"{TINY}:READY").metric == "accuracy"  # an object is as good as a class


def test_a_task_in_a_module(monkeypatch):
    monkeypatch.syspath_prepend(str(TINY.parent))
    assert registry.load("tiny_task:Tiny").full_budget == "20ep"


def test_tasks_that_cannot_be_had(tmp_path, monkeypatch):
    with pytest.raises(TaskError, match=r"task 'didgits' is unknown; the tasks are digits, .*did you mean 'digits'\?$"):
        registry.load("didgits")
    with pytest.raises(TaskError, match=r"lacks data, model, optimizer, loss, evaluate; see budgeted\.Task"):
        registry.load(f"{TINY}:Incomplete")
    with pytest.raises(TaskError, match="cannot be made without arguments"):
        registry.load(f"{TINY}:Demanding")
    with pytest.raises(BudgetedError, match="has no 'Missing'"):
        registry.load(f"{TINY}:Missing")
    broken = tmp_path / "broken_task.py"
    broken.write_text("import torch.no_such_part\n")
    with pytest.raises(
        BudgetedError, match=r"importing '.*' failed with ModuleNotFoundError: No module named 'torch\.no"
    ):
        registry.load(f"{broken}:Task")
    monkeypatch.delitem(sys.modules, "broken_task", raising=False)


def test_a_base_class_with_a_part_missing_is_named(tmp_path):
    path = tmp_path / "half_a_task.py"
    path.write_text("from budgeted import Task\nclass Half(Task):\n    def data(self, root, device): ...\n")
    with pytest.raises(TaskError, match=r"cannot be made without arguments \(Can't instantiate abstract class Half"):
        registry.load(f"{path}:Half")
