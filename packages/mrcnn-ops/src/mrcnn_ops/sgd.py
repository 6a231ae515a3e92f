"""SGD with momentum for all variables of a model at once: two ops, whatever the number of variables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mrcnn_ops.library import raw_ops


def gradient_norm(
    gradients: Sequence[Any], values: Sequence[Any], *, weight_decays: Sequence[float], scale: Any = 1.0
) -> tf.Tensor:
    """Return the norm of all gradients together, with weight decay in them: of g = scale * gradient + decay * value.

    Squares are added in float64, in an order that does not depend on the number of threads. There is no gradient.

    Args:
        gradients: float32, one for each variable.
        values: float32 tensors or variables, of the same shapes.
        weight_decays: one number for each variable.
        scale: float32 scalar, the same for all gradients.

    Returns:
        float32 scalar. NaN or infinite if a gradient or a value is.

    Raises:
        InvalidArgumentError: a shape does not fit; the message has the index of the gradient.

    Examples:
        >>> float(gradient_norm([[3.0], [0.0, 0.0]], [[0.0], [8.0, 0.0]], weight_decays=[0.5, 0.5]))
        5.0
    """
    norm: tf.Tensor = raw_ops.mrcnn_gradient_norm(
        gradients=gradients, values=values, scale=scale, weight_decays=weight_decays
    )
    return norm


def apply_sgd(
    variables: Sequence[tf.Variable],
    momenta: Sequence[tf.Variable],
    gradients: Sequence[Any],
    *,
    rate: Any,
    momentum: float,
    weight_decays: Sequence[float],
    rate_factors: Sequence[float],
    scale: Any = 1.0,
    clip: Any = 1.0,
    is_taken: Any = True,
) -> None:
    """Update variables by SGD with momentum: v = momentum * v + clip * g; w = w - rate * factor * v.

    Here g = scale * gradient + decay * w, so the weight decay is clipped with the gradient, as in Tensorpack. Numbers
    that are computed on a GPU stay there; the host does not wait for them.

    Args:
        variables: float32 variables, w.
        momenta: float32 variables of the same shapes, v.
        gradients: float32 tensors of the same shapes.
        rate: float32 scalar, the learning rate.
        momentum: of all variables.
        weight_decays, rate_factors: one number for each variable.
        scale, clip: float32 scalars.
        is_taken: bool scalar; if False, all variables stay as they are.

    Raises:
        InvalidArgumentError: a shape does not fit, a variable is given twice or has no value. The message names it.

    Examples:
        >>> w, v = tf.Variable([1.0]), tf.Variable([0.0])
        >>> apply_sgd([w], [v], [[2.0]], rate=0.25, momentum=0.9, weight_decays=[0.0], rate_factors=[1.0])
        >>> w.numpy().tolist(), v.numpy().tolist()
        ([0.5], [2.0])
    """
    raw_ops.mrcnn_sgd(
        variables=[variable.handle for variable in variables],
        momenta=[variable.handle for variable in momenta],
        gradients=gradients,
        scale=scale,
        clip=clip,
        rate=rate,
        is_taken=is_taken,
        momentum=momentum,
        weight_decays=weight_decays,
        rate_factors=rate_factors,
    )


tf.no_gradient("MrcnnGradientNorm")
tf.no_gradient("MrcnnSgd")
