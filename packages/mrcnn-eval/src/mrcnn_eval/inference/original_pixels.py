"""Detections of a batch in the pixels of the original images: boxes scaled back, masks as RLE of the image's size.

Legend: N images of a batch, K detections of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mrcnn_data import Batch
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator
from mrcnn_model import Detections
from mrcnn_ops import encode_masks


def add_detections(
    evaluator: CocoEvaluator, batch: Batch, detections: Detections, *, category_ids: Sequence[int]
) -> None:
    """Add the detections of a batch to an evaluator, in pixels of the original images.

    Args:
        evaluator: of the data set of the batch.
        batch: `image_ids`, `image_sizes` and `original_sizes` are read; rows whose image id is None are padding.
        detections: arrays or tensors, for the same N images, boxes in pixels of the resized images.
        category_ids: of the contiguous classes 1, 2, ...
    """
    boxes, scores, classes, masks, valid = map(np.asarray, detections)
    is_image = np.array([image_id is not None for image_id in batch.image_ids], bool)  # [N]
    rows, columns = np.nonzero(valid & is_image[:, None])  # [K]
    boxes = to_original(
        boxes[rows, columns], image_sizes=batch.image_sizes[rows], original_sizes=batch.original_sizes[rows]
    )  # [K, 4]
    has_masks = masks.shape[-1] > 0
    counts = _encode(masks[rows, columns], boxes, batch.original_sizes[rows])  # [K], [] without masks
    scores = scores[rows, columns]
    found_category_ids = np.asarray(category_ids)[classes[rows, columns] - 1]
    for row in np.flatnonzero(is_image):
        of_image = rows == row
        size = [int(edge) for edge in batch.original_sizes[row]]
        evaluator.add(
            batch.image_ids[row],
            boxes[of_image],
            scores[of_image],
            found_category_ids[of_image],
            [{"size": size, "counts": counts[k]} for k in np.flatnonzero(of_image)] if has_masks else None,
        )


def to_original(boxes: np.ndarray, *, image_sizes: np.ndarray, original_sizes: np.ndarray) -> np.ndarray:
    """Scale boxes float32 [K, 4] from the resized to the original image, and clip them to it.

    Args:
        boxes: (x1, y1, x2, y2), pixels of the resized images.
        image_sizes: int [K, 2], (h, w) of the resized image of each box.
        original_sizes: int [K, 2], (h, w) of the original image of each box.
    """
    # Each edge is resized to whole pixels, so the scales of x and y differ a little.
    scales = (original_sizes / image_sizes)[:, [1, 0, 1, 0]]  # [K, 4], (x, y, x, y)
    return np.clip(boxes * scales, 0, original_sizes[:, [1, 0, 1, 0]]).astype(np.float32)


def _encode(masks: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> list[Any]:
    if masks.size == 0:
        return []
    with tf.device("CPU"):  # where the op runs; a constant would go to the GPU, and come back
        return list(encode_masks(tf.constant(masks), tf.constant(boxes), tf.constant(sizes, tf.int32)).numpy())
