"""torchvision's Mask R-CNN (He et al. 2017) with a feature pyramid, and a narrow one for CPUs."""

from __future__ import annotations

from typing import Any, cast

import torchvision
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d

from .annotations import LABELS
from .pretrained import Backbone

SIDE, LONGEST = 800, 1333  # pixels of the recipe's images
_CLASSES = LABELS + 1  # with the background


def resnet50_fpn(size: int, backbone: Backbone) -> nn.Module:
    """As torchvision's `maskrcnn_resnet50_fpn`.

    With a pretrained backbone its batch norm is frozen, and its stem and first stage are; from scratch all is trained, batch norm
    as well.

    Args:
        size: pixels of an image's shorter side.
        backbone: weights to begin with, or none.
    """
    pretrained = backbone.weights is not None
    body = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d if pretrained else nn.BatchNorm2d,
        trainable_layers=3 if pretrained else 5,
    )
    backbone.load_into(body.body)
    return _exact(MaskRCNN(body, _CLASSES, **_scaled(size)))


def resnet18_fpn(size: int, width: int = 64, regions: int = 64) -> nn.Module:
    """A narrow one on a ResNet-18, from scratch.

    Args:
        size: pixels of an image's shorter side.
        width: channels of the pyramid and the heads; torchvision's have 256.
        regions: of an image whose class is learned from at an update; torchvision's are 512.
    """
    body = torchvision.models.resnet18()
    stages = {f"layer{stage}": str(stage - 1) for stage in (1, 2, 3, 4)}
    return _exact(
        MaskRCNN(
            BackboneWithFPN(body, stages, [64, 128, 256, 512], width),
            box_head=TwoMLPHead(width * 7 * 7, 4 * width),
            box_predictor=FastRCNNPredictor(4 * width, _CLASSES),
            mask_head=MaskRCNNHeads(width, [width] * 4, 1),
            mask_predictor=MaskRCNNPredictor(width, width, _CLASSES),
            box_batch_size_per_image=regions,
            rpn_pre_nms_top_n_train=500,
            rpn_post_nms_top_n_train=500,
            rpn_pre_nms_top_n_test=300,
            rpn_post_nms_top_n_test=300,
            **_scaled(size),
        )
    )


def longest(size: int) -> int:
    """Pixels of the longer side at most, in the recipe's proportion to the shorter one."""
    return round(size * LONGEST / SIDE)


def anchors(size: int) -> tuple[int, ...]:
    """Sides of the anchors at the five levels: the recipe's 32 to 512, in proportion to the images."""
    return tuple(max(4, round(side * size / SIDE)) for side in (32, 64, 128, 256, 512))


def _scaled(size: int) -> dict[str, Any]:
    generator = AnchorGenerator(tuple((side,) for side in anchors(size)), ((0.5, 1.0, 2.0),) * 5)
    return {"min_size": size, "max_size": longest(size), "rpn_anchor_generator": generator}


def _exact(model: Any) -> nn.Module:
    """Coordinates and masks in float32 whatever autocast does: bf16 has no odd pixels beyond 256.

    torchvision computes anchors and boxes in the number format of features and of what the heads give.
    """
    model.rpn.anchor_generator.register_forward_pre_hook(_of_float_maps)
    for head in (model.rpn.head, model.roi_heads.box_predictor, model.roi_heads.mask_predictor):
        head.register_forward_hook(_as_float)
    return cast(nn.Module, model)


def _of_float_maps(_: nn.Module, given: tuple[Any, list[Tensor]]) -> tuple[Any, list[Tensor]]:
    images, maps = given
    # Height, width, device and number format are all that is read of them.
    return images, [one[:1, :1].float() for one in maps]


def _as_float(_: nn.Module, __: Any, found: Any) -> Any:
    if isinstance(found, Tensor):
        return found.float()
    return type(found)(_as_float(_, __, part) for part in found)
