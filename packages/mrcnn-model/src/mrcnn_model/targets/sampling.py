"""Choose foreground and background candidates at random, reproducibly per image.

Shapes: N images, K candidates, S samples. Every draw depends only on the seed of its image, so a batch gives the same
samples as its images one by one, on any number of processes.
"""

import tensorflow as tf

from mrcnn_model.structures import Samples

# int64 throughout: TensorFlow runs int32 arithmetic of GPU graphs on the host, and each tensor from the device waits.
_MASK32 = 0xFFFFFFFF


def sample_candidates(
    foreground: tf.Tensor,
    background: tf.Tensor,
    seeds: tf.Tensor,
    *,
    num_samples: int,
    max_foreground: int,
    salt: int,
) -> Samples:
    """Choose up to `num_samples` candidates of each image at random, at most `max_foreground` of them foreground.

    Background fills the rest (Ren et al. 2015, section 3.1.3). There is no loop over images and no dynamic shape.

    Args:
        foreground, background: bool [N, K], disjoint.
        seeds: int32 [N, 2].
        salt: makes different draws of an image independent.

    Returns:
        Samples with S = min(num_samples, K), foreground first. Without candidates, nothing is sampled.
    """
    num_candidates = foreground.shape[1] if foreground.shape[1] is not None else tf.shape(foreground)[1]
    static = isinstance(num_candidates, int)
    num_samples = min(num_samples, num_candidates) if static else tf.minimum(num_samples, num_candidates)
    priority = per_image_uniform(seeds, num_candidates, salt=salt)  # [N, K] in [0, 1)

    # The chosen foreground has the highest keys (2 + u), then come background (1 + u) and the rest (0).
    max_foreground = min(max_foreground, num_samples) if static else tf.minimum(max_foreground, num_samples)
    best, _ = tf.math.top_k(tf.where(foreground, priority, -1.0), k=max_foreground)  # [N, F]
    chosen = foreground & (priority >= best[:, -1:])
    key = tf.where(chosen, 2.0 + priority, tf.where(background, 1.0 + priority, 0.0))
    key, indices = tf.math.top_k(key, k=num_samples)  # [N, S]
    sampled = key >= 1.0
    indices = tf.where(sampled, tf.cast(indices, tf.int64), 0)
    return Samples(indices=indices, foreground=key >= 2.0, sampled=sampled)


def per_image_uniform(seeds: tf.Tensor, count: int | tf.Tensor, *, salt: int) -> tf.Tensor:
    """Hash (seed, salt, position) to uniform numbers: row i depends on seeds[i] only.

    `tf.random.stateless_uniform` takes one seed per call, which would need a loop over the images.

    Args:
        seeds: int32 [N, 2].
        count: how many numbers per image.

    Returns:
        float32 [N, count] in [0, 1), multiples of 2^-23, so that adding 1 or 2 keeps their order to 2^-22.
    """
    words = tf.bitwise.bitwise_and(tf.cast(seeds, tf.int64), _MASK32)
    state = _mix(
        tf.bitwise.bitwise_xor(words[:, 0], _mix(tf.bitwise.bitwise_xor(words[:, 1], tf.constant(salt, tf.int64))))
    )
    positions = tf.range(count, dtype=tf.int64) * 0x9E3779B1
    positions = tf.bitwise.bitwise_and(positions, _MASK32)
    bits = _mix(tf.bitwise.bitwise_xor(state[:, tf.newaxis], positions[tf.newaxis, :]))
    return tf.cast(tf.bitwise.right_shift(bits, 9), tf.float32) * 2.0**-23


def _mix(x: tf.Tensor) -> tf.Tensor:
    """Apply the 32-bit finaliser of MurmurHash3 to int64 words below 2^32 (products wrap; their low bits are right)."""
    for shift, multiplier in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.int64)))
        x = tf.bitwise.bitwise_and(x * multiplier, _MASK32)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(16, tf.int64)))
