"""Box arithmetic, float32. Boxes are (x1, y1, x2, y2), continuous: width = x2 - x1. Any leading axes (...)."""

from collections.abc import Sequence

import tensorflow as tf

MIN_SIDE = 1e-3  # pixels; keeps the logarithm of a padded or degenerate box finite


def encode_boxes(boxes: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float]) -> tf.Tensor:
    """Express boxes relative to anchors (R-CNN, Girshick et al. 2014, appendix C).

    Args:
        boxes, anchors: float32 [..., 4].
        weights: factors of (dx, dy, dw, dh).

    Returns:
        float32 [..., 4]; finite for all boxes.
    """
    x, y, w, h = _centre_form(boxes)
    anchor_x, anchor_y, anchor_w, anchor_h = _centre_form(anchors)
    deltas = [
        (x - anchor_x) / anchor_w,
        (y - anchor_y) / anchor_h,
        tf.math.log(w / anchor_w),
        tf.math.log(h / anchor_h),
    ]
    return tf.stack(deltas, axis=-1) * tf.constant(list(weights), tf.float32)


def decode_boxes(deltas: tf.Tensor, anchors: tf.Tensor, weights: Sequence[float], *, max_log_scale: float) -> tf.Tensor:
    """Invert `encode_boxes`; dw and dh are clamped above at `max_log_scale`, so that exp stays finite."""
    deltas = deltas / tf.constant(list(weights), tf.float32)
    dx, dy, dw, dh = tf.unstack(deltas, axis=-1)
    x, y, w, h = _centre_form(anchors)
    x, y = x + dx * w, y + dy * h
    half_w = 0.5 * w * tf.exp(tf.minimum(dw, max_log_scale))
    half_h = 0.5 * h * tf.exp(tf.minimum(dh, max_log_scale))
    return tf.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=-1)


def clip_boxes(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Clip boxes [..., 4] to [0, w] x [0, h].

    Args:
        sizes: int32 (h, w), of a shape [..., 2] that broadcasts against the boxes.
    """
    height, width = tf.unstack(tf.cast(sizes, tf.float32), axis=-1)
    limits = tf.stack([width, height, width, height], axis=-1)
    return tf.minimum(tf.maximum(boxes, 0.0), limits)


def boxes_inside(boxes: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Return which anchors lie wholly inside each image.

    Args:
        boxes: float32 [A, 4].
        sizes: int32 [N, 2], (h, w).

    Returns:
        bool [N, A].
    """
    height, width = tf.unstack(tf.cast(sizes[:, tf.newaxis, :], tf.float32), axis=-1)  # [N, 1]
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)  # [A]
    return ((x1 >= 0) & (y1 >= 0))[tf.newaxis, :] & (x2 <= width) & (y2 <= height)


def generalized_iou(boxes: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Compare boxes pair by pair (Rezatofighi et al. 2019): IoU minus the share of the hull outside their union.

    Args:
        boxes, others: float32 [..., 4].

    Returns:
        float32 [...], from -1 (far apart) to 1 (equal); finite for all boxes.
    """
    low, high = tf.maximum(boxes[..., :2], others[..., :2]), tf.minimum(boxes[..., 2:], others[..., 2:])
    hull_low, hull_high = tf.minimum(boxes[..., :2], others[..., :2]), tf.maximum(boxes[..., 2:], others[..., 2:])
    intersection = tf.reduce_prod(tf.maximum(high - low, 0.0), axis=-1)
    union = _area(boxes) + _area(others) - intersection
    hull = tf.reduce_prod(tf.maximum(hull_high - hull_low, MIN_SIDE), axis=-1)
    return intersection / tf.maximum(union, MIN_SIDE**2) - (hull - union) / hull


def _area(boxes: tf.Tensor) -> tf.Tensor:
    return tf.reduce_prod(tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1)


def _centre_form(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    return (x1 + x2) * 0.5, (y1 + y2) * 0.5, tf.maximum(x2 - x1, MIN_SIDE), tf.maximum(y2 - y1, MIN_SIDE)
