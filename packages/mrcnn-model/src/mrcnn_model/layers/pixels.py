"""Normalise images. Shapes: N images, H x W padded size."""

from collections.abc import Sequence

import tensorflow as tf


def normalise_images(
    images: tf.Tensor, image_sizes: tf.Tensor, *, mean: Sequence[float], std: Sequence[float]
) -> tf.Tensor:
    """Subtract the mean, divide by the standard deviation, and set the padding to zero.

    Zero padding is not zero after normalisation, so it is set to zero again: the network sees the same border in every
    bucket.

    Args:
        images: uint8 or float [N, H, W, 3], RGB, 0 to 255.
        image_sizes: int32 [N, 2], (h, w).
        mean, std: of R, G and B.

    Returns:
        float32 [N, H, W, 3].
    """
    # One multiply-add per pixel: x / std - mean / std.
    scale = 1.0 / tf.constant(std, tf.float32)
    shift = -tf.constant(mean, tf.float32) * scale
    normalised = tf.cast(images, tf.float32) * scale + shift
    height, width = map_size(images)
    rows = tf.range(height)[tf.newaxis, :] < image_sizes[:, :1]  # [N, H]
    columns = tf.range(width)[tf.newaxis, :] < image_sizes[:, 1:]  # [N, W]
    inside = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]  # [N, H, W, 1]
    return tf.where(inside, normalised, 0.0)


def map_size(features: tf.Tensor) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Return (height, width) of [N, H, W, C]: a static edge as a number, another one as a tensor."""
    dynamic = tf.shape(features)
    height, width = features.shape[1], features.shape[2]
    return (dynamic[1] if height is None else height), (dynamic[2] if width is None else width)
