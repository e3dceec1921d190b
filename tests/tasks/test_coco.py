"""COCO: its files are checked, its samples are what pycocotools reads, its metric is that of COCO's evaluator; and it learns."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as official
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.ops import FrozenBatchNorm2d

from budgeted import BudgetWarning, TaskError
from budgeted.core.record import RunFolder, Spec
from budgeted.tasks import registry
from budgeted.tasks.coco import Coco
from budgeted.tasks.detection import Detections, Truth
from budgeted.tasks.mask_rcnn import resnet18_fpn
from budgeted.tasks.masks import rle_of
from budgeted.train.evaluation import with_fresh_statistics
from budgeted.train.loop import fit
from budgeted.train.precision import fastest, named
from budgeted.train.stream import Unreadable

# pycocotools 2.0.11 with numpy 2, inside its compiled code
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
CPU = torch.device("cpu")
SUBSET = "coco(folder=coco_subset, batch=2, size=96, backbone=scratch, warmup=2)"


@pytest.fixture
def real() -> Path:
    if "BUDGETED_DATA" not in os.environ:
        pytest.skip("needs real data: set BUDGETED_DATA to the folder that holds coco_subset")
    return Path(os.environ["BUDGETED_DATA"])


# A small data set: bright rectangles on noise


def runs(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask, by columns and beginning with zeros, counted one by one."""
    found, current = [0], 0
    for value in mask.T.flatten().tolist():
        if value != current:
            found.append(0)
            current = value
        found[-1] += 1
    return found


def rectangle(number: int, image: int, box, size, kind="polygon", **more) -> dict:
    x, y, w, h = box
    mask = np.zeros(size, np.uint8)
    mask[y : y + h, x : x + w] = 1
    masks = {
        "polygon": [[x, y, x, y + h, x + w, y + h, x + w, y]],
        "uncompressed": {"size": list(size), "counts": runs(mask)},
        "compressed": {"size": list(size), "counts": official.encode(np.asfortranarray(mask))["counts"].decode()},
    }
    one = {"id": number, "image_id": image, "category_id": 1 + number % 2, "bbox": list(box), "area": w * h}
    return {**one, "iscrowd": 0, "segmentation": masks[kind], **more}


def scenes() -> dict:
    """Four images: of two objects, of one and a crowd, of a crowd alone, and of nothing."""
    sizes = {1: (48, 64), 2: (64, 48), 3: (48, 64), 7: (48, 64)}
    return {
        "images": [{"id": n, "file_name": f"{n}.png", "height": h, "width": w} for n, (h, w) in sizes.items()],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [
            rectangle(10, 1, (4, 6, 20, 16), sizes[1]),
            rectangle(11, 1, (30, 10, 24, 30), sizes[1], "uncompressed"),
            rectangle(12, 2, (10, 20, 30, 30), sizes[2], "compressed"),
            rectangle(13, 2, (0, 0, 40, 10), sizes[2], "uncompressed", iscrowd=1),
            rectangle(14, 3, (5, 5, 40, 30), sizes[3], "uncompressed", iscrowd=1),
        ],
    }


def write(root: Path, content: dict, parts=("train2017", "val2017")) -> Path:
    folder = root / "coco"
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for part in parts:
        (folder / part).mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        for image in content["images"]:
            pixels = np.random.default_rng(image["id"]).integers(0, 60, (image["height"], image["width"], 3), np.uint8)
            for entry in content["annotations"]:
                if entry["image_id"] == image["id"] and entry["category_id"] in (1, 2):
                    x, y, w, h = (max(0, int(v)) for v in entry["bbox"])
                    pixels[y : y + h, x : x + w, entry["category_id"]] = 250
            Image.fromarray(pixels).save(folder / part / image["file_name"])
    return root


def small(**arguments) -> Coco:
    return Coco(**{"batch": 2, "size": 64, "backbone": "scratch", "warmup": 1, **arguments})


# What is trained on


