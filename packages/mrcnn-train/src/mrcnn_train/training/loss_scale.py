"""Dynamic loss scaling for float16 (Micikevicius et al. 2018): a scaled loss keeps small gradients above zero."""

from __future__ import annotations

import tensorflow as tf

INITIAL = 2.0**15
GROWTH_STEPS = 2000  # finite steps after which the scale doubles
MAXIMUM = 2.0**24
MINIMUM = 2.0**-10  # below 1, because a gradient may overflow, though rarely, at a scale of 1


class LossScale:
    """A scale that halves when a gradient overflows, and doubles after GROWTH_STEPS finite steps.

    A step whose gradient overflows is skipped. The scale is the same on all processes, because the average gradient
    decides.

    Attributes:
        scale: factor of the loss, float32.
        good_steps: finite steps since the scale changed, int64: int32 would live on the host of a GPU.
        skipped: skipped steps of the whole run, int64.
    """

    def __init__(self, *, initial: float = INITIAL, growth_steps: int = GROWTH_STEPS) -> None:
        self._growth_steps = growth_steps
        self.scale = tf.Variable(initial, trainable=False, dtype=tf.float32)
        self.good_steps = tf.Variable(0, trainable=False, dtype=tf.int64)
        self.skipped = tf.Variable(0, trainable=False, dtype=tf.int64)

    @property
    def variables(self) -> dict[str, tf.Variable]:
        return {"scale": self.scale, "good_steps": self.good_steps, "skipped": self.skipped}

    def update(self, is_finite: tf.Tensor) -> None:
        """Change the scale after a step; called inside a `tf.function`."""
        good = tf.where(is_finite, self.good_steps + 1, 0)
        grows = good >= self._growth_steps
        changed = tf.where(grows, tf.minimum(self.scale * 2.0, MAXIMUM), self.scale)
        self.scale.assign(tf.where(is_finite, changed, tf.maximum(self.scale / 2.0, MINIMUM)))
        self.good_steps.assign(tf.where(~grows, good, 0))
        self.skipped.assign_add(tf.cast(~is_finite, tf.int64))
