"""Data in device memory: order and augmentation are a pure function of seed and epoch."""

from __future__ import annotations

import pytest
import torch

from budgeted.train.data import Crop, Images

COUNT, SIZE, BATCH = 53, 6, 8
MEAN, STD = (0.4, 0.5), (0.2, 0.3)


def images(crop: Crop | None = None) -> Images:
    random = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (COUNT, SIZE, SIZE, 2), dtype=torch.uint8, generator=random)
    pixels[:, 0, 0, 0] = torch.arange(COUNT, dtype=torch.uint8)
    return Images(pixels, torch.arange(COUNT), MEAN, STD, BATCH, crop)


CROPS = [None, Crop(0, flip=True), Crop(2, flip=False), Crop(2, flip=True)]
crops = pytest.mark.parametrize("crop", CROPS)


@crops
def test_an_epoch_is_a_permutation(crop):
    data = images(crop)
    batches = list(data.epoch(0, 0))
    assert len(batches) == len(data) == 7
    assert [len(batch.targets) for batch in batches] == [8] * 6 + [5]
    assert torch.cat([batch.targets for batch in batches]).sort().values.tolist() == list(range(COUNT))


@crops
def test_an_epoch_is_a_pure_function_of_seed_and_epoch(crop):
    def draw(seed, epoch):
        torch.rand(1)  # the global random state is none of its business
        return list(images(crop).epoch(seed, epoch))

    first = draw(3, 5)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, draw(3, 5), strict=True))
    for other in (draw(3, 6), draw(4, 5)):
        assert any(not torch.equal(a.targets, b.targets) for a, b in zip(first, other, strict=True))


@crops
def test_drawing_leaves_the_random_state_alone(crop):
    before = torch.get_rng_state()
    list(images(crop).epoch(0, 0))
    assert torch.equal(before, torch.get_rng_state())


@crops
@pytest.mark.parametrize("first", [0, 1, 6, 7])
def test_first_continues_exactly(crop, first):
    data = images(crop)
    whole, rest = list(data.epoch(1, 2)), list(data.epoch(1, 2, first))
    assert len(rest) == len(whole) - first
    for a, b in zip(whole[first:], rest, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)


def test_inputs_are_normalised_by_the_formula():
    data = images()
    batch = next(data.in_order(COUNT))
    pixels = data.images.permute(0, 3, 1, 2).double() / 255
    expected = (pixels - torch.tensor(MEAN).double()[:, None, None]) / torch.tensor(STD).double()[:, None, None]
    assert batch.inputs.dtype == torch.float32
    assert (batch.inputs - expected).abs().max() < 1e-5


def test_in_order_has_a_size_of_its_own():
    many = Images(torch.zeros(300, 2, 2, 1, dtype=torch.uint8), torch.arange(300), (0.5,), (0.5,), 10)
    assert [len(batch.targets) for batch in many.in_order()] == [128, 128, 44]


def test_in_order_is_in_order_and_as_it_is():
    data = images()
    batches = list(data.in_order(20))
    assert [len(b.targets) for b in batches] == [20, 20, 13]
    assert torch.cat([b.targets for b in batches]).tolist() == list(range(COUNT))


@crops
def test_inputs_lie_in_channels_last_memory(crop):
    batch = next(images(crop).epoch(0, 0))
    assert batch.inputs.shape == (BATCH, 2, SIZE, SIZE)
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("crop", CROPS[1:])
def test_crops_are_those_of_one_image_after_the_other(crop):
    """Every batch against a loop over images, by the numbers that the generator gives."""
    plain, data, seed, epoch = images(), images(crop), 5, 3
    random = torch.Generator().manual_seed((seed + 1) * 1_000_003 + epoch)
    order = torch.randperm(COUNT, generator=random)
    shifts = torch.randint(0, 2 * crop.padding + 1, (2, COUNT), generator=random)
    flips = torch.rand(COUNT, generator=random) < 0.5
    expected = []
    for place, index in enumerate(order):
        padded = torch.zeros(SIZE + 2 * crop.padding, SIZE + 2 * crop.padding, 2)
        padded[crop.padding : crop.padding + SIZE, crop.padding : crop.padding + SIZE] = plain.images[index]
        y, x = shifts[:, place].tolist()
        image = padded[y : y + SIZE, x : x + SIZE] / 255
        if crop.flip and flips[place]:
            image = image.flip(1)
        expected.append(((image - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1))
    drawn = list(data.epoch(seed, epoch))
    assert torch.cat([b.targets for b in drawn]).tolist() == order.tolist()
    assert (torch.cat([b.inputs for b in drawn]) - torch.stack(expected)).abs().max() < 1e-5


def test_every_shift_and_both_sides_occur():
    pixels = torch.zeros(4000, 3, 3, 1, dtype=torch.uint8)
    pixels[:, 1, 0] = 255
    data = Images(pixels, torch.zeros(4000, dtype=torch.int64), (0.0,), (1.0,), 4000, Crop(1, flip=True))
    found = {tuple(place) for image in next(data.epoch(0, 0)).inputs for place in (image[0] > 0.5).nonzero().tolist()}
    assert found == {(y, x) for y in range(3) for x in range(3) if x != 1} | {(0, 1), (1, 1), (2, 1)}


def test_the_images_themselves_are_not_changed_by_flips():
    data = images(Crop(2, flip=True))
    before = data.images.clone()
    for epoch in range(3):
        list(data.epoch(0, epoch))
    assert torch.equal(before, data.images)


def test_neighbouring_seeds_and_epochs_share_no_order():
    data = images()
    orders = {tuple(torch.cat([b.targets for b in data.epoch(s, e)]).tolist()) for s in range(5) for e in range(-1, 9)}
    assert len(orders) == 50
