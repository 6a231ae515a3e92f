"""Proposals from the outputs of a region proposal network.

N images, A anchors over all levels, L levels, R proposals per image.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_ops.library import raw_ops

MAX_LOG_SCALE = math.log(1333 / 16)  # a 16 px anchor grown to the longest edge


class GeneratedProposals(NamedTuple):
    """Proposals of N images, best first.

    Fields:
        boxes: float32 [N, R, 4], (x1, y1, x2, y2) in pixels of the resized image, inside the valid image; zeros where
            not valid.
        scores: float32 [N, R], logits; zeros where not valid.
        valid: bool [N, R]; the valid ones come first.
    """

    boxes: Any
    scores: Any
    valid: Any


def generate_proposals(
    logits: Any,
    deltas: Any,
    anchors: Any,
    image_sizes: Any,
    level_sizes: Any,
    *,
    pre_nms_top_k: int,
    post_nms_top_k: int,
    num_proposals: int,
    nms_threshold: float = 0.7,
    min_size: float = 0.0,
    max_log_scale: float = MAX_LOG_SCALE,
    keep_empty: bool = False,
    keep_padding_anchors: bool = False,
) -> GeneratedProposals:
    """Turn anchors, logits and deltas into the best boxes of each image (Faster R-CNN section 3, FPN section 4.1).

    For each image and level: anchors centred beyond the valid image are dropped; the best pre_nms_top_k by logit are
    decoded, clipped to the valid image, and dropped where non-finite, empty or too small; NMS keeps at most
    post_nms_top_k. For each image the best num_proposals over levels remain. At equal logits the lower index comes
    first. No gradient.

    Args:
        logits: float32 [N, A]. Non-finite ones are dropped.
        deltas: float32 [N, A, 4], (dx, dy, dw, dh) relative to the anchor's size, regression weights 1.
        anchors: float32 [A, 4], (x1, y1, x2, y2) in pixels of the resized image, the finest level's first.
        image_sizes: int32 [N, 2], valid (h, w) of each image within the padded canvas, pixels.
        level_sizes: int32 [L], anchors per level, at most 32 levels; they add up to A. 0 is allowed.
        pre_nms_top_k: per level, at least 1.
        post_nms_top_k: per level, at least 1.
        num_proposals: R, at least 1.
        nms_threshold: boxes with a greater IoU with a better one of the level are dropped; not negative.
        min_size: pixels; boxes with a smaller width or height after clipping are dropped.
        max_log_scale: upper bound of dw and dh, so that exp cannot overflow.
        keep_empty: keep boxes that clipping left without width or height (as the ancestor does).
        keep_padding_anchors: keep anchors centred in the padding (as the ancestor does). A batch then differs from its
            images.

    Returns:
        `GeneratedProposals`. An image without any has valid all False.

    Raises:
        InvalidArgumentError: shapes or attributes do not fit; the message names the input.
    """
    boxes, scores, valid = raw_ops.mrcnn_generate_proposals(
        logits=logits,
        deltas=deltas,
        anchors=anchors,
        image_sizes=image_sizes,
        level_sizes=level_sizes,
        pre_nms_top_k=pre_nms_top_k,
        post_nms_top_k=post_nms_top_k,
        num_proposals=num_proposals,
        nms_threshold=nms_threshold,
        min_size=min_size,
        max_log_scale=max_log_scale,
        keep_empty=keep_empty,
        keep_padding_anchors=keep_padding_anchors,
    )
    return GeneratedProposals(boxes, scores, valid)


tf.no_gradient("MrcnnGenerateProposals")
