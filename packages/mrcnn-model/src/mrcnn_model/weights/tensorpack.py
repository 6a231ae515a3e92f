"""Names and layout of Tensorpack's ResNets and detectors, saved as `.npz`.

They expect BGR images. Kernels are [kh, kw, in, out], like ours, except that of the transposed convolution, which is
[kh, kw, out, in]. The rows of the first fully connected layer run over (channel, y, x).
"""

import re
from typing import Any

import numpy as np

from mrcnn_model.config import ModelConfig
from mrcnn_model.weights.layout import (
    Arrays,
    HeadOptions,
    LayerRule,
    Layout,
    flat_rows_to_channels_first,
    flat_rows_to_channels_last,
    is_first_dense_kernel,
)

RULES = (
    LayerRule("backbone.stem", "conv0", "conv0/bn"),
    LayerRule(
        "backbone.stage{}.block{}.conv{}", "group{}/block{}/conv{}", "group{}/block{}/conv{}/bn", offsets=(-1, 0, 0)
    ),
    LayerRule(
        "backbone.stage{}.block{}.shortcut",
        "group{}/block{}/convshortcut",
        "group{}/block{}/convshortcut/bn",
        offsets=(-1, 0),
    ),
    LayerRule("fpn.lateral{}", "fpn/lateral_1x1_c{}", "fpn/gn_c{}"),
    LayerRule("fpn.output{}", "fpn/posthoc_3x3_p{}", "fpn/gn_p{}"),
    LayerRule("rpn.conv", "rpn/conv0"),
    LayerRule("rpn.logits", "rpn/class"),
    LayerRule("rpn.deltas", "rpn/box"),
    LayerRule("box_head.conv{}", "fastrcnn/conv{}", "fastrcnn/gn{}"),
    LayerRule("box_head.fc{}", "fastrcnn/fc{}", offsets=(5,)),
    LayerRule("box_head.logits", "fastrcnn/outputs/class"),
    LayerRule("box_head.deltas", "fastrcnn/outputs/box"),
    LayerRule("box_head{}.conv{}", "cascade_rcnn_stage{}/head/conv{}", "cascade_rcnn_stage{}/head/gn{}"),
    LayerRule("box_head{}.fc{}", "cascade_rcnn_stage{}/head/fc{}", offsets=(0, 5)),
    LayerRule("box_head{}.logits", "cascade_rcnn_stage{}/outputs/class"),
    LayerRule("box_head{}.deltas", "cascade_rcnn_stage{}/outputs/box"),
    LayerRule("mask_head.conv{}", "maskrcnn/fcn{}", "maskrcnn/gn{}"),
    LayerRule("mask_head.upsample", "maskrcnn/deconv"),
    LayerRule("mask_head.logits", "maskrcnn/conv"),
)
LEAVES = {
    "kernel": "/W",
    "bias": "/b",
    "gamma": "/gamma",
    "beta": "/beta",
    "moving_mean": "/mean/EMA",
    "moving_variance": "/variance/EMA",
}


def canonical(name: str) -> str:
    """Rename the backbone's group norm to bn, like its batch norm, and give a single fully connected layer a number."""
    name = re.sub(r"^((?:conv0|group.*)/)gn(/\w+)$", r"\1bn\2", name.removesuffix(":0"))
    return re.sub(r"^(fastrcnn|cascade_rcnn_stage\d/head)/fc(/\w)$", r"\1/fc6\2", name)


def specific(name: str, config: ModelConfig) -> str:
    """Invert `canonical` for Tensorpack's network with these options."""
    if config.norms.norm == "gn":
        name = re.sub(r"^((?:conv0|group.*)/)bn(/\w+)$", r"\1gn\2", name)
    return name.replace("/fc6/", "/fc/") if config.box.box_head_convs else name


def read(key: str, array: np.ndarray, options: HeadOptions) -> np.ndarray:
    if is_first_dense_kernel(key):
        return flat_rows_to_channels_last(array, pool_size=options.box_pool_size)
    return _turned(key, array)


def write(key: str, array: np.ndarray, options: HeadOptions) -> np.ndarray:
    if is_first_dense_kernel(key):
        return flat_rows_to_channels_first(array, pool_size=options.box_pool_size)
    return _turned(key, array)


def _turned(key: str, array: np.ndarray) -> np.ndarray:
    """Turn colours and transposed kernels; done twice, it changes nothing."""
    if key == "backbone.stem.kernel":
        return array[:, :, ::-1, :]  # BGR <-> RGB
    if key == "mask_head.upsample.kernel":
        return array.transpose(0, 1, 3, 2)  # [kh, kw, out, in] <-> [kh, kw, in, out]
    return array


def conventions(_: Arrays) -> dict[str, Any]:
    """Return the options that differ from the defaults of `ModelConfig`, which follow Tensorpack."""
    return {"keep_empty_proposals": True, "keep_padding_anchors": True}


TENSORPACK = Layout("Tensorpack", RULES, LEAVES, canonical, specific, read, write, conventions)
