"""Find the architecture of a network by the shapes of its variables."""

import math
from typing import Any

from mrcnn_model.weights.layout import Arrays

BASIC_DEPTHS = {2: "resnet18", 6: "resnet34"}  # by the blocks of stage 3
BOTTLENECK_DEPTHS = {6: "resnet50", 23: "resnet101", 36: "resnet152"}


def architecture(arrays: Arrays) -> dict[str, Any]:
    """Return the options of `ModelConfig` that the shapes of arrays, named by our keys, determine.

    Options of missing parts are left out. A box head with a single box is read as class-agnostic.
    """
    return _backbone(arrays) | _pyramid(arrays) | _box_head(arrays) | _mask_head(arrays)


def _backbone(arrays: Arrays) -> dict[str, Any]:
    if "backbone.stem.kernel" not in arrays:
        return {}
    depths = BOTTLENECK_DEPTHS if "backbone.stage1.block0.conv3.kernel" in arrays else BASIC_DEPTHS
    num_blocks = _count(arrays, "backbone.stage3.block{}.conv1.kernel")
    fields: dict[str, Any] = {"backbone_width": arrays["backbone.stem.kernel"].shape[-1]}
    if num_blocks in depths:
        fields["backbone"] = depths[num_blocks]
    if "backbone.stem.gamma" in arrays:
        fields["norm"] = "frozen_bn" if "backbone.stem.moving_mean" in arrays else "gn"
    return fields


def _pyramid(arrays: Arrays) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "fpn.output2.kernel" in arrays:
        fields["fpn_channels"] = arrays["fpn.output2.kernel"].shape[-1]
        fields["fpn_norm"] = "gn" if "fpn.output2.gamma" in arrays else "none"
        fields["gn_after_relu"] = "fpn.output2.gamma" in arrays and "fpn.output2.bias" in arrays
    if "rpn.conv.kernel" in arrays:
        fields["rpn_channels"] = arrays["rpn.conv.kernel"].shape[-1]
    return fields


def _box_head(arrays: Arrays) -> dict[str, Any]:
    cascade = "box_head1.logits.kernel" in arrays
    head = "box_head1" if cascade else "box_head"
    if not {f"{head}.{layer}.kernel" for layer in ("fc1", "logits", "deltas")} <= arrays.keys():
        return {}
    inputs, channels = arrays[f"{head}.fc1.kernel"].shape
    num_classes = arrays[f"{head}.logits.kernel"].shape[-1]
    has_norm = f"{head}.conv0.gamma" in arrays
    fields: dict[str, Any] = {
        "num_classes": num_classes,
        "cascade": cascade,
        "box_head_convs": _count(arrays, f"{head}.conv{{}}.kernel"),
        "box_head_fcs": _count(arrays, f"{head}.fc{{}}.kernel", first=1),
        "box_head_channels": channels,
        "head_norm": "gn" if has_norm else "none",
        "class_agnostic_boxes": not cascade and arrays[f"{head}.deltas.kernel"].shape[-1] == 4,
        "masks": "mask_head.logits.kernel" in arrays,
    }
    if has_norm:
        fields["gn_after_relu"] = f"{head}.conv0.bias" in arrays
    if "fpn.output2.kernel" in arrays:
        fields["box_pool_size"] = math.isqrt(inputs // arrays["fpn.output2.kernel"].shape[-1])
    return fields


def _mask_head(arrays: Arrays) -> dict[str, Any]:
    if "mask_head.upsample.kernel" not in arrays:
        return {}
    fields: dict[str, Any] = {
        "mask_head_channels": arrays["mask_head.upsample.kernel"].shape[-1],
        "mask_head_convs": _count(arrays, "mask_head.conv{}.kernel"),
    }
    if "mask_head.conv0.gamma" in arrays:
        fields["head_norm"] = "gn"
        fields["gn_after_relu"] = "mask_head.conv0.bias" in arrays
    return fields


def _count(arrays: Arrays, template: str, *, first: int = 0) -> int:
    """Count the layers of one kind, which are numbered from `first`."""
    number = first
    while template.format(number) in arrays:
        number += 1
    return number - first
