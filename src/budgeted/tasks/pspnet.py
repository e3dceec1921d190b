"""PSPNet (Zhao et al. 2017): pyramid pooling on any residual network, dilated so that its features stay dense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .models import Block
from .pretrained import Backbone

_BINS = (1, 2, 3, 6)


class Encoder(nn.Module):
    """A stem and residual stages; gives what the last two compute.

    Args:
        stem: divides the size by `divisor`.
        stages: of which each may divide it further, by the stride of its first block.
        widths: filters that come out of the last two stages.
        divisor: of the stem.
        stride: pixels between two features of the last stage, at most; stages beyond it are dilated.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], widths: tuple[int, int], divisor: int, stride: int
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.widths = widths
        dilate(stages, stride // divisor)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        before = x = self.stem(x)
        for stage in self.stages:
            before, x = x, stage(x)
        return before, x


class PSPNet(nn.Module):
    """Logits of each pixel's class: (N, classes, H, W); while it trains, those of the auxiliary head too.

    Args:
        encoder: the backbone. With features 8 pixels apart, sizes of 8 k + 1 pixels are met exactly.
        classes: of the labels.
        dropout: of whole filters before the last layer of each head.
    """

    def __init__(self, encoder: Encoder, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        third, last = encoder.widths
        self.encoder = encoder
        self.pyramid = nn.ModuleList(_pooled(last, last // len(_BINS), bins) for bins in _BINS)
        self.head = _head(last + last // len(_BINS) * len(_BINS), last // 4, classes, dropout)
        self.auxiliary = _head(third, third // 4, classes, dropout)

    def forward(self, x: Tensor) -> Any:
        third, last = self.encoder(x)
        context = [_resized(pooled(last), last.shape[2:]) for pooled in self.pyramid]
        logits = self._each_pixel(self.head(torch.cat([last, *context], 1)), x)
        return (logits, self._each_pixel(self.auxiliary(third), x)) if self.training else logits

    @staticmethod
    def _each_pixel(logits: Tensor, x: Tensor) -> Tensor:
        return _resized(logits.float(), x.shape[2:])  # between bf16's few values there would be steps


def dilate(stages: Sequence[nn.Module], most: int) -> None:
    """Keep features dense: once stages have divided the size by `most`, further strides become holes in the filters after them.

    A dilated network computes at every n-th position exactly what it did before (Chen et al. 2018), so that its pretrained
    weights keep their meaning. The convolution that loses its stride keeps the holes of those before it, as in torchvision's
    `replace_stride_with_dilation`.
    """
    reached, holes = 1, 1
    for stage in stages:
        convolutions = [module for module in stage.modules() if isinstance(module, nn.Conv2d)]
        stride = max(conv.stride[0] for conv in convolutions)
        if reached * stride <= most:
            reached *= stride
            continue
        for conv in convolutions:
            rate = holes if conv.stride[0] > 1 else holes * stride
            conv.dilation = (rate, rate)
            conv.padding = (rate * (conv.kernel_size[0] // 2), rate * (conv.kernel_size[1] // 2))
            conv.stride = (1, 1)
        holes *= stride


def pspnet50(classes: int, backbone: Backbone | None = None, stride: int = 8) -> PSPNet:
    """The published network: torchvision's ResNet-50, with these weights or from scratch."""
    import torchvision

    net = torchvision.models.resnet50()
    if backbone is not None:
        backbone.load_into(net)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    stages = (net.layer1, net.layer2, net.layer3, net.layer4)
    return PSPNet(Encoder(stem, stages, (1024, 2048), 4, stride), classes)


def pspnet(classes: int, width: int = 16, blocks: int = 1, stride: int = 8, dropout: float = 0.1) -> PSPNet:
    """A narrow one for CPUs and small images: 16-32-64-128 filters at width 16, a stem that halves the size."""
    stem = nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
    widths = [width, width, 2 * width, 4 * width, 8 * width]
    stages = [
        nn.Sequential(Block(widths[k], widths[k + 1], 2 if k else 1), *_blocks(widths[k + 1], blocks - 1))
        for k in range(4)
    ]
    return PSPNet(Encoder(stem, stages, (4 * width, 8 * width), 2, stride), classes, dropout)


def _blocks(width: int, count: int) -> list[Block]:
    return [Block(width, width, 1) for _ in range(count)]


def _layer(inputs: int, outputs: int, size: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _pooled(inputs: int, outputs: int, bins: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(bins), *_layer(inputs, outputs, 1))


def _head(inputs: int, width: int, classes: int, dropout: float) -> nn.Module:
    return nn.Sequential(*_layer(inputs, width, 3), nn.Dropout2d(dropout), nn.Conv2d(width, classes, 1))


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    """Corner features lie on corner pixels: a stride of 2 and a padding of 1 begin at the first pixel."""
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=True)
