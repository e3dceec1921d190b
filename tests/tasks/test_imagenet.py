"""Photographs from folders and from ImageNet's tar files: which are read, what a crop is, and what is refused."""

from __future__ import annotations

import io
import math
import os
import tarfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from budgeted import BudgetWarning, TaskError
from budgeted.core.record import RunFolder, Spec
from budgeted.tasks import registry
from budgeted.tasks.imagenet import ImageNet, Imagenette64
from budgeted.tasks.images import Labelled, Stored, class_folders
from budgeted.tasks.photographs import MEAN, STD, Photographs, collate, middle, random_box
from budgeted.train.loop import fit

CPU = torch.device("cpu")


class Small(Imagenette64):
    """Two classes, and a network that is quick."""

    classes = 2

    def __init__(self, batch=8, crop=32, folder="small", **others):
        super().__init__(batch, crop, folder=folder, **others)


def photograph(seed: int, size=(60, 48)) -> Image.Image:
    """Smooth colours, so that a JPEG is close to what it was made from."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(seed: int, size=(60, 48)) -> bytes:
    out = io.BytesIO()
    photograph(seed, size).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture
def small(tmp_path) -> Path:
    """A data root with two classes of ten images to train on and four to validate."""
    for part, count in (("train", 10), ("val", 4)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / "small" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                (folder / f"{k}.JPEG").write_bytes(jpeg(100 * label + k))
    return tmp_path


# Where images are


def test_class_folders_are_read_as_torchvision_reads_them(small):
    from torchvision.datasets import ImageFolder

    found, theirs = class_folders(small / "small" / "train"), ImageFolder(str(small / "small" / "train"))
    assert list(found.classes) == theirs.classes
    assert [(image.path, label) for image, label in zip(found.images, found.labels, strict=True)] == theirs.samples


def test_missing_data_says_what_to_hold_where(tmp_path):
    with pytest.raises(
        TaskError, match=r"imagenette64 is not in '.*imagenette64'.*train/CLASS.*--data or BUDGETED_DATA"
    ):
        Imagenette64().data(tmp_path, CPU)
    (tmp_path / "imagenette64" / "train").mkdir(parents=True)
    with pytest.raises(TaskError, match="has no folders; it is to hold one for each class"):
        Imagenette64().data(tmp_path, CPU)


def test_a_class_folder_without_images_is_refused(small):
    (small / "small" / "train" / "emu").mkdir()
    (small / "small" / "train" / "emu" / "notes.txt").write_text("none yet")
    with pytest.raises(TaskError, match=r"class folder '.*emu' has no images"):
        Small().data(small, CPU)


def test_classes_are_the_same_in_both_parts_and_as_many_as_the_network_has(small):
    with pytest.raises(TaskError, match="'small' has 2 classes, and imagenet has 1000"):
        ImageNet(folder="small").data(small, CPU)
    (small / "small" / "val" / "cat").rename(small / "small" / "val" / "cow")
    with pytest.raises(TaskError, match=r"class 'cat' is in train alone \(2 differ\)"):
        Small().data(small, CPU)


def test_arguments_are_checked():
    with pytest.raises(TaskError, match="batch is a whole number from 2, and is 0"):
        registry.load("imagenet(batch=0)")
    with pytest.raises(TaskError, match="decode is full or scaled, and is 'fast'"):
        registry.load("imagenet(decode=fast)")
    with pytest.raises(TaskError, match=r"its arguments are batch=\.\.\., crop=\.\.\."):
        registry.load("imagenet(bach=4)")
    with pytest.raises(TaskError, match="it has no arguments"):
        registry.load("digits(batch=4)")
    with pytest.raises(TaskError, match="is not understood; write a name such as imagenet"):
        registry.load("imagenet(batch=4")


def test_the_base_rate_goes_with_the_batch_and_both_are_recorded():
    task = registry.load("imagenet(batch=32, crop=64)")
    assert task.optimizer(task.model()).param_groups[0]["lr"] == 0.1 * 32 / 128
    assert task.settings() == {"batch_size": 32, "base_rate": 0.025, "crop": 64, "decode": "full", "folder": "imagenet"}


# The official files


def tar_of(files: dict[str, bytes], mode="w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def official(tmp_path) -> Path:
    """ImageNet's three files, of two classes whose official numbers are not in the order of their names."""
    from scipy.io import savemat

    root = tmp_path / "imagenet"
    root.mkdir()
    inner = {
        n: tar_of({f"{n}_{k}.JPEG": jpeg(1000 * place + k) for k in range(3)}) for place, n in enumerate(("n01", "n02"))
    }
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of({f"{name}.tar": content for name, content in inner.items()}))
    held = {f"ILSVRC2012_val_{k:08}.JPEG": jpeg(50 + k) for k in (2, 1, 3)}
    (root / "ILSVRC2012_img_val.tar").write_bytes(tar_of(held))
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.array([(1, "n02", "dog", "", 0), (2, "n01", "cat", "", 0), (3, "n00", "animal", "", 2)], dtype=kind)
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets.reshape(-1, 1)})
    kit = {"meta.mat": meta.getvalue(), "ILSVRC2012_validation_ground_truth.txt": b"1\n2\n1\n"}
    files = {f"ILSVRC2012_devkit_t12/data/{name}": content for name, content in kit.items()}
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(tar_of(files, "w:gz"))
    return tmp_path


