"""Proposals from the outputs of a region proposal network (RPN).

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
    """Decode the RPN's outputs and keep the best boxes of each image (Faster R-CNN section 3, FPN section 4.1).

    For each image and level:

    1. Drop anchors whose centre is outside the valid image, and keep the pre_nms_top_k with the greatest logits.
    2. Decode them, clip them to the valid image, and drop boxes that are not finite, empty or too small.
    3. Apply NMS and keep at most post_nms_top_k.

    Then keep the best num_proposals of each image over all levels. At equal logits the lower index comes first. There
    is no gradient.

    Args:
        logits: float32 [N, A]. Anchors with a logit that is not finite are dropped.
        deltas: float32 [N, A, 4], (dx, dy, dw, dh) relative to the anchor's size; all regression weights are 1.
        anchors: float32 [A, 4], (x1, y1, x2, y2) in pixels of the resized image, the finest level's first.
        image_sizes: int32 [N, 2], valid (h, w) of each image in pixels; the rest is padding.
        level_sizes: int32 [L], number of anchors of each level, 0 allowed; they add up to A. At most 32 levels.
        pre_nms_top_k: per level, at least 1.
        post_nms_top_k: per level, at least 1.
        num_proposals: R, at least 1.
        nms_threshold: a box is dropped if its IoU with a better one of the level is greater; not negative.
        min_size: boxes whose width or height after clipping is smaller are dropped; pixels.
        max_log_scale: upper bound of dw and dh, so that exp cannot overflow.
        keep_empty: keep boxes without width or height after clipping, as Tensorpack does.
        keep_padding_anchors: keep anchors whose centre is in the padding, as Tensorpack does. Then the proposals of an
            image depend on its padding.

    Returns:
        `GeneratedProposals`. `valid` is all False for an image without proposals.

    Raises:
        InvalidArgumentError: shapes or attributes do not fit; the message names the input.

    Examples:
        >>> anchors = [[0.0, 0, 16, 16], [8.0, 8, 24, 24]]  # one level
        >>> proposals = generate_proposals(
        ...     [[1.0, 3.0]], tf.zeros([1, 2, 4]), anchors, [[20, 20]], [2],
        ...     pre_nms_top_k=2, post_nms_top_k=2, num_proposals=3,
        ... )
        >>> proposals.boxes.numpy().tolist()  # the best first, clipped to 20 x 20 pixels; then padding
        [[[8.0, 8.0, 20.0, 20.0], [0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 0.0, 0.0]]]
        >>> proposals.valid.numpy().tolist()
        [[True, True, False]]
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
