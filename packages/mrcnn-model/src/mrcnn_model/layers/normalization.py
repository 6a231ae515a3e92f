"""The norms after a convolution: frozen batch norm (folded into it), synchronised batch norm, and group norm.

Shapes: N images, H x W positions, C channels, G groups.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import tensorflow as tf

import mrcnn_ops

NORM_EPSILON = 1e-5  # of the pretrained ResNets, and of Wu and He 2018
MOVING_MOMENTUM = 0.9  # of the statistics that a synchronised batch norm keeps for inference, as in Tensorpack

# A function that takes float32 [...] of this process and returns its mean over all processes.
MeanOverProcesses: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


class Norm(NamedTuple):
    """A kind of norm and its options.

    Attributes:
        kind: "none" (a bias instead), "frozen_bn" (statistics of a pretrained network), "sync_bn" (statistics of the
            batch, over all processes) or "gn".
        groups: number of groups of "gn".
        epsilon: added to the variance.
        freeze_affine: scale and shift are constants.
        after_relu: "gn" comes after bias and ReLU, as in Tensorpack's pyramid and heads; otherwise between
            convolution and ReLU.
        mean_over_processes: for "sync_bn".
        fold_batch_norm, group_norm: the functions that do it, with the arguments of those of `mrcnn_ops`.
    """

    kind: str = "none"
    groups: int = 32
    epsilon: float = NORM_EPSILON
    freeze_affine: bool = False
    after_relu: bool = False
    mean_over_processes: MeanOverProcesses = tf.identity
    fold_batch_norm: Callable = mrcnn_ops.fold_batch_norm
    group_norm: Callable = mrcnn_ops.group_norm


def fold_batch_norm(
    kernel: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    *,
    epsilon: float = NORM_EPSILON,
    dtype: tf.DType = tf.float32,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute what `mrcnn_ops.fold_batch_norm` does, by TensorFlow's own ops.

    Folding saves a pass over the feature map, and oneDNN and cuDNN fuse Conv -> BiasAdd -> ReLU.
    """
    scale = gamma * tf.math.rsqrt(variance + epsilon)  # [C]
    return tf.cast(kernel * scale, dtype), beta - mean * scale


def group_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, groups: int, epsilon: float = NORM_EPSILON, relu: bool = False
) -> tf.Tensor:
    """Compute what `mrcnn_ops.group_norm` does, by TensorFlow's own ops."""

    def average(per_channel: tf.Tensor) -> tf.Tensor:
        return _group_mean(per_channel, groups)

    y, _, _ = _normalise(x, gamma, beta, average=average, epsilon=epsilon)
    return tf.nn.relu(y) if relu else y


def batch_norm(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, mean_over_processes: MeanOverProcesses, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalise every channel over the positions of all images of all processes (Ioffe and Szegedy 2015).

    The statistics include the padding and the other images, so with this norm a batch does not equal its images one by
    one. The backward pass takes means over the processes in the same way and returns the gradient of this process's
    loss: averaged over the processes, as in data-parallel training, it is the gradient of the mean loss.

    Args:
        x: [N, H, W, C] of any float type; N, H and W are the same in every process.
        gamma, beta: float32 [C].

    Returns:
        [N, H, W, C] of the type of `x`; mean and variance, float32 [C].
    """

    def average(per_channel: tf.Tensor) -> tf.Tensor:
        over_images = tf.reduce_mean(per_channel, axis=-2, keepdims=True)  # [..., 1, C]
        return tf.broadcast_to(mean_over_processes(over_images), tf.shape(per_channel))

    y, mean, variance = _normalise(x, gamma, beta, average=average, epsilon=epsilon)
    return y, mean[0], variance[0]


def _normalise(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, average: Callable[[tf.Tensor], tf.Tensor], epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute (x - mean) / std * gamma + beta, with statistics in float32.

    The forward and the backward pass are per-channel sums and one affine pass. The usual form of group norm reshapes to
    five dimensions, which costs several passes over the feature map on a CPU.

    Args:
        average: turns means over the positions of each channel, [..., N, C], into means over all channels, images and
            processes that share statistics.

    Returns:
        y [N, H, W, C] of the type of `x`; mean and variance, float32 [N, C], without a gradient.
    """

    @tf.custom_gradient
    def normalise(
        x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, tf.Tensor, tf.Tensor], Callable]:
        x32 = tf.cast(x, tf.float32)
        moments = tf.stack([tf.reduce_mean(x32, axis=[1, 2]), tf.reduce_mean(tf.square(x32), axis=[1, 2])])
        mean, mean_square = tf.unstack(average(moments))  # [N, C]
        variance = tf.maximum(mean_square - tf.square(mean), 0.0)
        inverse_std = tf.math.rsqrt(variance + epsilon)  # [N, C]
        scale = gamma * inverse_std
        y = tf.cast(_affine(x32, scale, beta - mean * scale), x.dtype)

        def gradient(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            # With xhat = (x - mean) / std: dx = (gamma dy - mean(gamma dy) - xhat mean(gamma dy xhat)) / std,
            # means over all that share statistics. All of it follows from two sums per channel.
            dy32 = tf.cast(dy, tf.float32)
            num_positions = tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
            mean_dy = tf.reduce_mean(dy32, axis=[1, 2])  # [N, C]
            mean_dy_x = tf.reduce_mean(dy32 * x32, axis=[1, 2])
            mean_dy_xhat = (mean_dy_x - mean * mean_dy) * inverse_std
            shared_dy, shared_dy_xhat = tf.unstack(average(gamma * tf.stack([mean_dy, mean_dy_xhat])))
            x_scale = -inverse_std * inverse_std * shared_dy_xhat
            shift = -inverse_std * shared_dy - mean * x_scale
            dx = dy32 * _spread(scale) + _affine(x32, x_scale, shift)
            dgamma = num_positions * tf.reduce_sum(mean_dy_xhat, axis=0)
            dbeta = num_positions * tf.reduce_sum(mean_dy, axis=0)
            return tf.cast(dx, x.dtype), dgamma, dbeta

        return (y, mean, variance), gradient

    return normalise(x, gamma, beta)


def _group_mean(per_channel: tf.Tensor, groups: int) -> tf.Tensor:
    """Replace [..., C] by the mean over each channel's group, [..., C]."""
    channels = per_channel.shape[-1]
    grouped = tf.reshape(per_channel, [-1, groups, channels // groups])
    mean = tf.reduce_mean(grouped, axis=-1, keepdims=True)
    return tf.reshape(tf.broadcast_to(mean, tf.shape(grouped)), tf.shape(per_channel))


def _spread(per_channel: tf.Tensor) -> tf.Tensor:
    """[N, C] -> [N, 1, 1, C]."""
    return per_channel[:, tf.newaxis, tf.newaxis, :]


def _affine(x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    return x * _spread(scale) + _spread(shift)