def test_images_without_an_object_are_judged_on_but_not_trained_on(tmp_path):
    task = small()
    data = task.data(write(tmp_path, scenes()), CPU)
    assert [one.number for one in data.train.source.photographs] == [1, 2]
    assert [batch.targets[0]["image_id"] for batch in data.validation.in_order()] == [1, 2, 3, 7]
    settings = task.settings()
    assert settings["training_images_without_objects"] == 2
    assert settings["training_crowds_left_out"] == 2


def test_a_sample_has_boxes_labels_and_masks_of_single_objects(tmp_path):
    source = small().data(write(tmp_path, scenes()), CPU).train.source
    plain = next(Random(n) for n in range(99) if Random(n).random() >= 0.5)
    for index, (boxes, labels) in enumerate([([[4, 6, 24, 22], [30, 10, 54, 40]], [1, 2]), ([[10, 20, 40, 50]], [1])]):
        pixels, target = source.read(index, copy.copy(plain))
        assert target["boxes"].tolist() == boxes
        assert target["labels"].tolist() == labels
        for mask, (left, top, right, bottom), label in zip(target["masks"], boxes, labels, strict=True):
            wanted = torch.zeros(pixels.shape[1:], dtype=torch.uint8)
            wanted[top:bottom, left:right] = 1
            assert torch.equal(mask, wanted)
            assert (pixels[label][mask.bool()] == 250).all()


def test_mirroring_moves_pixels_boxes_and_masks_alike(tmp_path):
    source = small().data(write(tmp_path, scenes()), CPU).train.source
    seen = {False: 0, True: 0}
    original = np.array(Image.open(source.photographs[0].path))
    for draw in range(20):
        pixels, target = source.read(0, Random(draw))
        mirrored = not np.array_equal(pixels.permute(1, 2, 0).numpy(), original)
        seen[mirrored] += 1
        assert np.array_equal(pixels.permute(1, 2, 0).numpy(), original[:, ::-1] if mirrored else original)
        for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert min(seen.values()) > 3


def test_batches_are_of_one_aspect_ratio(real):
    data = registry.load(SUBSET).data(real, CPU)
    wide = [{image.shape[2] > image.shape[1] for image in batch.inputs} for batch in data.train.epoch(0, 0)]
    assert all(len(kinds) == 1 for kinds in wide)
    assert {True} in wide
    assert {False} in wide


def test_masks_and_boxes_of_real_images_are_pycocotools_own(real):
    source = registry.load(SUBSET).data(real, CPU).train.source
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(real / "coco_subset" / "annotations" / "instances_train2017.json"))
    plain = next(Random(n) for n in range(99) if Random(n).random() >= 0.5)
    for index in range(0, len(source), 9):
        photograph = source.photographs[index]
        pixels, target = source.read(index, copy.copy(plain))
        theirs = coco.loadAnns(coco.getAnnIds(photograph.number, iscrowd=False))
        assert np.array_equal(target["masks"].numpy(), np.stack([coco.annToMask(a) for a in theirs]))
        assert target["labels"].tolist() == [a["category_id"] for a in theirs]
        widths = (target["boxes"][:, 2:] - target["boxes"][:, :2]).tolist()
        assert widths == [[float(v) for v in a["bbox"][2:]] for a in theirs]
        assert pixels.shape[1:] == target["masks"].shape[1:]


# Files that do not go together


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(image_id=99), "1 of its annotations are of an image that the file does"),
        (lambda c: c["annotations"][1].update(category_id=5), "1 of its annotations are of a category that the file"),
        (lambda c: c["categories"][1].update(id=91), "1 of its categories have an id that is not from 1 to 90"),
        (lambda c: c["annotations"][1].update(id=10), "2 of its annotations share their id with another"),
        (lambda c: c["images"][1].update(id=1), "2 of its images share their id with another"),
        (lambda c: c["annotations"][0].pop("bbox"), "1 of its annotations lack what one has"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "1 of its annotations lack what one has"),
        (lambda c: c["annotations"][0].update(segmentation=None), "1 of its annotations lack what one has"),
        (lambda c: c["images"][0].update(height=0), "1 of its images lack what one has"),
        (
            lambda c: c.pop("categories"),
            "is no COCO annotation file: that has lists of images, categories, annotations",
        ),
    ],
)
def test_annotations_that_cannot_be_meant_are_refused(tmp_path, change, message):
    write(tmp_path, scenes())
    content = scenes()
    change(content)
    (tmp_path / "coco" / "annotations" / "instances_train2017.json").write_text(json.dumps(content))
    with pytest.raises(TaskError, match=message):
        small().data(tmp_path, CPU)


