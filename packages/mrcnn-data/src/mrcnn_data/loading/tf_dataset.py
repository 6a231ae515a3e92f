"""A loader as a `tf.data.Dataset`. TensorFlow is imported only when the function is called."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mrcnn_data.loading.batch import Batch
from mrcnn_data.loading.eval_loader import EvalLoader
from mrcnn_data.loading.train_loader import TrainLoader
from mrcnn_data.masks.rasterising import MASK_SIZE

if TYPE_CHECKING:
    import tensorflow as tf


def to_tf_dataset(loader: TrainLoader | EvalLoader, *, start_step: int = 0) -> tf.data.Dataset:
    """Make a dataset of the loader's batches, in the loader's order; each element is a `Batch` of tensors.

    Height and width of `images` differ between buckets, so they are None in the element's shape. `image_ids` are
    strings, "" for padding. tf.data copies every batch; a training loop that uses the arrays directly avoids the copy.

    Args:
        loader: a TrainLoader gives an endless dataset, the batches of its steps one after another; an EvalLoader ends
            after one pass. It must stay open as long as the dataset is used.
        start_step: first step of a TrainLoader.
    """
    import tensorflow as tf

    images, objects, crowds = loader.batch_size, loader.max_gt, loader.max_crowds

    def spec(dtype: type, *shape: int | None) -> tf.TensorSpec:
        return tf.TensorSpec([images, *shape], dtype)

    signature = Batch(
        sample_seeds=spec(np.int32, 2),
        images=spec(np.uint8, None, None, 3),
        image_sizes=spec(np.int32, 2),
        original_sizes=spec(np.int32, 2),
        image_ids=tf.TensorSpec([images], tf.string),  # type: ignore[arg-type]
        gt_boxes=spec(np.float32, objects, 4),
        gt_classes=spec(np.int32, objects),
        gt_masks=spec(np.uint8, objects, MASK_SIZE, MASK_SIZE),
        gt_has_mask=spec(np.bool_, objects),
        crowd_boxes=spec(np.float32, crowds, 4),
    )

    def batches() -> Iterator[Batch]:
        for batch in _batches(loader, start_step):
            ids = np.array(["" if image_id is None else str(image_id) for image_id in batch.image_ids], object)
            yield batch._replace(image_ids=ids)  # type: ignore[arg-type]

    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def _batches(loader: TrainLoader | EvalLoader, start_step: int) -> Iterator[Batch]:
    if isinstance(loader, EvalLoader):
        yield from loader
    else:
        for step in loader.steps(start_step):
            yield from step
