"""SGD with momentum on plain TensorFlow variables."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


class Sgd:
    """v = momentum v + g; w = w - rate v, where g is clipped after weight decay was added to it, as in the ancestor.

    Args:
        variables: those that train.
        decayed: those of them whose gradient gets weight_decay w.
        clip_norm: limit of the global norm of all gradients; None for none.

    Attributes:
        momenta: v of each variable, float32, starting at zero.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        *,
        decayed: Sequence[keras.Variable],
        momentum: float,
        weight_decay: float,
        clip_norm: float | None,
    ) -> None:
        self.variables = list(variables)
        decayed_paths = {v.path for v in decayed}
        self._decays = [weight_decay if v.path in decayed_paths else 0.0 for v in self.variables]
        self._momentum = momentum
        self._clip_norm = clip_norm
        self.momenta = [tf.Variable(tf.zeros(v.shape), trainable=False, name="momentum") for v in self.variables]

    def apply(self, gradients: Sequence[tf.Tensor], *, learning_rate: tf.Tensor, is_finite: tf.Tensor) -> tf.Tensor:
        """Update the variables, unless the loss or the gradient is not finite.

        Args:
            gradients: float32, one for each variable.
            learning_rate: float32 scalar.
            is_finite: bool scalar, whether the loss is.

        Returns:
            Global norm of the gradient before clipping, weight decay included, float32 scalar.
        """
        values = [v.value for v in self.variables]
        gradients = [g + decay * w if decay else g for g, w, decay in zip(gradients, values, self._decays, strict=True)]
        norm = tf.linalg.global_norm(gradients)
        scale = tf.constant(1.0)
        if self._clip_norm is not None:
            scale = tf.minimum(1.0, self._clip_norm / tf.maximum(norm, 1e-12))

        def update() -> tf.Tensor:
            for value, momentum, gradient in zip(values, self.momenta, gradients, strict=True):
                momentum.assign(self._momentum * momentum + scale * gradient)
                value.assign_sub(learning_rate * momentum)
            return tf.constant(True)

        # The host looks at the losses only when it logs: until then a NaN must not get into the weights.
        tf.cond(is_finite & tf.math.is_finite(norm), update, lambda: tf.constant(False))
        return norm
