"""I3D: a residual network for images made one for videos, its filters repeated over time (Carreira and Zisserman 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import TaskError
from .pretrained import RESNETS, Backbone

_STEM = 5  # frames that the first convolution sees
# Of each stage, which blocks see three frames, in turn: those of obtain_arc() in the paper's code, video-nonlocal-net.
_STAGES = {"layer1": (True,), "layer2": (True, False), "layer3": (True, False), "layer4": (False, True)}


def weights(depth: int) -> str:
    """The file in torchvision's cache with the weights of its ResNet of that depth, trained on ImageNet.

    Raises:
        TaskError: for another depth than its.
    """
    if depth not in RESNETS:
        raise TaskError(f"the depth of an I3D is one of {', '.join(map(str, RESNETS))}, and is {depth}")
    return RESNETS[depth]


class Conv3d(nn.Conv3d):
    """A convolution that repeats the first and the last frame at the borders of time; at those of space it pads with zeros.

    With zeros at the borders of time too, a still video would seem to appear and to vanish, and pretrained filters would find
    other features in its first and last frames than in the image.
    """

    def forward(self, x: Tensor) -> Tensor:
        before = self.kernel_size[0] // 2
        if before:
            x = torch.cat([x[:, :, :1]] * before + [x] + [x[:, :, -1:]] * before, 2)
        return super().forward(x)


def i3d(classes: int, depth: int = 50, dropout: float = 0.5, backbone: Backbone | None = None) -> nn.Module:
    """The inflated ResNet of Wang et al. 2018 (I3D 3x1x1); it takes clips of shape (N, 3, T, H, W), T from 2.

    Args:
        classes: of the videos.
        depth: 18, 34, 50, 101 or 152. Blocks without a 1x1 convolution, of 18 and 34, see time in their first 3x3 one.
        dropout: before the last layer, from 0 to below 1.
        backbone: weights of torchvision's ResNet of this depth, trained on images; without them filters are random.

    Raises:
        TaskError: for another depth or dropout, and for a backbone that is another network's.
    """
    weights(depth)
    if not 0 <= dropout < 1:
        raise TaskError(f"dropout is from 0 to below 1, and is {dropout}")
    from torchvision import models

    network = getattr(models, f"resnet{depth}")()
    if backbone is not None:
        backbone.load_into(network)
    head = nn.Linear(network.fc.in_features, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    network.fc = nn.Sequential(nn.Dropout(dropout), head)
    model = inflated(network)
    if backbone is None or backbone.weights is None:
        _begin(model)
    return model


def _begin(model: nn.Module) -> None:
    """Random filters, at each moment others: repeated ones see no difference between a movement and its reverse."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def inflated(network: Any) -> nn.Module:
    """The residual network with each layer replaced by that for videos, in place, and time halved after its first stage.

    On a still video it gives what the network gave on the image: filters are divided by the frames that they see.

    Args:
        network: torchvision's ResNet.
    """
    frames: dict[nn.Module, int] = {network.conv1: _STEM}
    for stage, turns in _STAGES.items():
        for place, block in enumerate(getattr(network, stage)):
            frames[block.conv1] = 3 if turns[place % len(turns)] else 1
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            setattr(module, name, _for_videos(child, frames.get(child, 1)))
    network.layer1.append(nn.MaxPool3d((2, 1, 1), (2, 1, 1)))
    return network.train(network.training)  # type: ignore[no-any-return]


def _for_videos(layer: nn.Module, frames: int) -> nn.Module:
    """A layer's counterpart; what needs none is left as it is."""
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, frames)
    if isinstance(layer, nn.BatchNorm2d):
        norm = nn.BatchNorm3d(layer.num_features, layer.eps, layer.momentum, dtype=layer.weight.dtype)
        norm.load_state_dict(layer.state_dict())
        return norm
    if isinstance(layer, nn.MaxPool2d):
        size, stride, padding = map(_both, (layer.kernel_size, layer.stride, layer.padding))
        return nn.MaxPool3d((1, *size), (1, *stride), (0, *padding))
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool3d(1)
    return layer


def _convolution(layer: nn.Conv2d, frames: int) -> nn.Conv3d:
    height, width = _both(layer.kernel_size)
    wide = Conv3d(
        layer.in_channels,
        layer.out_channels,
        (frames, height, width),
        (1, *_both(layer.stride)),
        (0, *_both(layer.padding)),
        (1, *_both(layer.dilation)),
        layer.groups,
        layer.bias is not None,
        dtype=layer.weight.dtype,
    )
    with torch.no_grad():
        wide.weight.copy_(layer.weight.unsqueeze(2) / frames)  # repeated over time
        if layer.bias is not None and wide.bias is not None:
            wide.bias.copy_(layer.bias)
    return wide


def _both(size: Any) -> tuple[int, int]:
    """Of height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
