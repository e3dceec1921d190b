"""Augmentation: one affine transform against the plain ones after each other; image and labels stay together; damaged files."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from budgeted import TaskError
from budgeted.tasks.images import Stored
from budgeted.tasks.photographs import MEAN, STD
from budgeted.tasks.scenes import VOID, Augmentation, Pair, Scenes, affine, join
from budgeted.train.stream import Unreadable

TABLE = np.array([*range(11), VOID], np.uint8)


def smooth(width=120, height=90):
    """An image whose values change slowly, so that interpolating twice is as good as once."""
    y, x = np.mgrid[:height, :width]
    channels = [128 + 100 * np.sin(x / a + y / b) for a, b in ((15, 22), (31, 12), (18, -25))]
    return Image.fromarray(np.stack(channels, 2).round().astype(np.uint8))


def squares(width=120, height=90, side=15):
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(((x // side + 3 * (y // side)) % 11).astype(np.uint8))


def plainly(image, scale, angle, mirrored, corner, crop, fill):
    """Resize, rotate, mirror, crop."""
    method = Image.Resampling.BILINEAR if image.mode == "RGB" else Image.Resampling.NEAREST
    size = round(image.width * scale), round(image.height * scale)
    image = image.transform(size, Image.Transform.AFFINE, (1 / scale, 0, 0, 0, 1 / scale, 0), method)
    image = image.rotate(angle, method, fillcolor=fill)
    image = ImageOps.mirror(image) if mirrored else image
    return image.crop((*corner, corner[0] + crop, corner[1] + crop))


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("angle", [0.0, 10.0, -7.3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_one_transform_is_the_composition_of_the_plain_ones(scale, angle, mirrored):
    corner, crop = (round(20 * scale), round(12 * scale)), 30
    place = affine((120, 90), scale, angle, mirrored, corner)
    at_once = smooth().transform((crop, crop), Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
    expected = plainly(smooth(), scale, angle, mirrored, corner, crop, (124, 116, 104))
    difference = np.abs(np.asarray(at_once).astype(int) - np.asarray(expected))
    assert difference.max() <= 4  # of 255: twice rounded and interpolated
    labels = squares(side=30).transform((crop, crop), Image.Transform.AFFINE, place, Image.Resampling.NEAREST)
    expected = plainly(squares(side=30), scale, angle, mirrored, corner, crop, VOID)
    share = (np.asarray(labels) == np.asarray(expected)).mean()
    assert share == 1.0 if angle == 0.0 else share > 0.93  # edges alone


def test_without_scale_and_rotation_it_is_an_exact_crop():
    image, labels = Augmentation(50).weak()(Random(3), smooth(), squares())
    pixels, whole = np.asarray(image), np.asarray(smooth())
    places = [(y, x) for y in range(41) for x in range(71) if (whole[y : y + 50, x : x + 50] == pixels).all()]
    assert len(places) == 1
    y, x = places[0]
    assert (np.asarray(labels) == np.asarray(squares())[y : y + 50, x : x + 50]).all()


def test_images_and_labels_stay_together():
    """An image that shows its labels shows them after any augmentation, but for the pixels at edges."""
    labels = squares(side=30)
    image = Image.merge("RGB", [labels.point([20 * k for k in range(256)])] * 3)
    outside = 0
    for seed in range(60):
        seen, known = Augmentation(64, blur=0.0)(Random(seed), image, labels)
        seen, known = np.asarray(seen)[:, :, 0].astype(int), np.asarray(known).astype(int)
        inside = known != VOID
        assert (np.abs(seen - 20 * known)[inside] <= 10).mean() > 0.9
        assert ((seen == 124) | inside).mean() > 0.97  # outside the image there is the mean colour
        outside += (~inside).any()
    assert outside > 10


def test_draws_have_the_ranges_that_are_said():
    augmentation = Augmentation(40)
    scales, angles, mirrored, blurred = [], [], [], []
    for seed in range(2000):
        (a, b, _, d, e, _), blur = augmentation.draw(Random(seed), (120, 90))
        scales.append(1 / np.hypot(a, d))
        mirrored.append(a < 0)
        angles.append(np.degrees(np.arctan2(-b, e)))
        blurred.append(blur)
    assert (min(scales), max(scales)) == (pytest.approx(0.5, abs=0.01), pytest.approx(2.0, abs=0.01))
    assert np.mean(scales) == pytest.approx(1.25, abs=0.04)
    assert (min(angles), max(angles)) == (pytest.approx(-10, abs=0.2), pytest.approx(10, abs=0.2))
    for share in (np.mean(np.array(angles) == 0), np.mean(mirrored), np.mean(blurred)):
        assert share == pytest.approx(0.5, abs=0.05)


def test_every_part_of_an_image_is_met_and_smaller_images_lie_whole_in_the_crop():
    corner = Image.new("L", (60, 40), 0)
    corner.putpixel((0, 0), 1)
    corner.putpixel((59, 39), 2)
    weak = Augmentation(33).weak()
    met = [set(np.unique(weak(Random(seed), corner.convert("RGB"), corner)[1])) for seed in range(600)]
    assert any(1 in labels for labels in met)
    assert any(2 in labels for labels in met)
    for seed in range(20):
        labels = np.asarray(Augmentation(65).weak()(Random(seed), corner.convert("RGB"), corner)[1])
        assert (labels != VOID).sum() == 60 * 40
        assert {1, 2} < set(np.unique(labels))


def test_blur_is_of_the_image_alone():
    sharp = Augmentation(64, (1.0, 1.0), 0.0, flip=False, blur=0.0)
    blurred = Augmentation(64, (1.0, 1.0), 0.0, flip=False, blur=1.0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    (a, la), (b, lb) = sharp(Random(0), noise, squares()), blurred(Random(0), noise, squares())
    assert (np.asarray(la) == np.asarray(lb)).all()
    assert np.asarray(b).std() < 0.5 * np.asarray(a).std()


# Files


def stored(tmp_path, image, labels):
    image.save(tmp_path / "image.png")
    labels.save(tmp_path / "labels.png")
    return Scenes(
        [Pair(Stored(str(tmp_path / "image.png")), Stored(str(tmp_path / "labels.png")))], TABLE, Augmentation(33)
    )


def test_a_sample_is_read_as_it_is_and_joined(tmp_path):
    labels = squares()
    labels.putpixel((0, 0), 11)
    source = stored(tmp_path, smooth(), labels)
    inputs, targets = join([source.read(0, None)] * 2, torch.device("cpu"))
    assert targets.dtype == torch.int64
    assert targets[1, 0, 0] == VOID
    assert (targets[1, 0, 1:] == torch.tensor(np.asarray(labels)[0, 1:])).all()
    assert inputs.shape == (2, 3, 90, 120)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    pixels = torch.tensor(np.asarray(smooth())).double() / 255
    expected = (pixels - torch.tensor(MEAN)) / torch.tensor(STD)
    assert (inputs[0].permute(1, 2, 0) - expected).abs().max() < 1e-5


def test_a_sample_depends_on_what_is_drawn_alone(tmp_path):
    source = stored(tmp_path, smooth(), squares())
    a, b, other = (source.read(0, Random(seed)) for seed in (1, 1, 2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], other[0])
    assert (a[0].shape, a[1].shape) == ((33, 33, 3), (33, 33))


def test_palettes_and_sixteen_bits_are_labels_too(tmp_path):
    coloured = squares().copy()
    coloured.putpalette([k % 256 for k in range(768)])
    deep = Image.fromarray(np.asarray(squares()).astype(np.uint16))
    for labels in (coloured, deep):
        assert (stored(tmp_path, smooth(), labels).read(0, None)[1].numpy() == np.asarray(squares())).all()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (squares(119, 90), r"labels.png' has 119 x 90 labels, and '.*image.png' has 120 x 90 pixels"),
        (squares().convert("RGB"), r"label image '.*labels.png' has 3 channels \(RGB\); it is to have one"),
        (Image.new("L", (120, 90), 12), r"labels.png' has the label 12; labels are from 0 to 11"),
        (Image.fromarray(np.full((90, 120), 300, np.uint16)), r"has the label 300; labels are from 0 to 11"),
    ],
)
def test_labels_that_are_not_those_of_the_image(tmp_path, labels, says):
    source = stored(tmp_path, smooth(), labels)
    for random in (None, Random(0)):
        with pytest.raises(TaskError, match=says):
            source.read(0, random)


@pytest.mark.parametrize("which", ["image.png", "labels.png"])
def test_files_that_are_cut_short_or_no_images(tmp_path, which):
    source = stored(tmp_path, smooth(), squares())
    whole = (tmp_path / which).read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no image at all"):
        (tmp_path / which).write_bytes(content)
        with pytest.raises(Unreadable, match=which):
            source.read(0, Random(0))
    (tmp_path / which).unlink()
    with pytest.raises(Unreadable, match=f"{which}': No such file"):
        source.read(0, None)