class Two(ImageNet):
    classes = 2


def test_official_files_are_read_in_place(official):
    data = Two(batch=2, crop=32).data(official, CPU)
    train, held = data.train.source.data, data.validation.source.data
    assert train.classes == held.classes == ("n01", "n02")
    assert train.labels == (0, 0, 0, 1, 1, 1)
    assert held.labels == (1, 0, 1)  # by the official numbers, in the order of the images' names
    assert [stored.bytes() for stored in train.images] == [jpeg(n) for n in (0, 1, 2, 1000, 1001, 1002)]
    assert [stored.bytes() for stored in held.images] == [jpeg(n) for n in (51, 52, 53)]
    assert sorted(path.name for path in (official / "imagenet").iterdir()) == [
        "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar",
    ]  # fmt: skip
    assert len(list(data.train.epoch(0, 0))) == 3


def test_an_official_file_that_is_missing_or_cut_short_is_a_sentence(official):
    train = official / "imagenet" / "ILSVRC2012_img_train.tar"
    train.write_bytes(train.read_bytes()[:3000])
    with pytest.raises(TaskError, match="damaged"):
        Two().data(official, CPU)
    train.unlink()
    with pytest.raises(TaskError, match=r"ILSVRC2012_img_train.tar' is missing; ImageNet's official files are"):
        Two().data(official, CPU)


def test_a_kit_that_is_not_of_these_images_is_refused(official):
    (official / "imagenet" / "ILSVRC2012_img_val.tar").write_bytes(tar_of({"ILSVRC2012_val_1.JPEG": jpeg(1)}))
    with pytest.raises(TaskError, match=r"has 1 images, and .* says the classes of 3; get them again"):
        Two().data(official, CPU)


# Crops


@given(st.integers(1, 900), st.integers(1, 900), st.integers(0, 10**6))
def test_a_random_box_is_in_the_image_and_nearly_square(width, height, seed):
    left, upper, right, lower = random_box((width, height), 0.08, Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    if min(width, height) > 60:
        assert 0.7 < (right - left) / (lower - upper) < 1.42


def test_areas_and_ratios_are_drawn_as_torchvision_draws_them():
    from scipy.stats import ks_2samp
    from torchvision.transforms import RandomResizedCrop

    image = torch.zeros(3, 300, 400)
    torch.manual_seed(0)
    theirs = [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(2000)]
    boxes = [random_box((400, 300), 0.08, Random(k)) for k in range(2000)]
    for ours, their in (
        ([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes], [h * w for _, _, h, w in theirs]),
        ([math.log((x1 - x0) / (y1 - y0)) for x0, y0, x1, y1 in boxes], [math.log(w / h) for _, _, h, w in theirs]),
        ([x0 for x0, *_ in boxes], [left for _, left, _, _ in theirs]),
    ):
        assert ks_2samp(ours, their).pvalue > 1e-3


def source(path: Path, **options) -> Photographs:
    given = {"crop": 32, "least_area": 0.25, "centre": 1.0, "scaled": False} | options
    return Photographs(Labelled((Stored(str(path)),), (1,), ("a", "b")), **given)


def test_the_middle_is_what_torchvision_resizes_and_crops(tmp_path):
    from torchvision.transforms import v2

    photograph(3, (400, 300)).save(tmp_path / "a.png")
    ours = source(tmp_path / "a.png", crop=224, centre=224 / 256).read(0, None).pixels
    theirs = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])(photograph(3, (400, 300)))
    # Resizing and cropping in one step starts between pixels where two steps do not.
    assert (ours.int() - torch.from_numpy(np.array(theirs)).int()).abs().float().mean() < 1


