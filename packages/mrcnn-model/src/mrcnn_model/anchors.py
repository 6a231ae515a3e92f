"""Anchors of the region proposal network (Ren et al. 2015, section 3.1.1)."""

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf


def cell_anchors(size: float, ratios: Sequence[float], *, rounded: bool = False) -> np.ndarray:
    """Make the anchors of one position, centred on (0, 0).

    Args:
        size: square root of every anchor's area, pixels.
        ratios: height / width of each.
        rounded: round to whole pixels, halves to even.

    Returns:
        float32 [len(ratios), 4], (x1, y1, x2, y2).

    >>> cell_anchors(16, [1.0, 4.0]).tolist()
    [[-8.0, -8.0, 8.0, 8.0], [-4.0, -16.0, 4.0, 16.0]]
    """
    half = [(0.5 * size / math.sqrt(r), 0.5 * size * math.sqrt(r)) for r in ratios]
    anchors = np.array([(-w, -h, w, h) for w, h in half], np.float32)
    return np.round(anchors) if rounded else anchors


def level_anchors(
    height: int | tf.Tensor,
    width: int | tf.Tensor,
    *,
    stride: int,
    size: float,
    ratios: Sequence[float],
    rounded: bool = False,
) -> tf.Tensor:
    """Make the anchors of one level: those of position (y, x) are centred on (x * stride, y * stride).

    They are computed in the graph, not stored in it: at 800 x 1344 they would take 4 MB for each bucket.

    Returns:
        float32 [height * width * len(ratios), 4], pixels of the resized image; row-major, ratios innermost.
    """
    y = tf.cast(tf.range(height) * stride, tf.float32)
    x = tf.cast(tf.range(width) * stride, tf.float32)
    grid_y, grid_x = tf.meshgrid(y, x, indexing="ij")  # [height, width]
    centres = tf.stack([grid_x, grid_y, grid_x, grid_y], axis=-1)  # [height, width, 4]
    return tf.reshape(centres[:, :, tf.newaxis, :] + cell_anchors(size, ratios, rounded=rounded), [-1, 4])
