"""Resize images in the graph, for exported models. Shapes: N images of H x W, padded to H' x W' after resizing."""

import tensorflow as tf


def resize_images(
    images: tf.Tensor, sizes: tf.Tensor, *, short_edge: int, max_size: int, multiple: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale every image so that its short edge is `short_edge` and its long one at most `max_size`.

    Values are interpolated bilinearly between pixel centres, with edges repeated, and rounded to whole numbers, as for
    training.

    Args:
        images: uint8 [N, H, W, 3]; pixels outside `sizes` are not read.
        sizes: int32 [N, 2], valid (h, w); if one is 0, the image counts as a black pixel.
        short_edge, max_size: pixels.
        multiple: H' and W' are the smallest multiples of this number that fit all images.

    Returns:
        Images float32 [N, H', W', 3], whole numbers, zero outside the new sizes; new sizes int32 [N, 2].
    """
    has_pixels = tf.reduce_all(sizes > 0, axis=1, keepdims=True)  # [N, 1]
    sizes = tf.where(has_pixels, sizes, 1)
    lacking = 1 - tf.minimum(tf.shape(images)[1:3], 1)  # (h, w): 1 where the array has no pixel
    images = tf.pad(images, [[0, 0], [0, lacking[0]], [0, lacking[1]], [0, 0]])
    edges = tf.cast(sizes, tf.float64)  # [N, 2]
    scale = tf.minimum(short_edge / tf.reduce_min(edges, axis=1), max_size / tf.reduce_max(edges, axis=1))
    new_sizes = tf.maximum(tf.cast(tf.floor(edges * scale[:, tf.newaxis] + 0.5), tf.int32), 1)
    new_sizes = tf.where(has_pixels, new_sizes, 1)
    padded = (tf.reduce_max(new_sizes, axis=0) + multiple - 1) // multiple * multiple  # (h, w)
    above, below, y = _taps(sizes[:, 0], new_sizes[:, 0], padded[0])
    left, right, x = _taps(sizes[:, 1], new_sizes[:, 1], padded[1])
    rows = _mix(tf.gather(images, above, batch_dims=1), tf.gather(images, below, batch_dims=1), y[:, :, None, None])
    resized = _mix(
        tf.gather(rows, left, axis=2, batch_dims=1), tf.gather(rows, right, axis=2, batch_dims=1), x[:, None, :, None]
    )
    is_row = tf.range(padded[0]) < new_sizes[:, :1]
    is_column = tf.range(padded[1]) < new_sizes[:, 1:]
    inside = is_row[:, :, tf.newaxis, tf.newaxis] & is_column[:, tf.newaxis, :, tf.newaxis]
    inside &= has_pixels[:, :, tf.newaxis, tf.newaxis]
    return tf.where(inside, tf.floor(resized + 0.5), 0.0), new_sizes


def _taps(length: tf.Tensor, new_length: tf.Tensor, padded: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the two old pixels on either side of each new one, int32 [N, padded], and the weight of the second."""
    step = tf.cast(length, tf.float32) / tf.cast(new_length, tf.float32)  # [N]
    position = (tf.range(tf.cast(padded, tf.float32)) + 0.5) * step[:, tf.newaxis] - 0.5
    last = tf.cast(length - 1, tf.float32)[:, tf.newaxis]
    position = tf.clip_by_value(position, 0.0, last)
    before = tf.floor(position)
    return tf.cast(before, tf.int32), tf.cast(tf.minimum(before + 1.0, last), tf.int32), position - before


def _mix(first: tf.Tensor, second: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    first, second = tf.cast(first, tf.float32), tf.cast(second, tf.float32)
    return first + (second - first) * weight