def test_an_image_that_is_missing_is_named(tmp_path):
    write(tmp_path, scenes())
    (tmp_path / "coco" / "train2017" / "7.png").unlink()
    with pytest.raises(TaskError, match=r"1 of its images have no file in '.*train2017'; the first is .*'7\.png'"):
        small().data(tmp_path, CPU)


def test_a_file_cut_short_is_named(tmp_path):
    file = write(tmp_path, scenes()) / "coco" / "annotations" / "instances_val2017.json"
    file.write_text(file.read_text()[:-50])
    with pytest.raises(TaskError, match=r"instances_val2017\.json' is damaged: it is no JSON"):
        small().data(tmp_path, CPU)


def test_an_image_of_another_size_is_unreadable(tmp_path):
    source = small().data(write(tmp_path, scenes()), CPU).train.source
    Image.new("RGB", (32, 48)).save(source.photographs[0].path)
    with pytest.raises(Unreadable, match=r"1\.png': it has 32 x 48 pixels, and its annotations are for 64 x 48"):
        source.read(0, Random(0))


def test_a_box_without_area_is_left_out_and_counted(tmp_path):
    content = scenes()
    content["annotations"][0]["bbox"][2] = 0
    content["annotations"][1]["bbox"][0] = 64  # beyond the right border
    task = small()
    write(tmp_path, scenes(), ["val2017"])
    with pytest.warns(BudgetWarning, match="2 of 5 annotations to train on have a box without area in its image"):
        data = task.data(write(tmp_path, content, ["train2017"]), CPU)
    assert [one.number for one in data.train.source.photographs] == [2]
    assert task.settings()["training_boxes_without_area"] == 2


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "no list of polygons"),
        ([[1, 2, 3]], "no list of polygons"),
        ([[1, 2, 3, 4, 5, float("inf")]], "no list of polygons"),
        ({"size": [4, 5], "counts": [20]}, r"its size is \[4, 5\], and the image's \[6, 5\]"),
        ({"size": [6, 5], "counts": [20]}, "do not add up to the image's 30 pixels"),
        ({"size": [6, 5], "counts": [40, -10]}, "do not add up to the image's 30 pixels"),
        ({"size": [6, 5], "counts": ""}, "compressed run lengths are not those of the image's 30 pixels"),
        ({"size": [6, 5], "counts": "5"}, "compressed run lengths are not those"),
        ({"size": [6, 5], "counts": "~~~"}, "compressed run lengths are not those"),
        ({"size": [6, 5], "counts": None}, "compressed run lengths are not those"),
    ],
)
def test_masks_that_pycocotools_would_misread_are_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        rle_of(segmentation, 6, 5)


def test_run_lengths_of_any_mask_are_read_compressed_or_not():
    draw = np.random.default_rng(0)
    for _ in range(50):
        size = draw.integers(1, 40, 2)
        mask = (draw.random(size) < draw.random()).astype(np.uint8)
        height, width = map(int, size)
        counts = official.encode(np.asfortranarray(mask))["counts"].decode()
        for stored in (counts, runs(mask)):
            coded = rle_of({"size": [height, width], "counts": stored}, height, width)
            assert np.array_equal(official.decode(coded), mask)


def test_truth_that_cannot_be_judged_by_is_refused(tmp_path):
    content = scenes()
    with pytest.raises(TaskError, match=r"the 2 images that are judged on have no object annotated"):
        Truth.of(content, [3, 7])
    content["annotations"][1]["segmentation"]["counts"] = [1, 2]
    with pytest.raises(TaskError, match=r"annotation 11 of image 1 cannot be judged by: its run lengths do not add up"):
        Truth.of(content, [1])


