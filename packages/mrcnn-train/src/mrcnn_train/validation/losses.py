"""The training losses of validation images: what shows that a model learns its training images by heart."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Sequence

import tensorflow as tf

from mrcnn_data.augmentation import Augmentation
from mrcnn_model import MaskRCNN
from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.values import short_edges
from mrcnn_train.training.datasets import ValSet, make_loader
from mrcnn_train.training.step import LOSS_NAMES, model_inputs


class ValidationLosses:
    """Measures the losses on the same few batches at each call, in one process.

    The images are those of the loader's first steps, in the shapes of training but not flipped, turned or recoloured;
    crops are cut at the same places. Proposals and RoIs are sampled by the same seeds. So the losses of two calls
    differ by the weights alone, and a resumed run measures what the unbroken one would have.

    Args:
        val: each set counts alike.

    Attributes:
        compile_seconds: time of the batches for whose shape the losses were compiled.
    """

    def __init__(self, model: MaskRCNN, val: Sequence[ValSet], config: RunConfig) -> None:
        data, train = config.data, config.train
        plain = dataclasses.replace(
            data,
            short_edge=max(short_edges(data)),
            augmentation=Augmentation(horizontal_flip=0.0, crop_size=data.augmentation.crop_size),
            filter_empty=False,
            repeat_threshold=0.0,
        )
        batch = dataclasses.replace(train, global_batch=train.images_per_gpu)
        self._loaders = [make_loader(plain, batch, one.dataset) for one in val] if config.eval.loss_batches else []
        self._num_batches = config.eval.loss_batches
        self._losses = tf.function(lambda inputs: model.losses(**inputs)[0])
        self.compile_seconds = 0.0

    def measure(self) -> dict[str, float]:
        """Return the means as `val_total`, `val_rpn_class`, and so on; {} if there is nothing to measure."""
        per_batch = [
            self._of_batch(model_inputs(batches[0]))
            for loader in self._loaders
            for batches in itertools.islice(loader.steps(), self._num_batches)
        ]
        if not per_batch:
            return {}
        means = {
            f"val_{name}": statistics.fmean(column)
            for name, column in zip(LOSS_NAMES, zip(*per_batch, strict=True), strict=True)
        }
        return {"val_total": sum(means.values()), **means}

    def _of_batch(self, inputs: dict[str, tf.Tensor]) -> list[float]:
        began, traced = time.perf_counter(), self._losses.experimental_get_tracing_count()
        losses = [float(loss) for loss in self._losses(inputs)]
        if self._losses.experimental_get_tracing_count() > traced:
            self.compile_seconds += time.perf_counter() - began
        return losses

    def close(self) -> None:
        """End the threads of the loaders."""
        for loader in self._loaders:
            loader.close()
