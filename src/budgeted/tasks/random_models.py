"""Random architectures: ResNet-18 with skip connections added, layers removed, numbers of filters changed (Li et al., appendix A)."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

_MOST = 12  # modifications of one architecture
_SCALES = (0.25, 0.5, 1.5, 2.0)  # by which a number of filters is changed


@dataclass(slots=True)
class Layer:
    """A 3x3 convolution: its filters, and whether batch norm follows."""

    filters: int
    norm: bool = True


@dataclass(slots=True)
class BlockPlan:
    """A residual block: its convolutions, none of which may be left, its stride, and whether it has a shortcut."""

    layers: list[Layer]
    stride: int
    shortcut: bool = True


@final
@dataclass(slots=True)
class Plan:
    """What an architecture is made of.

    Args:
        stem: filters of the first convolution.
        blocks: in order.
        skips: pairs of blocks, of which the output of the first is added to that of the second.
        changes: what was done to ResNet-18, in words.
    """

    stem: int
    blocks: list[BlockPlan]
    skips: list[tuple[int, int]] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


def random_plan(seed: int, width: int = 64) -> Plan:
    """ResNet-18 after 1 to 12 random modifications, the same ones for the same seed at every width.

    Each adds a skip connection between two blocks, removes a layer (a convolution with its batch norm, a batch norm alone,
    or a block's shortcut), or makes the filters of a convolution a quarter, half, one and a half times or twice as many.

    Args:
        seed: of the draw.
        width: filters of the first stage of the ResNet-18 that is modified; 64 is the paper's.

    >>> random_plan(0).changes == random_plan(0, width=8).changes
    True
    """
    drawn = random.Random(seed)
    widths = [width * 2**stage for stage in range(4) for _ in range(2)]
    strides = [2 if k in (2, 4, 6) else 1 for k in range(8)]
    plan = Plan(width, [BlockPlan([Layer(w), Layer(w)], s) for w, s in zip(widths, strides, strict=True)])
    for _ in range(drawn.randint(1, _MOST)):
        drawn.choice((_add_skip, _remove_layer, _change_filters))(plan, drawn)
    return plan


def _add_skip(plan: Plan, drawn: random.Random) -> None:
    first, second = sorted(drawn.sample(range(len(plan.blocks)), 2))
    if (first, second) not in plan.skips:
        plan.skips.append((first, second))
        plan.changes.append(f"skip from block {first} to {second}")


def _remove_layer(plan: Plan, drawn: random.Random) -> None:
    number = drawn.randrange(len(plan.blocks))
    block, what = plan.blocks[number], drawn.choice(("convolution", "norm", "shortcut"))
    if what == "shortcut":
        block.shortcut = False
    elif block.layers:
        place = drawn.randrange(len(block.layers))
        if what == "convolution":
            del block.layers[place]
        else:
            block.layers[place].norm = False
    plan.changes.append(f"no {what} in block {number}")


def _change_filters(plan: Plan, drawn: random.Random) -> None:
    number, scale, place = drawn.randrange(len(plan.blocks)), drawn.choice(_SCALES), drawn.random()
    layers = plan.blocks[number].layers
    if layers:
        layer = layers[int(place * len(layers))]
        layer.filters = max(1, round(layer.filters * scale))
        plan.changes.append(f"{scale:g} times the filters in block {number}")


class RandomBlock(nn.Module):
    """The convolutions of one block and its shortcut; what has no layer left only halves the size where its stride does."""

    def __init__(self, inputs: int, plan: BlockPlan) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, stride = inputs, plan.stride
        for place, layer in enumerate(plan.layers):
            layers.append(nn.Conv2d(channels, layer.filters, 3, stride, 1, bias=not layer.norm))
            if layer.norm:
                layers.append(nn.BatchNorm2d(layer.filters))
            if place < len(plan.layers) - 1:
                layers.append(nn.ReLU(inplace=True))
            channels, stride = layer.filters, 1
        if not layers and plan.stride > 1:
            layers.append(nn.AvgPool2d(plan.stride, ceil_mode=True))
        self.body, self.outputs = nn.Sequential(*layers), channels
        self.shortcut: nn.Module | None = None
        if plan.shortcut and plan.layers:
            self.shortcut = nn.Identity()
            if plan.stride != 1 or inputs != channels:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, channels, 1, plan.stride, bias=False), nn.BatchNorm2d(channels)
                )

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return torch.relu(y if self.shortcut is None else y + self.shortcut(x))


class RandomResNet(nn.Module):
    """The network of a plan, for small images; a skip connection is a 1x1 convolution where channels differ, after pooling where sizes do.

    Args:
        plan: as `random_plan` draws it.
        channels: of the images.
        classes: of the labels.
        stem_stride: 2 halves the images at once.
    """

    def __init__(self, plan: Plan, channels: int, classes: int, stem_stride: int = 1) -> None:
        super().__init__()
        self.plan = plan
        self.stem = nn.Sequential(
            nn.Conv2d(channels, plan.stem, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(plan.stem), nn.ReLU(True)
        )
        blocks, inputs = [], plan.stem
        for block in plan.blocks:
            blocks.append(RandomBlock(inputs, block))
            inputs = blocks[-1].outputs
        self.blocks = nn.ModuleList(blocks)
        outputs = [block.outputs for block in blocks]
        self.skips = nn.ModuleDict(
            {
                f"{first}-{second}": nn.Identity()
                if outputs[first] == outputs[second]
                else nn.Conv2d(outputs[first], outputs[second], 1, bias=False)
                for first, second in plan.skips
            }
        )
        self.head = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        outputs: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            x = block(x)
            for first, second in self.plan.skips:
                if second == number:
                    skipped = nn.functional.adaptive_avg_pool2d(outputs[first], (x.shape[2], x.shape[3]))
                    x = x + self.skips[f"{first}-{second}"](skipped)
            outputs.append(x)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def random_resnet(channels: int, classes: int, stem_stride: int, seed: int = 0, width: int = 64) -> RandomResNet:
    """The network of a random plan, its weights not drawn by that seed but by torch's own generator."""
    return RandomResNet(random_plan(seed, width), channels, classes, stem_stride)
