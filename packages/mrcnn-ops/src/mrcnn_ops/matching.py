"""Matching of boxes (anchors or RoIs) with ground truths.

N images, A boxes per image, G ground truths, K crowds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from mrcnn_ops.library import raw_ops


class BoxMatches(NamedTuple):
    """The best ground truth of each box, and the overlap with crowds.

    Fields:
        best_iou: float32 [N, A], greatest IoU with a ground truth.
        best_gt: int32 [N, A], the index of that ground truth. At equal IoU the lowest index, so the first valid one
            where all IoUs are 0. -1 if the image has no ground truth or the box is not valid.
        is_best_for_gt: bool [N, A], whether for some ground truth this box has the greatest IoU of all boxes, above 0.
            Several boxes may tie.
        crowd_overlap: float32 [N, A], greatest share of the box's area that lies inside one crowd box.
    """

    best_iou: Any
    best_gt: Any
    is_best_for_gt: Any
    crowd_overlap: Any


def match_boxes(
    boxes: Any,
    gt_boxes: Any,
    gt_valid: Any,
    crowd_boxes: Any,
    *,
    boxes_valid: Any | None = None,
) -> BoxMatches:
    """Find for every box its best ground truth, and for every ground truth its best boxes (Faster R-CNN section 3.1.2).

    Memory does not grow with A x G. There is no gradient.

    Args:
        boxes: float32 [A, 4], the same for all images, or [N, A, 4]; (x1, y1, x2, y2) in pixels of the resized image.
        gt_boxes: float32 [N, G, 4], in the same frame.
        gt_valid: bool [N, G], False for padding.
        crowd_boxes: float32 [N, K, 4]; a row of zeros is padding.
        boxes_valid: bool [N, A]. A box that is not valid gets IoU 0, ground truth -1, crowd overlap 0, and is never
            the best of a ground truth. None: all boxes are valid.

    Returns:
        `BoxMatches`. A box with a NaN coordinate overlaps nothing. A, G or K = 0 are allowed.

    Raises:
        InvalidArgumentError: shapes do not fit; the message names the input.

    Examples:
        >>> anchors = [[0.0, 0, 10, 10], [0.0, 0, 10, 5], [50.0, 50, 60, 60]]
        >>> matches = match_boxes(anchors, [[[0.0, 0, 10, 10]]], [[True]], tf.zeros([1, 0, 4]))
        >>> matches.best_iou.numpy().tolist(), matches.is_best_for_gt.numpy().tolist()
        ([[1.0, 0.5, 0.0]], [[True, False, False]])
    """
    boxes = tf.convert_to_tensor(boxes, tf.float32)
    if boxes.shape.rank not in (2, 3):
        raise ValueError(f"boxes must have shape [A, 4] or [N, A, 4], got {boxes.shape}")
    best_iou, best_gt, is_best_for_gt, crowd_overlap = raw_ops.mrcnn_match_boxes(
        boxes=boxes,
        boxes_valid=tf.zeros([0, 0], tf.bool) if boxes_valid is None else boxes_valid,
        gt_boxes=gt_boxes,
        gt_valid=gt_valid,
        crowd_boxes=crowd_boxes,
        boxes_are_shared=boxes.shape.rank == 2,
        all_boxes_valid=boxes_valid is None,
    )
    return BoxMatches(best_iou, best_gt, is_best_for_gt, crowd_overlap)


tf.no_gradient("MrcnnMatchBoxes")
