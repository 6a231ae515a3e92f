"""Frozen batch norm folded into a convolution, and group norm.

Shapes: N images, H x W positions, C channels, G groups.
"""

from collections.abc import Callable

import tensorflow as tf

BATCH_NORM_EPSILON = 1e-5  # of the pretrained ResNets
GROUP_NORM_EPSILON = 1e-5


def fold_batch_norm(
    kernel: tf.Tensor, *, gamma: tf.Tensor, beta: tf.Tensor, mean: tf.Tensor, variance: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Fold a batch norm with fixed statistics into the convolution before it.

    W' = W gamma / sqrt(variance + eps), b' = beta - mean gamma / sqrt(variance + eps). One pass over the feature map
    less than normalising it, and Conv -> BiasAdd -> ReLU is what oneDNN and cuDNN fuse. Gradients reach W, gamma, beta.

    Args:
        kernel: float32 [kh, kw, C_in, C], HWIO.
        gamma, beta, mean, variance: float32 [C].

    Returns:
        The kernel [kh, kw, C_in, C] and bias [C] of the folded convolution, float32.
    """
    scale = gamma * tf.math.rsqrt(variance + BATCH_NORM_EPSILON)  # [C]
    return kernel * scale, beta - mean * scale


def group_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, groups: int) -> tf.Tensor:
    """Normalise every image over the positions and channels of each group (Wu and He 2018).

    Statistics in float32. Written as per-channel sums and one affine pass (and the same backward): the textbook form
    reshapes to five dimensions, which costs several passes over the feature map on a CPU.

    Args:
        x: [N, H, W, C] of any float type.
        gamma, beta: float32 [C].
        groups: divides C.

    Returns:
        [N, H, W, C] of the type of `x`.
    """

    @tf.custom_gradient
    def normalise(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        x32 = tf.cast(x, tf.float32)
        mean = _group_mean(tf.reduce_mean(x32, axis=[1, 2]), groups)  # [N, C]
        mean_square = _group_mean(tf.reduce_mean(tf.square(x32), axis=[1, 2]), groups)  # [N, C]
        variance = tf.maximum(mean_square - tf.square(mean), 0.0)
        inverse_std = tf.math.rsqrt(variance + GROUP_NORM_EPSILON)  # [N, C]
        scale = gamma * inverse_std
        y = tf.cast(_affine(x32, scale, beta - mean * scale), x.dtype)

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # With xhat = (x - mean) / std: dx = (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)) / std,
            # means over the group. All of it follows from two sums per channel.
            dy32 = tf.cast(dy, tf.float32)
            num_positions = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
            mean_dy = tf.reduce_mean(dy32, axis=[1, 2])  # [N, C]
            mean_dy_x = tf.reduce_mean(dy32 * x32, axis=[1, 2])
            mean_dy_xhat = (mean_dy_x - mean * mean_dy) * inverse_std
            group_dy = _group_mean(gamma * mean_dy, groups)
            group_dy_xhat = _group_mean(gamma * mean_dy_xhat, groups)
            x_scale = -inverse_std * inverse_std * group_dy_xhat
            shift = -inverse_std * group_dy - mean * x_scale
            dx = dy32 * _spread(scale) + _affine(x32, x_scale, shift)
            dgamma = num_positions * tf.reduce_sum(mean_dy_xhat, axis=0)
            dbeta = num_positions * tf.reduce_sum(mean_dy, axis=0)
            return tf.cast(dx, x.dtype), dgamma, dbeta

        return y, gradient

    return normalise(x, gamma, beta)


def _group_mean(per_channel: tf.Tensor, groups: int) -> tf.Tensor:
    """Replace [N, C] by the mean over each channel's group, [N, C]."""
    channels = per_channel.shape[-1]
    grouped = tf.reshape(per_channel, [-1, groups, channels // groups])
    mean = tf.reduce_mean(grouped, axis=-1, keepdims=True)
    return tf.reshape(tf.broadcast_to(mean, tf.shape(grouped)), [-1, channels])


def _spread(per_channel: tf.Tensor) -> tf.Tensor:
    """[N, C] -> [N, 1, 1, C]."""
    return per_channel[:, tf.newaxis, tf.newaxis, :]


def _affine(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    return x * _spread(scale) + _spread(shift)