def test_without_the_data_a_sentence_says_where_to_get_it(tmp_path):
    with pytest.raises(
        TaskError, match=r"there is no '.*instances_train2017\.json'\. Unpack .*--data or BUDGETED_DATA"
    ):
        small().data(tmp_path, CPU)


def test_without_pycocotools_a_sentence_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(TaskError, match=r'coco needs pycocotools: pip install "budgeted\[vision\]"'):
        small().data(tmp_path, CPU)


# The metric


class Guess:
    """A detector that finds the truth shaken, and what is not there."""

    def __init__(self, content: dict, seed: int) -> None:
        self.random, self.content = np.random.default_rng(seed), content
        self.images = iter(sorted(content["images"], key=lambda image: image["id"]))

    def __call__(self, inputs):
        return [self._find(next(self.images)) for _ in inputs]

    def _find(self, image: dict) -> dict[str, torch.Tensor]:
        draw, height, width = self.random, image["height"], image["width"]
        boxes = [a["bbox"] for a in self.content["annotations"] if a["image_id"] == image["id"]]
        labels = [a["category_id"] for a in self.content["annotations"] if a["image_id"] == image["id"]]
        found, kinds, masks = [], [], torch.zeros(2 * len(boxes) + 1, 1, height, width)
        for box, label in [*zip(boxes, labels, strict=True)] * 2 + [((2.5, 3.5, 9.0, 9.0), 1)]:
            shaken = np.asarray(box) * draw.normal(1, 0.04, 4)
            left, top = max(0.0, shaken[0]), max(0.0, shaken[1])
            right, bottom = min(width, left + abs(shaken[2]) + 1), min(height, top + abs(shaken[3]) + 1)
            masks[len(found), 0, int(top) : int(bottom) + 1, int(left) : int(right) + 1] = 0.9
            found.append([left, top, right, bottom])
            kinds.append(label if draw.random() < 0.8 else int(draw.integers(1, 91)))
        scores = torch.from_numpy(draw.random(len(found)).astype(np.float32))
        return {"boxes": torch.tensor(found), "labels": torch.tensor(kinds), "scores": scores, "masks": masks}


