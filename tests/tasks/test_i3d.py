"""The inflated ResNet: on a still video it is the network for images; it sees time where the paper's code lets it."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torchvision
from torch import nn

from budgeted import TaskError
from budgeted.tasks.i3d import i3d, inflated, weights
from budgeted.tasks.pretrained import Backbone
from budgeted.train.data import Batch
from budgeted.train.evaluation import with_fresh_statistics
from budgeted.train.precision import PRECISIONS

CPU = torch.device("cpu")


def network(depth: int) -> nn.Module:
    """A ResNet for images, its batch norms with statistics and weights that are no one's default."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, f"resnet{depth}")(num_classes=7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.double().eval()


@pytest.mark.parametrize("depth", [18, 50])
def test_a_still_video_gives_what_the_image_gives(depth):
    model, image = network(depth), torch.randn(1, 3, 32, 48, dtype=torch.float64)
    with torch.no_grad():
        wanted = model(image)
        found = inflated(model)(image.unsqueeze(2).expand(-1, -1, 8, -1, -1))
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_moving_video_does_not():
    model, clip = inflated(network(18)), torch.randn(1, 3, 8, 32, 32, dtype=torch.float64)
    still = clip[:, :, :1].expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        assert not torch.allclose(model(clip), model(still))


def test_it_sees_time_where_the_papers_code_does():
    """obtain_arc(2) of video-nonlocal-net; 28.04 million weights, the I3D 8x8 of PySlowFast's model zoo."""
    model = i3d(400)
    stages = [model.layer1[:3], model.layer2, model.layer3, model.layer4]
    seen = [[block.conv1.kernel_size[0] for block in stage] for stage in stages]
    assert model.conv1.kernel_size == (5, 7, 7)
    assert seen == [[3, 3, 3], [3, 1, 3, 1], [3, 1, 3, 1, 3, 1], [1, 3, 1]]
    assert all(m.kernel_size[0] == 1 for n, m in model.named_modules() if n.endswith(("conv2", "conv3")))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == 28.04


def test_time_is_halved_after_the_first_stage():
    shapes = []
    model = i3d(5, depth=18).eval()
    for stage in (model.maxpool, model.layer1, model.layer4):
        stage.register_forward_hook(lambda *seen: shapes.append(tuple(seen[2].shape[2:])))
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 8, 64, 64)).shape == (1, 5)
    assert shapes == [(8, 16, 16), (4, 16, 16), (4, 2, 2)]


def test_a_backbone_is_inflated():
    image = network(18).float()
    found = i3d(5, 18, backbone=Backbone(image.state_dict(), "mine"))
    torch.testing.assert_close(found.conv1.weight.sum(2), image.conv1.weight)
    torch.testing.assert_close(found.layer3[1].bn2.running_var, image.layer3[1].bn2.running_var)
    assert found.fc[1].weight.shape == (5, 512)
    with pytest.raises(TaskError, match="backbone mine is another network's"):
        i3d(5, 50, backbone=Backbone(image.state_dict(), "mine"))


def test_without_a_backbone_a_movement_and_its_reverse_look_different_from_the_first():
    torch.manual_seed(0)
    clip = torch.randn(1, 3, 8, 32, 32)
    for backbone, same in ((None, False), (Backbone(network(18).float().state_dict(), "mine"), True)):
        model = i3d(5, 18, backbone=backbone).eval()
        with torch.no_grad():
            assert torch.allclose(model(clip), model(clip.flip(2)), atol=1e-5) == same


def test_what_it_cannot_be_is_told():
    with pytest.raises(TaskError, match="the depth of an I3D is one of 18, 34, 50, 101, 152, and is 20"):
        i3d(5, depth=20)
    with pytest.raises(TaskError, match=r"dropout is from 0 to below 1, and is 1\.5"):
        i3d(5, depth=18, dropout=1.5)
    assert all(weights(depth).startswith(f"resnet{depth}-") for depth in (18, 34, 50, 101, 152))


def test_statistics_of_batch_norm_are_taken_anew():
    model = inflated(network(18)).float()
    batch = Batch(torch.randn(2, 3, 4, 32, 32), torch.zeros(2, dtype=torch.long))
    fresh = with_fresh_statistics(model, [batch], contextlib.nullcontext())
    with torch.no_grad():
        wanted = model.conv1(batch.inputs).mean((0, 2, 3, 4))
    torch.testing.assert_close(fresh.bn1.running_mean, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fresh.bn1.running_mean, model.bn1.running_mean)


@pytest.mark.parametrize("name", ["float32", "float32-channels-last"])
def test_memory_formats_of_videos(name):
    """Not bf16: a processor without it takes a hundred times as long. Its autocast is tried on one small layer."""
    precision, model = PRECISIONS[name], i3d(3, 18, dropout=0.0)
    layout = torch.channels_last_3d if precision.channels_last else torch.contiguous_format
    data = precision.prepare(Batch(torch.randn(2, 3, 4, 32, 32), torch.tensor([0, 1])))
    placed = precision.place(model, CPU)
    assert data.inputs.is_contiguous(memory_format=layout)
    assert placed.layer1[0].conv1.weight.is_contiguous(memory_format=layout)
    nn.functional.cross_entropy(placed(data.inputs), data.targets).backward()
    assert all(p.grad is not None for p in placed.parameters())


def test_bf16():
    layer = i3d(3, 18).layer1[0].conv1
    with PRECISIONS["bf16-channels-last"].autocast(CPU), torch.inference_mode():
        assert layer(torch.randn(1, 64, 2, 2, 2)).dtype == torch.bfloat16
