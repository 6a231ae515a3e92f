"""One update, compiled: forward and backward of its micro-batches, then the optimizer.

Traced once per shape of batch. What is measured stays on the device until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mrcnn_data import Batch
from mrcnn_model import Losses, MaskRCNN
from mrcnn_train.optimizer import Sgd

Metrics = dict[str, tf.Tensor]  # float32 scalars: the five losses, their sum as "total", the model's statistics
MODEL_FIELDS = (
    "images",
    "image_sizes",
    "gt_boxes",
    "gt_classes",
    "gt_masks",
    "gt_has_mask",
    "crowd_boxes",
    "sample_seeds",
)


class TrainStep:
    """Updates the weights by the mean gradient of a step's micro-batches.

    Args:
        micro_batches: of one step. With one, everything is a single compiled function; with more, `accumulate` runs
            once for each, then `apply`.
    """

    def __init__(self, model: MaskRCNN, optimizer: Sgd, *, micro_batches: int) -> None:
        self._model = model
        self._optimizer = optimizer
        self._micro_batches = micro_batches
        if micro_batches == 1:
            self._fused = tf.function(self._gradients_and_update)
        else:
            self._sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in optimizer.variables]
            self._accumulate = tf.function(self._add_gradients)
            self._apply = tf.function(self._update_by_sums)

    def __call__(self, batches: Sequence[Batch], learning_rate: float) -> Metrics:
        """Run one update.

        Args:
            batches: as many as `micro_batches`, of N images each.
            learning_rate: of this step.

        Returns:
            Means over the micro-batches, and `gradient_norm`, before clipping. Where a loss or the norm is not finite,
            the weights stay as they were.
        """
        rate = tf.constant(learning_rate, tf.float32)
        if self._micro_batches == 1:
            return dict(self._fused(model_inputs(batches[0]), rate))
        measured = [self._accumulate(model_inputs(batch)) for batch in batches]
        metrics = {name: tf.add_n([m[name] for m in measured]) / self._micro_batches for name in measured[0]}
        metrics["gradient_norm"] = self._apply(rate, tf.math.is_finite(metrics["total"]))
        return metrics

    @property
    def num_traces(self) -> int:
        """How often forward and backward were traced: should be the number of batch shapes seen."""
        compiled = self._fused if self._micro_batches == 1 else self._accumulate
        return int(compiled.experimental_get_tracing_count())

    def _gradients_and_update(self, inputs: dict[str, tf.Tensor], rate: tf.Tensor) -> Metrics:
        gradients, metrics = self._gradients(inputs)
        is_finite = tf.math.is_finite(metrics["total"])
        metrics["gradient_norm"] = self._optimizer.apply(gradients, learning_rate=rate, is_finite=is_finite)
        return metrics

    def _add_gradients(self, inputs: dict[str, tf.Tensor]) -> Metrics:
        gradients, metrics = self._gradients(inputs)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        return metrics

    def _update_by_sums(self, rate: tf.Tensor, is_finite: tf.Tensor) -> tf.Tensor:
        gradients = [total / self._micro_batches for total in self._sums]
        norm = self._optimizer.apply(gradients, learning_rate=rate, is_finite=is_finite)
        for total in self._sums:
            total.assign(tf.zeros_like(total))
        return norm

    def _gradients(self, inputs: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], Metrics]:
        values = [v.value for v in self._optimizer.variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses, stats = self._model.losses(**inputs)
            total = tf.add_n(list(losses))
        gradients = tape.gradient(total, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in gradients], {**losses._asdict(), "total": total, **stats}


LOSS_NAMES = Losses._fields


def model_inputs(batch: Batch) -> dict[str, tf.Tensor]:
    """The arrays of a batch that `MaskRCNN.losses` takes, by name."""
    return {name: tf.convert_to_tensor(getattr(batch, name)) for name in MODEL_FIELDS}
