"""Class-wise NMS over the outputs of a box head.

N images, R RoIs per image, C classes without background, D detections per image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_ops.library import raw_ops


class NmsDetections(NamedTuple):
    """Detections of N images, best first; zeros where not valid.

    Fields:
        boxes: float32 [N, D, 4], as they came in.
        scores: float32 [N, D].
        classes: int32 [N, D], 1 to C; 0 = none.
        roi_indices: int32 [N, D], which of the R RoIs it came from.
        valid: bool [N, D]; the valid ones come first.
    """

    boxes: Any
    scores: Any
    classes: Any
    roi_indices: Any
    valid: Any


def multiclass_nms(
    boxes: Any,
    scores: Any,
    *,
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> NmsDetections:
    """Keep of each class the boxes above a score that no better box of the class covers, and of each image the best.

    Classes are separate lists, not shifted copies of one plane, so large coordinates lose no precision. At equal scores
    the lower class comes first, then the lower RoI. No gradient.

    Args:
        boxes: float32 [N, R, C, 4], one per class, or [N, R, 1, 4]; (x1, y1, x2, y2). Boxes with a NaN or infinite
            coordinate are dropped.
        scores: float32 [N, R, C]; class c + 1 is column c. A padding RoI has scores of 0. NaN and
            infinity are never kept.
        score_threshold: only scores greater than this are looked at.
        nms_threshold: boxes with a greater IoU with a better one of the class are dropped; not negative.
        max_detections: D, at least 1.

    Returns:
        `NmsDetections`. R or C = 0 are allowed and give none.

    Raises:
        InvalidArgumentError: shapes or attributes do not fit; the message names the input.
    """
    return NmsDetections(
        *raw_ops.mrcnn_multiclass_nms(
            boxes=boxes,
            scores=scores,
            score_threshold=score_threshold,
            nms_threshold=nms_threshold,
            max_detections=max_detections,
        )
    )


tf.no_gradient("MrcnnMulticlassNms")
