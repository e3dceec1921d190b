"""The metric against a loop over pixels, the tiled test against a plain one, the loss."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from budgeted.tasks.scenes import VOID
from budgeted.tasks.segmentation import confusion, cross_entropy, intersection_over_union, starts, tiled

pixels = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 2, 3, 4, VOID])), min_size=1, max_size=60)


@given(pixels)
@settings(deadline=None, max_examples=200)
def test_intersections_and_unions_are_those_of_a_loop_over_pixels(found):
    predicted, targets = torch.tensor([p for p, _ in found]), torch.tensor([t for _, t in found])
    iou = intersection_over_union(confusion(predicted, targets, 5)).tolist()
    for k in range(5):
        judged = [(p, t) for p, t in found if t != VOID]
        inside = sum(p == k and t == k for p, t in judged)
        either = sum(p == k or t == k for p, t in judged)
        assert iou[k] == pytest.approx(inside / either) if either else math.isnan(iou[k])


@given(pixels, st.integers(0, 60))
@settings(deadline=None)
def test_one_matrix_adds_up_over_batches(found, cut):
    predicted, targets = torch.tensor([p for p, _ in found]), torch.tensor([t for _, t in found])
    parts = confusion(predicted[:cut], targets[:cut], 5) + confusion(predicted[cut:], targets[cut:], 5)
    assert torch.equal(parts, confusion(predicted, targets, 5))
    assert parts.sum() == sum(t != VOID for _, t in found)


class Position(nn.Module):
    """Gives a tile logits that depend on where in the tile a pixel is, and on what is seen there."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x):
        self.calls.append(tuple(x.shape))
        rows = torch.linspace(-1, 1, x.shape[2])[:, None].expand(x.shape[2:])
        return torch.stack([x[:, 0] + rows, x[:, 1] - rows, x[:, 2] * rows], 1)


def naive(model, image, crop):
    """Every pixel on its own: the mean over the tiles that hold it, of an image that is at least a tile."""
    height, width = image.shape[1:]
    step = math.ceil(2 * crop / 3)

    def begins(length):
        return sorted({min(k * step, length - crop) for k in range(-(-(length - crop) // step) + 1)})

    held = [[[] for _ in range(width)] for _ in range(height)]
    for y in begins(height):
        for x in begins(width):
            found = model(image[None, :, y : y + crop, x : x + crop])[0].softmax(0)
            for v in range(crop):
                for u in range(crop):
                    held[y + v][x + u].append(found[:, v, u])
    return torch.stack([torch.stack([torch.stack(ps).mean(0) for ps in row]) for row in held]).permute(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(9, 9), (9, 14), (15, 16), (22, 10)])
def test_overlapping_tiles_are_averaged(height, width):
    torch.manual_seed(0)
    image = torch.randn(3, height, width)
    found = tiled(Position(), image[None], 9, 4)[0]
    torch.testing.assert_close(found, naive(Position(), image, 9))
    torch.testing.assert_close(found.sum(0), torch.ones(height, width))


def test_one_tile_is_the_plain_test():
    image = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(tiled(Position(), image, 9, 8), Position()(image).softmax(1))


@pytest.mark.parametrize(("height", "width"), [(5, 9), (8, 4), (1, 1), (6, 20)])
def test_images_smaller_than_a_tile_lie_in_the_middle_of_one(height, width):
    image = torch.randn(1, 3, height, width)
    top, left = max(0, 9 - height) // 2, max(0, 9 - width) // 2
    padded = torch.zeros(1, 3, max(9, height), max(9, width))
    padded[:, :, top : top + height, left : left + width] = image
    expected = naive(Position(), padded[0], 9)[None, :, top : top + height, left : left + width]
    torch.testing.assert_close(tiled(Position(), image, 9, 8), expected)


def test_several_images_at_once_and_few_tiles_of_a_pass():
    images, model = torch.randn(3, 3, 14, 9), Position()
    found = tiled(model, images, 9, 4)
    assert model.calls == [(4, 3, 9, 9), (2, 3, 9, 9)]  # of two tiles in each of three images
    for image, one in zip(images, found, strict=True):
        torch.testing.assert_close(one, naive(Position(), image, 9))


@given(st.integers(1, 400), st.integers(0, 900))
@settings(deadline=None)
def test_tiles_cover_a_side_and_overlap_by_a_third(crop, more):
    places = starts(crop + more, crop)
    assert (places[0], places[-1]) == (0, more)
    assert all(0 < b - a <= math.ceil(2 * crop / 3) for a, b in itertools.pairwise(places))


def test_void_pixels_have_no_part_in_the_loss():
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    targets = torch.randint(3, (2, 4, 5))
    targets[:, :2] = VOID
    expected = nn.functional.cross_entropy(logits[:, :, 2:], targets[:, 2:])
    loss = cross_entropy(logits, targets)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert not logits.grad[:, :, :2].any()


def test_a_batch_of_void_alone_changes_nothing():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 2, 2), VOID))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()
