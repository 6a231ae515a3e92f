"""Group normalisation, optionally with ReLU."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrcnn_ops.library import raw_ops


def group_norm(x: Any, gamma: Any, beta: Any, *, groups: int, epsilon: float = 1e-5, relu: bool = False) -> tf.Tensor:
    """Normalise every image over the positions and channels of each group (Wu and He 2018).

    y = (x - mean) / sqrt(variance + epsilon) * gamma + beta. Forward and backward pass read `x` twice each, in its own
    type; for the backward pass only `x` and two numbers of each group are kept.

    Args:
        x: float32, float16 or bfloat16 [N, H, W, C].
        gamma, beta: float32 [C].
        groups: number of groups, which divides C.
        relu: return max(y, 0).

    Returns:
        [N, H, W, C] of the type of `x`. Statistics and arithmetic are float32, sums over chunks float64. Gradients
        reach x, gamma and beta; no sum depends on the number of threads.

    Raises:
        InvalidArgumentError: shapes do not fit, or `groups` does not divide C; the message names the input.

    Examples:
        >>> x = tf.reshape([1.0, 3.0, 5.0, 7.0], [1, 1, 2, 2])  # channels (1, 5) and (3, 7)
        >>> group_norm(x, [1.0, 1.0], [0.0, 0.0], groups=2, epsilon=0.0).numpy().ravel().tolist()
        [-1.0, -1.0, 1.0, 1.0]
    """
    y, _, _ = raw_ops.mrcnn_group_norm(x=x, gamma=gamma, beta=beta, groups=groups, epsilon=epsilon, relu=relu)
    return y


@tf.RegisterGradient("MrcnnGroupNorm")
def _group_norm_gradient(op: Any, dy: Any, *_: Any) -> tuple[Any, Any, Any]:
    x, gamma, beta = op.inputs
    _, mean, inverse_deviation = op.outputs
    options = {name: op.get_attr(name) for name in ("groups", "epsilon", "relu")}
    dx, dgamma, dbeta = raw_ops.mrcnn_group_norm_grad(
        x=x, dy=dy, gamma=gamma, beta=beta, mean=mean, inverse_deviation=inverse_deviation, **options
    )
    return dx, dgamma, dbeta
