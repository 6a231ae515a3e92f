"""One update, compiled: forward and backward of its micro-batches, then the optimizer.

Traced once per shape of batch. What is measured stays on the device until somebody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mrcnn_data import Batch
from mrcnn_model import Losses, MaskRCNN
from mrcnn_train.job.distributed import Processes
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.optimizer import Optimizer

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
STOP = "stop"  # prefix of the metrics that carry `stop_flags`: the share of processes that raised each


class TrainStep:
    """Updates the weights by the mean gradient of a step's micro-batches, over all processes.

    Args:
        micro_batches: of one step, on this process. With one, everything is a single compiled function, in which each
            gradient is averaged as soon as backward has it; with more, `accumulate` runs once for each, then `apply`.
        loss_scale: None where gradients cannot underflow.
        wire: type in which gradients travel between processes, "float16", or None for their own.
    """

    def __init__(
        self,
        model: MaskRCNN,
        optimizer: Optimizer,
        *,
        micro_batches: int,
        processes: Processes | None = None,
        loss_scale: LossScale | None = None,
        wire: str | None = None,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._micro_batches = micro_batches
        self._processes = processes or Processes()
        self._loss_scale = loss_scale
        self._wire = wire
        if micro_batches == 1:
            self._fused = tf.function(self._gradients_and_update)
        else:
            self._sums = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in optimizer.variables]
            self._accumulate = tf.function(self._add_gradients)
            self._apply = tf.function(self._update_by_sums)

    def __call__(self, batches: Sequence[Batch], learning_rate: float, stop_flags: Sequence[bool] = ()) -> Metrics:
        """Run one update.

        Args:
            batches: as many as `micro_batches`, of N images each.
            learning_rate: of this step.
            stop_flags: reasons to stop that this process knows of.

        Returns:
            Means over the micro-batches of all processes; `gradient_norm`, before clipping; `stop0`, `stop1`, ...: the
            share of processes that raised each flag. With a loss scale, `loss_scale` and `skipped_steps`, of this step
            too. Where a loss or the norm is not finite, the weights stay as they were, on all processes.
        """
        rate = tf.constant(learning_rate, tf.float32)
        flags = tf.constant(list(map(float, stop_flags)), tf.float32)
        if self._micro_batches == 1:
            return dict(self._fused(model_inputs(batches[0]), rate, flags))
        measured = [self._accumulate(model_inputs(batch)) for batch in batches]
        metrics = {name: tf.add_n([m[name] for m in measured]) / self._micro_batches for name in measured[0]}
        return dict(self._apply(metrics, rate, flags))

    @property
    def num_traces(self) -> int:
        """How often forward and backward were traced: should be the number of batch shapes seen."""
        compiled = self._fused if self._micro_batches == 1 else self._accumulate
        return int(compiled.experimental_get_tracing_count())

    def _gradients_and_update(self, inputs: dict[str, tf.Tensor], rate: tf.Tensor, flags: tf.Tensor) -> Metrics:
        gradients, metrics = self._gradients(inputs)
        return self._update(gradients, metrics, rate, flags)

    def _add_gradients(self, inputs: dict[str, tf.Tensor]) -> Metrics:
        gradients, metrics = self._gradients(inputs)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        return metrics

    def _update_by_sums(self, metrics: Metrics, rate: tf.Tensor, flags: tf.Tensor) -> Metrics:
        gradients = [total / self._micro_batches for total in self._sums]
        metrics = self._update(gradients, metrics, rate, flags)
        for total in self._sums:
            total.assign(tf.zeros_like(total))
        return metrics

    def _update(self, gradients: Sequence[tf.Tensor], metrics: Metrics, rate: tf.Tensor, flags: tf.Tensor) -> Metrics:
        """Average over the processes, then update; what is finite is decided by averages, so all decide alike."""
        mean = self._processes.mean
        gradients = [mean(g, name=f"gradient{i}", wire=self._wire) for i, g in enumerate(gradients)]
        if self._loss_scale is not None:
            gradients = [g / self._loss_scale.scale for g in gradients]
        metrics = self._mean_metrics(metrics, flags)
        is_finite = tf.math.is_finite(metrics["total"])
        norm = self._optimizer.apply(gradients, learning_rate=rate, is_finite=is_finite)
        metrics["gradient_norm"] = norm
        if self._loss_scale is not None:
            metrics["loss_scale"] = tf.identity(self._loss_scale.scale)
            self._loss_scale.update(is_finite & tf.math.is_finite(norm))
            metrics["skipped_steps"] = tf.cast(self._loss_scale.skipped, tf.float32)
        return metrics

    def _mean_metrics(self, metrics: Metrics, flags: tf.Tensor) -> Metrics:
        """Average all of them in one exchange."""
        names = sorted(metrics)
        vector = tf.concat([tf.stack([metrics[name] for name in names]), flags], axis=0)
        values = tf.unstack(self._processes.mean(vector, name="metrics"))
        names += [f"{STOP}{number}" for number in range(len(values) - len(names))]
        return dict(zip(names, values, strict=True))

    def _gradients(self, inputs: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], Metrics]:
        """Gradients, of the scaled loss where there is a scale, and what was measured."""
        values = [v.value for v in self._optimizer.variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses, stats = self._model.losses(**inputs)
            total = tf.add_n(list(losses))
            scaled = total if self._loss_scale is None else total * self._loss_scale.scale
        gradients = tape.gradient(scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in gradients], {**losses._asdict(), "total": total, **stats}


LOSS_NAMES = Losses._fields


def model_inputs(batch: Batch) -> dict[str, tf.Tensor]:
    """The arrays of a batch that `MaskRCNN.losses` takes, by name."""
    return {name: tf.convert_to_tensor(getattr(batch, name)) for name in MODEL_FIELDS}
