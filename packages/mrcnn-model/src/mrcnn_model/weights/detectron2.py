"""Names and layout of detectron2's ResNet-FPN models (the "model" of a zoo file, saved as .safetensors or .npz).

They expect BGR images. Their background is the last class of the scores and has no box. Our background is the first
class and has an unused box.
"""

import math
from typing import Any

import numpy as np

from mrcnn_model.config import ModelConfig
from mrcnn_model.weights.layout import Arrays, HeadOptions, LayerRule, Layout
from mrcnn_model.weights.pytorch import LEAVES, read_kernel

_BODY = "backbone.bottom_up."
RULES = (
    LayerRule("backbone.stem", f"{_BODY}stem.conv1", f"{_BODY}stem.conv1.norm"),
    LayerRule(
        "backbone.stage{}.block{}.conv{}",
        f"{_BODY}res{{}}.{{}}.conv{{}}",
        f"{_BODY}res{{}}.{{}}.conv{{}}.norm",
        offsets=(1, 0, 0),
    ),
    LayerRule(
        "backbone.stage{}.block{}.shortcut",
        f"{_BODY}res{{}}.{{}}.shortcut",
        f"{_BODY}res{{}}.{{}}.shortcut.norm",
        offsets=(1, 0),
    ),
    LayerRule("fpn.lateral{}", "backbone.fpn_lateral{}", "backbone.fpn_lateral{}.norm"),
    LayerRule("fpn.output{}", "backbone.fpn_output{}", "backbone.fpn_output{}.norm"),
    LayerRule("rpn.conv", "proposal_generator.rpn_head.conv"),
    LayerRule("rpn.logits", "proposal_generator.rpn_head.objectness_logits"),
    LayerRule("rpn.deltas", "proposal_generator.rpn_head.anchor_deltas"),
    LayerRule("box_head.conv{}", "roi_heads.box_head.conv{}", "roi_heads.box_head.conv{}.norm", offsets=(1,)),
    LayerRule("box_head.fc{}", "roi_heads.box_head.fc{}"),
    LayerRule("box_head.logits", "roi_heads.box_predictor.cls_score"),
    LayerRule("box_head.deltas", "roi_heads.box_predictor.bbox_pred"),
    LayerRule(
        "box_head{}.conv{}", "roi_heads.box_head.{}.conv{}", "roi_heads.box_head.{}.conv{}.norm", offsets=(-1, 1)
    ),
    LayerRule("box_head{}.fc{}", "roi_heads.box_head.{}.fc{}", offsets=(-1, 0)),
    LayerRule("box_head{}.logits", "roi_heads.box_predictor.{}.cls_score", offsets=(-1,)),
    LayerRule("box_head{}.deltas", "roi_heads.box_predictor.{}.bbox_pred", offsets=(-1,)),
    LayerRule(
        "mask_head.conv{}", "roi_heads.mask_head.mask_fcn{}", "roi_heads.mask_head.mask_fcn{}.norm", offsets=(1,)
    ),
    LayerRule("mask_head.upsample", "roi_heads.mask_head.deconv"),
    LayerRule("mask_head.logits", "roi_heads.mask_head.predictor"),
)


def canonical(name: str) -> str:
    return name


def specific(name: str, _: ModelConfig) -> str:
    return name


def read(key: str, array: np.ndarray, options: HeadOptions) -> np.ndarray:
    if key == "backbone.stem.kernel":
        array = array[:, ::-1]  # BGR -> RGB
    array = read_kernel(key, array, options)
    if key.startswith("box_head") and ".logits." in key:
        return np.roll(array, 1, axis=-1)  # the background comes first
    if key.startswith("box_head") and ".deltas." in key and not options.class_agnostic_boxes:
        return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(4, 0)])  # a box for the background
    return array


def conventions(arrays: Arrays) -> dict[str, Any]:
    """Return the options of the zoo's models.

    Mean and deviation of the pixels come from the file; otherwise they are those of the Caffe backbones, which do not
    divide pixels and have the stride in the 1x1.
    """
    mean = arrays.get("pixel_mean", np.array([103.53, 116.28, 123.675]))  # BGR
    std = arrays.get("pixel_std", np.ones(3))
    return {
        "symmetric_padding": True,
        "max_log_scale": math.log(1000 / 16),
        "stride_in_1x1": bool(np.all(std == 1)) and f"{_BODY}stem.conv1.norm.running_mean" in arrays,
        "pixel_mean": [float(v) for v in np.ravel(mean)[::-1]],
        "pixel_std": [float(v) for v in np.ravel(std)[::-1]],
        "keep_padding_anchors": True,
        "rpn_label_only_inside": False,
        "box_loss": "l1",
        "train_proposals": 1000,
    }


DETECTRON2 = Layout("detectron2", RULES, LEAVES, canonical, specific, read, None, conventions)