@given(st.integers(0, 200))
def test_a_jpeg_decoded_at_part_of_its_size_gives_nearly_the_same_crop(seed):
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"budgeted-scaled-{os.getpid()}.jpg"
    try:
        photograph(seed, (800, 600)).save(path, quality=95)
        full, scaled = (source(path, scaled=s).read(0, Random(seed)) for s in (False, True))
    finally:
        path.unlink(missing_ok=True)
    assert full.mirrored == scaled.mirrored
    assert (full.pixels.int() - scaled.pixels.int()).abs().float().mean() < 3


def test_grey_and_transparent_images_become_colours(tmp_path):
    for mode in ("L", "RGBA", "CMYK", "P"):
        photograph(1).convert(mode).save(tmp_path / f"{mode}.tif")
        assert source(tmp_path / f"{mode}.tif").read(0, None).pixels.shape == (32, 32, 3)


def test_batches_are_mirrored_and_normalised_on_the_device(tmp_path):
    photograph(2).save(tmp_path / "a.png")
    sample = source(tmp_path / "a.png").read(0, None)
    batch = collate([sample, sample._replace(mirrored=True)], CPU)
    assert batch.inputs.shape == (2, 3, 32, 32)
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.inputs[1], batch.inputs[0].flip(2))
    expected = (sample.pixels / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(batch.inputs[0].permute(1, 2, 0), expected)
    assert batch.targets.tolist() == [1, 1]


@given(st.integers(1, 500), st.integers(1, 500), st.floats(0.1, 1.0))
def test_the_middle_is_in_the_middle(width, height, share):
    left, upper, right, lower = middle((width, height), share)
    assert left + right == pytest.approx(width)
    assert upper + lower == pytest.approx(height)
    assert right - left == pytest.approx(share * min(width, height))


# Training


def run(task, folder, root, budget, **options):
    spec = Spec(task.name, budget, "linear", 0, True, "float32", False, **options)
    rows = fit(task, spec, RunFolder.create(folder, spec), root=root)
    while True:
        try:
            next(rows)
        except StopIteration as end:
            return end.value


def test_it_trains_from_files_and_fits_what_it_sees(small, tmp_path):
    result = run(Small(overfit=1), tmp_path / "runs", small, "25ep")
    assert result["metric"]["final"] == 1.0
    assert result["skipped_samples"] == 0


def test_a_truncated_photograph_is_skipped_told_and_counted(small, tmp_path):
    path = small / "small" / "train" / "cat" / "3.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.warns(BudgetWarning, match=r"skipped '.*cat/3.JPEG'"):
        result = run(Small(), tmp_path / "runs", small, "2ep")
    assert result["skipped_samples"] == 1


def test_real_photographs():
    if "BUDGETED_DATA" not in os.environ:
        pytest.skip("needs real data: set BUDGETED_DATA to the folder that holds imagenette64")
    task = Imagenette64()
    data = task.data(Path(os.environ["BUDGETED_DATA"]), CPU)
    assert (data.train.samples, data.validation.samples, len(data.train)) == (9469, 3925, 148)
    batch = next(data.train.epoch(0, 0))
    assert batch.inputs.shape == (64, 3, 48, 48)
    assert abs(float(batch.inputs.mean())) < 0.3  # mean and deviation are ImageNet's
    assert 0.7 < float(batch.inputs.std()) < 1.4
    assert len(batch.targets.unique()) == 10
    some = Imagenette64(images=32, overfit=1).data(Path(os.environ["BUDGETED_DATA"]), CPU)
    assert some.train.samples == some.validation.samples == 32
    assert len(set(some.train.source.data.labels)) == 10  # at even distances: all classes
