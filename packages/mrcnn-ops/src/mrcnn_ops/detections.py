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
        boxes: float32 [N, D, 4], unchanged.
        scores: float32 [N, D].
        classes: int32 [N, D], 1 to C; 0 = none.
        roi_indices: int32 [N, D], which of the R RoIs a detection comes from.
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
    """Apply NMS to the boxes of each class whose score is high enough, then keep the best of each image.

    Each class is a list by itself (its boxes are not shifted, as some implementations do), so large coordinates keep
    their precision. At equal scores the lower class comes first, then the lower RoI. There is no gradient.

    Args:
        boxes: float32 [N, R, C, 4], one per class, or [N, R, 1, 4]; (x1, y1, x2, y2). Boxes with a NaN or infinite
            coordinate are dropped.
        scores: float32 [N, R, C]; class c + 1 is column c. A padding RoI has scores of 0. NaN and infinite scores are
            dropped.
        score_threshold: boxes with a score up to this one are dropped.
        nms_threshold: a box is dropped if its IoU with a better one of the class is greater; not negative.
        max_detections: D, at least 1.

    Returns:
        `NmsDetections`. With R or C = 0 no row is valid.

    Raises:
        InvalidArgumentError: shapes or attributes do not fit; the message names the input.

    Examples:
        >>> boxes = tf.constant([[[[0.0, 0, 10, 10]], [[0.0, 0, 10, 9]], [[20.0, 0, 30, 10]]]])  # [1, 3, 1, 4]
        >>> scores = tf.constant([[[0.9], [0.8], [0.7]]])  # [1, 3, 1]
        >>> kept = multiclass_nms(boxes, scores, score_threshold=0.5, nms_threshold=0.5, max_detections=2)
        >>> kept.roi_indices.numpy().tolist(), kept.valid.numpy().tolist()
        ([[0, 2]], [[True, True]])
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
