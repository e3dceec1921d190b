"""PSPNet: what dilation keeps, its size and shapes, its auxiliary head, pretrained weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from budgeted import TaskError
from budgeted.tasks.models import Block
from budgeted.tasks.pretrained import Backbone
from budgeted.tasks.pspnet import dilate, pspnet, pspnet50


def stages(net):
    return [net.layer1, net.layer2, net.layer3, net.layer4]


def features(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    for stage in stages(net):
        x = stage(x)
    return x


def small_resnet(**options):
    """ResNet-50's blocks, one a stage."""
    torch.manual_seed(0)
    bottleneck = torchvision.models.resnet.Bottleneck
    return torchvision.models.ResNet(bottleneck, [1, 2, 2, 2], **options).eval()


@pytest.mark.parametrize(("most", "left_out"), [(8, [False] * 3), (4, [False, False, True]), (2, [False, True, True])])
def test_dilation_is_torchvisions(most, left_out):
    ours, theirs = small_resnet(), small_resnet(replace_stride_with_dilation=left_out)
    dilate(stages(ours), most)
    x = torch.randn(2, 3, 65, 49)
    with torch.no_grad():
        torch.testing.assert_close(features(ours, x), features(theirs, x))


@pytest.mark.parametrize("size", [(65, 97), (64, 80), (71, 50)])
def test_a_dilated_network_computes_what_the_strided_one_did_and_more(size):
    strided, dense = small_resnet(), small_resnet()
    dilate(stages(dense), 2)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        few, many = features(strided, x), features(dense, x)
    assert many.shape[2] == -(-size[0] // 8)
    torch.testing.assert_close(many[:, :, ::4, ::4], few, atol=1e-5, rtol=1e-5)


def test_the_narrow_networks_blocks_dilate_as_well():
    torch.manual_seed(0)
    strided = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2), Block(8, 16, 2), Block(16, 16, 1)).eval()
    dense = nn.Sequential(Block(4, 4, 1), Block(4, 8, 2), Block(8, 16, 2), Block(16, 16, 1)).eval()
    dense.load_state_dict(strided.state_dict())
    dilate([dense[0], dense[1], nn.Sequential(dense[2], dense[3])], 2)
    x = torch.randn(1, 4, 33, 29)
    with torch.no_grad():
        torch.testing.assert_close(dense(x)[:, :, ::2, ::2], strided(x), atol=1e-6, rtol=1e-5)


def test_the_published_network():
    model = pspnet50(19)
    backbone = 23_508_032  # torchvision's ResNet-50 without its last layer
    pyramid = 4 * (2048 * 512 + 2 * 512)
    head = 4096 * 512 * 9 + 2 * 512 + 512 * 19 + 19
    auxiliary = 1024 * 256 * 9 + 2 * 256 + 256 * 19 + 19
    assert sum(p.numel() for p in model.parameters()) == backbone + pyramid + head + auxiliary
    with torch.no_grad():
        third, last = model.eval().encoder(torch.zeros(1, 3, 65, 97))
    assert (third.shape, last.shape) == ((1, 1024, 9, 13), (1, 2048, 9, 13))


@pytest.mark.parametrize(("stride", "apart"), [(16, 16), (8, 8), (4, 4)])
def test_each_pixel_has_logits_and_while_it_trains_auxiliary_ones(stride, apart):
    model = pspnet(11, width=8, stride=stride)
    x = torch.randn(2, 3, 65, 49)
    logits, auxiliary = model(x)
    assert logits.shape == auxiliary.shape == (2, 11, 65, 49)
    assert model.encoder(x)[1].shape[2:] == (64 // apart + 1, 48 // apart + 1)
    assert model.eval()(x).shape == (2, 11, 65, 49)


def test_the_auxiliary_head_does_not_touch_the_logits():
    model, x = pspnet(11, width=8).eval(), torch.randn(1, 3, 65, 65)
    before = model(x)
    with torch.no_grad():
        for p in model.auxiliary.parameters():
            p.fill_(3.0)
    assert torch.equal(model(x), before)


def test_pooled_features_reach_every_pixel():
    """A pixel in one corner changes the logits in the other: bin 1 sees all."""
    torch.manual_seed(0)
    model, x = pspnet(11, width=8).eval(), torch.zeros(1, 3, 129, 129)
    before = model(x)[:, :, -1, -1]
    x[:, :, 0, 0] = 100.0
    assert not torch.allclose(model(x)[:, :, -1, -1], before, atol=1e-6)


def test_torchvisions_weights_load(tmp_path):
    torch.manual_seed(1)
    theirs = torchvision.models.resnet50().eval()
    path = tmp_path / "resnet50.pth"
    torch.save(theirs.state_dict(), path)
    model = pspnet50(19, Backbone.find(str(path), "", "cityscapes")).eval()
    x = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        torch.testing.assert_close(model.encoder(x)[1][:, :, ::4, ::4], features(theirs, x), atol=1e-4, rtol=1e-4)


def test_another_networks_weights_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(TaskError, match=r"resnet18\.pth .* is another network's: "):
        pspnet50(19, Backbone.find(str(tmp_path / "resnet18.pth"), "", "cityscapes"))
