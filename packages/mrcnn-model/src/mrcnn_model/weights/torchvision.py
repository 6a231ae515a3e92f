"""Names and layout of torchvision's ResNets and of `maskrcnn_resnet50_fpn` (state dicts saved as .safetensors or .npz).

They expect RGB images, like ours. Their mask head has an unused channel for the background. In the released COCO
detectors, the rows of the layers over classes are category ids (`class_rows`).
"""

import math
import re
from typing import Any

import numpy as np

from mrcnn_model.config import ModelConfig
from mrcnn_model.weights.layout import Arrays, HeadOptions, LayerRule, Layout
from mrcnn_model.weights.pytorch import LEAVES, read_kernel, write_kernel

RULES = (
    LayerRule("backbone.stem", "backbone.body.conv1", "backbone.body.bn1"),
    LayerRule("backbone.stage{}.block{}.conv{}", "backbone.body.layer{}.{}.conv{}", "backbone.body.layer{}.{}.bn{}"),
    LayerRule(
        "backbone.stage{}.block{}.shortcut",
        "backbone.body.layer{}.{}.downsample.0",
        "backbone.body.layer{}.{}.downsample.1",
    ),
    LayerRule("fpn.lateral{}", "backbone.fpn.inner_blocks.{}.0", "backbone.fpn.inner_blocks.{}.1", offsets=(-2,)),
    LayerRule("fpn.output{}", "backbone.fpn.layer_blocks.{}.0", "backbone.fpn.layer_blocks.{}.1", offsets=(-2,)),
    LayerRule("rpn.conv", "rpn.head.conv.0.0"),
    LayerRule("rpn.logits", "rpn.head.cls_logits"),
    LayerRule("rpn.deltas", "rpn.head.bbox_pred"),
    LayerRule("box_head.fc{}", "roi_heads.box_head.fc{}", offsets=(5,)),
    LayerRule("box_head.logits", "roi_heads.box_predictor.cls_score"),
    LayerRule("box_head.deltas", "roi_heads.box_predictor.bbox_pred"),
    LayerRule("mask_head.conv{}", "roi_heads.mask_head.{}.0", "roi_heads.mask_head.{}.1"),
    LayerRule("mask_head.upsample", "roi_heads.mask_predictor.conv5_mask"),
    LayerRule("mask_head.logits", "roi_heads.mask_predictor.mask_fcn_logits"),
)
OLDER_NAMES = (
    (r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)
MAX_LOG_SCALE = math.log(1000 / 16)


def canonical(name: str) -> str:
    """Add the prefix that the names of a ResNet do not have, and translate the names of versions before 0.15."""
    if re.match(r"(conv1|bn1|layer\d)\.", name):
        return f"backbone.body.{name}"
    old_mask = re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)", name)
    if old_mask:
        return f"roi_heads.mask_head.{int(old_mask[1]) - 1}.0.{old_mask[2]}"
    for pattern, replacement in OLDER_NAMES:
        name = re.sub(f"^{pattern}$", replacement, name)
    return name


def specific(name: str, _: ModelConfig) -> str:
    return name


def read(key: str, array: np.ndarray, options: HeadOptions) -> np.ndarray:
    array = read_kernel(key, array, options)
    return array[..., 1:] if key.startswith("mask_head.logits.") else array


def write(key: str, array: np.ndarray, options: HeadOptions) -> np.ndarray:
    if key.startswith("mask_head.logits."):
        array = np.pad(array, [(0, 0)] * (array.ndim - 1) + [(1, 0)])  # zeros for the background
    return write_kernel(key, array, options)


def conventions(_: Arrays) -> dict[str, Any]:
    return {
        "symmetric_padding": True,
        "round_anchors": True,
        "roi_align_aligned": False,
        "max_log_scale": MAX_LOG_SCALE,
        "keep_padding_anchors": True,
        "rpn_label_only_inside": False,
        "box_loss": "smooth_l1",
    }


TORCHVISION = Layout("torchvision", RULES, LEAVES, canonical, specific, read, write, conventions)
