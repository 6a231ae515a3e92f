"""One compiled update: forward and backward pass of its micro-batches, then the optimizer.

It is traced once per batch shape. The numbers that it measures stay on the device until they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mrcnn_data import Batch
from mrcnn_model import Losses, MaskRCNN
from mrcnn_train.job.distributed import Processes
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.optimizer import Optimizer

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
LOSS_NAMES = Losses._fields


class Measured(NamedTuple):
    """What the forward and backward pass of one micro-batch measure: float32 scalars.

    Attributes:
        losses: the five losses of the model.
        total: their sum.
        stats: the statistics of the model, by name.
    """

    losses: Losses
    total: tf.Tensor
    stats: dict[str, tf.Tensor]


class StepMetrics(NamedTuple):
    """What a step measured, on the device.

    Attributes:
        measured: means over the micro-batches of all processes.
        gradient_norm: float32 scalar, before clipping.
        votes: float32 [votes], the share of processes that gave each vote.
        waits: float32 [processes], the seconds that each process waited for the data of this step.
        loss_scale: float32 scalar, the scale of this step; None without float16.
        skipped_steps: float32 scalar, skipped steps of the run, this one included; None without float16.
    """

    measured: Measured
    gradient_norm: tf.Tensor
    votes: tf.Tensor
    waits: tf.Tensor
    loss_scale: tf.Tensor | None = None
    skipped_steps: tf.Tensor | None = None

    def scalars(self) -> dict[str, float]:
        """Wait for the device, and return the numbers under the names that are logged."""
        losses, total, stats = self.measured
        values = {**losses._asdict(), "total": total, **stats, "gradient_norm": self.gradient_norm}
        if self.loss_scale is not None:
            values |= {"loss_scale": self.loss_scale, "skipped_steps": self.skipped_steps}
        return {name: float(value) for name, value in values.items()}


class TrainStep:
    """Updates the weights by the mean gradient over the micro-batches of a step on all processes.

    Args:
        micro_batches: number of micro-batches of a step on this process. With one, the step is a single compiled
            function, in which each gradient is averaged over the processes as soon as the backward pass has computed
            it. With several, one compiled function adds up their gradients, and another updates the weights.
        loss_scale: for float16; else None.
        wire: type in which gradients are sent between processes: "float16", or None for float32.
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

    def __call__(
        self, batches: Sequence[Batch], learning_rate: float, votes: Sequence[bool] = (), *, data_wait: float = 0.0
    ) -> StepMetrics:
        """Run one update. If a loss or the gradient norm is not finite, no process changes its weights.

        Args:
            batches: `micro_batches` batches.
            learning_rate: that of this step.
            votes: those of this process, see `StopVotes`.
            data_wait: seconds that this process waited for the batches.
        """
        rate = tf.constant(learning_rate, tf.float32)
        waits = [data_wait if rank == self._processes.rank else 0.0 for rank in range(self._processes.size)]
        told = tf.constant([*map(float, votes), *waits], tf.float32)
        if self._micro_batches == 1:
            metrics: StepMetrics = self._fused(model_inputs(batches[0]), rate, told)
            return metrics
        measured = [self._accumulate(model_inputs(batch)) for batch in batches]
        mean = tf.nest.map_structure(lambda *values: tf.add_n(values) / self._micro_batches, *measured)
        metrics = self._apply(mean, rate, told)
        return metrics

    @property
    def num_traces(self) -> int:
        """How often the forward and backward pass was traced; it should be once per batch shape seen."""
        compiled = self._fused if self._micro_batches == 1 else self._accumulate
        return int(compiled.experimental_get_tracing_count())

    def _gradients_and_update(self, inputs: dict[str, tf.Tensor], rate: tf.Tensor, told: tf.Tensor) -> StepMetrics:
        gradients, measured = self._gradients(inputs)
        return self._update(gradients, measured, rate, told)

    def _add_gradients(self, inputs: dict[str, tf.Tensor]) -> Measured:
        gradients, measured = self._gradients(inputs)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)
        return measured

    def _update_by_sums(self, measured: Measured, rate: tf.Tensor, told: tf.Tensor) -> StepMetrics:
        gradients = [total / self._micro_batches for total in self._sums]
        metrics = self._update(gradients, measured, rate, told)
        for total in self._sums:
            total.assign(tf.zeros_like(total))
        return metrics

    def _update(
        self, gradients: Sequence[tf.Tensor], measured: Measured, rate: tf.Tensor, told: tf.Tensor
    ) -> StepMetrics:
        """Average over the processes, then update. All processes decide from the same averages whether to update.

        Args:
            told: the votes and the waits of this process, see `StepMetrics`.
        """
        mean = self._processes.mean
        gradients = [mean(g, name=f"gradient{i}", wire=self._wire) for i, g in enumerate(gradients)]
        measured, told = self._mean_over_processes(measured, told)
        size = self._processes.size
        votes, waits = told[:-size], told[-size:] * size
        is_finite = tf.math.is_finite(measured.total)
        scale = tf.constant(1.0) if self._loss_scale is None else tf.identity(self._loss_scale.scale)
        norm = self._optimizer.apply(gradients, learning_rate=rate, is_finite=is_finite, scale=1.0 / scale)
        if self._loss_scale is None:
            return StepMetrics(measured, norm, votes, waits)
        self._loss_scale.update(is_finite & tf.math.is_finite(norm))
        return StepMetrics(measured, norm, votes, waits, scale, tf.cast(self._loss_scale.skipped, tf.float32))

    def _mean_over_processes(self, measured: Measured, told: tf.Tensor) -> tuple[Measured, tf.Tensor]:
        """Average all numbers in one exchange."""
        scalars = tf.nest.flatten(measured)
        vector = self._processes.mean(tf.concat([tf.stack(scalars), told], axis=0), name="metrics")
        means = tf.unstack(vector[: len(scalars)])
        return tf.nest.pack_sequence_as(measured, means), vector[len(scalars) :]

    def _gradients(self, inputs: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], Measured]:
        """Return the gradients (of the scaled loss, if there is a scale) and what was measured."""
        values = [v.value for v in self._optimizer.variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses, stats = self._model.losses(**inputs)
            total = tf.reduce_sum(tf.stack(losses))  # in a fixed order: add_n begins with any input that is free
            scaled = total if self._loss_scale is None else total * self._loss_scale.scale
        gradients = tape.gradient(scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.convert_to_tensor(g) for g in gradients], Measured(losses, total, stats)


def model_inputs(batch: Batch) -> dict[str, tf.Tensor]:
    """Return the arrays of a batch that `MaskRCNN.losses` takes, by name."""
    return {name: tf.convert_to_tensor(getattr(batch, name)) for name in MODEL_FIELDS}