def official_figures(file: Path, guess: Guess, tmp_path: Path) -> dict[str, float]:
    """From results files as the server takes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth, figures = COCO(str(file)), {}
        boxes, masks = [], []
        for number in sorted(truth.imgs):
            (found,) = guess([None])
            for k, (left, top, right, bottom) in enumerate(found["boxes"].tolist()):
                shared = {
                    "image_id": number,
                    "category_id": int(found["labels"][k]),
                    "score": float(found["scores"][k]),
                }
                coded = official.encode(np.asfortranarray((found["masks"][k, 0].numpy() > 0.5).astype(np.uint8)))
                boxes.append({**shared, "bbox": [left, top, right - left, bottom - top]})
                masks.append({**shared, "segmentation": {**coded, "counts": coded["counts"].decode()}})
        for name, kind, found in (("box", "bbox", boxes), ("mask", "segm", masks)):
            (tmp_path / f"{name}.json").write_text(json.dumps(found))
            judge = COCOeval(truth, truth.loadRes(str(tmp_path / f"{name}.json")), kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
            figures |= {f"{name}_{what}": judge.stats[k] for k, what in enumerate(names)}
    return figures


def test_figures_are_pycocotools_own_from_results_files(real, tmp_path):
    task = registry.load(SUBSET)
    file = real / "coco_subset" / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    data = task.data(real, CPU)
    ours = task.evaluate(Guess(content, 0), data.validation)
    theirs = official_figures(file, Guess(content, 0), tmp_path)
    assert ours == pytest.approx(theirs, abs=1e-6)
    assert 0.02 < ours["mask_ap"] < 0.9
    assert 0.02 < ours["box_ap"] < 0.9


def test_the_truth_itself_is_perfect_and_crowds_do_not_count(tmp_path):
    content = scenes()
    found, perfect = Detections(), {1: [0, 1], 2: [2], 3: [], 7: []}
    for number, entries in perfect.items():
        found.add(number, outputs([content["annotations"][k] for k in entries], content))
    truth = Truth.of(content, list(perfect))
    assert found.judged(truth)["box_ap"] == found.judged(truth)["mask_ap"] == pytest.approx(1.0)
    crowd = outputs([content["annotations"][4]], content)
    found.add(3, crowd)
    assert found.judged(truth)["box_ap"] == pytest.approx(1.0)  # inside a crowd, neither right nor wrong
    found.add(7, outputs([{**content["annotations"][4], "image_id": 7, "category_id": 1}], content, score=0.99))
    assert found.judged(truth)["box_ap"] < 0.9


def outputs(entries, content, score=0.9):
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    boxes = torch.tensor([e["bbox"] for e in entries], dtype=torch.float32).reshape(-1, 4)
    masks = [official.decode(rle_of(e["segmentation"], *sizes[e["image_id"]])) for e in entries]
    return {
        "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        "labels": torch.tensor([e["category_id"] for e in entries], dtype=torch.int64),
        "scores": torch.full((len(entries),), score),
        "masks": torch.from_numpy(np.stack(masks)).float()[:, None] if masks else torch.zeros(0, 1, 48, 64),
    }


def test_a_model_that_finds_nothing_has_an_average_precision_of_0_without_a_word(tmp_path, capsys):
    task = small()
    data = task.data(write(tmp_path, scenes()), CPU)
    figures = task.evaluate(lambda inputs: [outputs([], scenes()) for _ in inputs], data.validation)
    assert (figures["box_ap"], figures["mask_ap"]) == (0.0, 0.0)
    assert "box_ap_large" not in figures  # of which there are none
    assert capsys.readouterr().out == ""


def test_an_image_that_cannot_be_read_is_not_judged_on(tmp_path):
    task = small()
    data = task.data(write(tmp_path, scenes()), CPU)
    content = scenes()
    (tmp_path / "coco" / "val2017" / "2.png").write_bytes(b"no image")
    numbers = iter([1, 3, 7])

    def perfect(inputs):
        number = next(numbers)
        entries = [e for e in content["annotations"] if e["image_id"] == number and not e["iscrowd"]]
        return [outputs(entries, content)]

    with pytest.warns(BudgetWarning, match=r"skipped '.*2\.png'"):
        assert task.evaluate(perfect, data.validation)["box_ap"] == pytest.approx(1.0)
    assert len(data.validation.skipped.why) == 1


# Models


def tiny(size=64):
    torch.manual_seed(0)
    return resnet18_fpn(size, width=16, regions=8)


def test_the_network_is_torchvisions():
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None).state_dict()
    ours = Coco(backbone="scratch").model()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.items()}
    assert (ours.transform.min_size, ours.transform.max_size) == ((800,), 1333)
    assert ours.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))


def test_with_a_pretrained_backbone_batch_norm_and_the_first_stages_are_frozen(tmp_path):
    from torchvision.models import resnet50

    torch.manual_seed(1)
    given = resnet50().state_dict()
    torch.save(given, tmp_path / "resnet50.pth")
    task = small(backbone=str(tmp_path / "resnet50.pth"))
    model = task.model()
    body = model.backbone.body
    assert torch.equal(body.layer3[0].conv1.weight, given["layer3.0.conv1.weight"])
    assert isinstance(body.bn1, FrozenBatchNorm2d)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    frozen = {name.partition(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1"}
    settings = task.settings()
    assert settings["backbone"].startswith("resnet50.pth (sha256 ")
    assert settings["backbone_batch_norm"] == "frozen"
    scratch = small()
    assert all(p.requires_grad for p in scratch.model().parameters())
    assert (scratch.settings()["backbone"], scratch.settings()["backbone_batch_norm"]) == ("scratch", "trained")


def test_a_backbone_of_another_network_is_refused(tmp_path):
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(TaskError, match=r"resnet18\.pth .* is another network's"):
        small(backbone=str(tmp_path / "resnet18.pth")).model()


def test_boxes_keep_their_fractions_under_bf16(tmp_path):
    model = tiny(300).eval()
    seen = []
    model.rpn.anchor_generator.register_forward_hook(lambda _, __, anchors: seen.extend(anchors))
    model.roi_heads.score_thresh, model.roi_heads.detections_per_img = 0.0, 5
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        (found,) = model([torch.rand(3, 40, 300)])
    assert seen[0].dtype == torch.float32
    assert (seen[0][:, 2] % 2 == 1).any()  # bf16 has only even numbers from 256 to 512
    assert {found[name].dtype for name in ("boxes", "scores", "masks")} == {torch.float32}
    assert len(found["boxes"])
    assert (found["boxes"].bfloat16().float() != found["boxes"]).any()


def test_lists_of_images_are_measured_and_refreshed_as_tensors_are(tmp_path):
    task = small()
    data = task.data(write(tmp_path, scenes()), CPU)
    model, batches = tiny(), list(data.train.epoch(0, 0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choice = fastest(model, batches[0], task.loss, CPU)
    assert choice.precision in map(named, choice.seconds.keys() - {"one thread"})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    fresh = with_fresh_statistics(model, batches, torch.inference_mode())
    changed = {n for n, v in fresh.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


# Training


def test_the_recipe_is_scaled_with_the_batch():
    task = registry.load("coco(backbone=scratch)")
    assert (task.rate, task.full_budget, task.warmup, task.batch_size, task.size) == (
        0.02,
        "90000 steps",
        "500 steps",
        16,
        800,
    )
    scaled = registry.load("coco(batch=4, warmup=0)")
    assert (scaled.rate, scaled.full_budget, scaled.warmup) == (0.005, "360000 steps", None)
    assert scaled.settings()["base_rate"] == 0.005
    assert scaled.optimizer(torch.nn.Linear(1, 1)).param_groups[0]["lr"] == 0.005
    assert registry.load("coco(size=400)").settings()["longer_side_at_most"] == 666


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": 0}, "batch is a whole number from 1, and is 0"),
        ({"size": 8}, "size is a whole number from 32, and is 8"),
        ({"warmup": 0.5}, "warmup is a whole number from 0, and is 0.5"),
        ({"images": 0}, "images is a whole number from 1, and is 0"),
        ({"overfit": 2}, "overfit is 0 or 1, and is 2"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments, message):
    with pytest.raises(TaskError, match=message):
        Coco(**arguments)


def test_a_few_images_are_evaluated_on_to_overfit_them(real):
    data = registry.load("coco(folder=coco_subset, batch=4, images=10, overfit=1)").data(real, CPU)
    trained = [one.number for one in data.train.source.photographs]
    assert len(trained) == 10
    assert sorted(data.validation.source.truth.known.imgs) == trained
    assert trained == sorted(trained)


def test_it_learns_rectangles(tmp_path):
    task = small(images=2, overfit=1)
    write(tmp_path, scenes())
    spec = Spec(
        "coco",
        "40 steps",
        "linear",
        model="resnet18-fpn(width=16, regions=16)",
        optimizer="adamw",
        lr=2e-3,
        precision="float32",
        refresh=False,
        evaluations=1,
    )
    rows = list(fit(task, spec, RunFolder.create(tmp_path / "runs", spec), root=tmp_path))
    logged = [row["loss"] for row in rows if row.get("loss")]
    assert sum(logged[-5:]) < sum(logged[:5]) / 2
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50"} <= rows[-1].keys()


def test_it_trains_from_raw_files_and_goes_on_to_the_same_bits(real, tmp_path):
    spec = Spec(
        SUBSET,
        "4 steps",
        "linear",
        model="resnet18-fpn(width=16, regions=8)",
        deterministic=True,
        evaluations=1,
        refresh=False,
    )
    ends = []
    for name, stops in (("whole", [None]), ("halves", [2, None])):
        folder = RunFolder.create(tmp_path / name, spec)
        for stop in stops:
            training = fit(
                registry.load(SUBSET.replace(")", ", images=4, overfit=1)")), spec, folder, root=real, save_every=0.0
            )
            for row in training:
                if row["steps"] == stop:
                    training.close()  # as a kill leaves it: the last checkpoint is from an update before
                    break
        ends.append(torch.load(folder.path / "last.pt", weights_only=False)["model"])
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert folder.read("environment")["settings"]["base_rate"] == 0.0025
