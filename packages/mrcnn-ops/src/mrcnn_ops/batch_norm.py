"""Folding of a batch norm with fixed statistics into the convolution before it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrcnn_ops.library import raw_ops


def fold_batch_norm(
    kernel: Any, gamma: Any, beta: Any, mean: Any, variance: Any, *, epsilon: float, dtype: Any = tf.float32
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the kernel and the bias of a convolution that equals the given one followed by the batch norm.

    W' = W gamma / sqrt(variance + epsilon), b' = beta - mean gamma / sqrt(variance + epsilon). Folding and its gradient
    are one op each, where TensorFlow's own ops are twenty for each convolution of a training step.

    Args:
        kernel: float32 [kh, kw, C_in, C], HWIO.
        gamma, beta, mean, variance: float32 [C].
        dtype: of W': float32, float16 or bfloat16. The arithmetic is in float32.

    Returns:
        W' [kh, kw, C_in, C] of type `dtype`, and b', float32 [C]. Gradients reach kernel, gamma and beta: float32, with
        sums that do not depend on the number of threads. Mean and variance have none.

    Raises:
        InvalidArgumentError: shapes do not fit; the message names the input.

    Examples:
        >>> kernel, bias = fold_batch_norm([[[[3.0]]]], [2.0], [1.0], [0.5], [4.0], epsilon=0.0)
        >>> kernel.numpy().item(), bias.numpy().item()
        (3.0, 0.5)
    """
    return raw_ops.mrcnn_fold_batch_norm(
        kernel=kernel, gamma=gamma, beta=beta, mean=mean, variance=variance, epsilon=epsilon, T=tf.as_dtype(dtype)
    )


@tf.RegisterGradient("MrcnnFoldBatchNorm")
def _fold_batch_norm_gradient(op: Any, kernel_gradient: Any, bias_gradient: Any) -> list[Any]:
    kernel, gamma, _, mean, variance = op.inputs
    gradients = raw_ops.mrcnn_fold_batch_norm_grad(
        kernel=kernel,
        gamma=gamma,
        mean=mean,
        variance=variance,
        folded_kernel_gradient=kernel_gradient,
        folded_bias_gradient=bias_gradient,
        epsilon=op.get_attr("epsilon"),
    )
    return [*gradients, None, None]
