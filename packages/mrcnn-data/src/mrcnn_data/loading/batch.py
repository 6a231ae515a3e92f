"""The batches that loaders return, and the memory they lie in.

Legend: N images, H x W bucket, G ground truths, K crowds, M = 112 edge of a mask crop.
"""

from __future__ import annotations

import math
import weakref
from collections import defaultdict, deque
from typing import NamedTuple

import numpy as np

from mrcnn_data.annotations.columns import Id
from mrcnn_data.masks.rasterising import MASK_SIZE

_ALIGNMENT = 64  # lets TensorFlow take the memory without a copy


class Batch(NamedTuple):
    """N images of one bucket with their ground truth; boxes in pixels of the resized image, padding is zero."""

    sample_seeds: np.ndarray  # int32 [N, 2]
    images: np.ndarray  # uint8 [N, H, W, 3] RGB, zero padded right and bottom
    image_sizes: np.ndarray  # int32 [N, 2] valid (h, w)
    original_sizes: np.ndarray  # int32 [N, 2] (h, w) of the source image
    image_ids: list[Id | None]  # as in the file; None = a padding row of evaluation
    gt_boxes: np.ndarray  # float32 [N, G, 4] (x1, y1, x2, y2)
    gt_classes: np.ndarray  # int32 [N, G], 0 = padding
    gt_masks: np.ndarray  # uint8 [N, G, M, M] of 0 and 1, each cropped to its box
    gt_has_mask: np.ndarray  # bool [N, G]
    crowd_boxes: np.ndarray  # float32 [N, K, 4]


class BufferPool:
    """Memory for batches, reused when the last array on it is gone.

    A new array costs a page fault per 4 kB: reuse doubles a loader's speed (340 to 730 images/s: 640 x 480 to short
    edge 800, batches of 4, two Zen 3 cores). A user of a batch need not return or copy it: as long as the batch, a
    slice of it or a tensor that shares its memory exists, the buffer is not reused.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a uint8 array with arbitrary content."""
        num_bytes = math.prod(shape)
        if num_bytes == 0:
            return np.zeros(shape, np.uint8)
        free = self._free[num_bytes]
        try:
            buffer = free.popleft()
        except IndexError:
            buffer = _aligned(num_bytes)
        # NumPy follows `base` through arrays, but not through a memoryview: every view keeps this array alive, so it
        # is freed after the last of them.
        array: np.ndarray = np.frombuffer(buffer.data, np.uint8)
        weakref.finalize(array, free.append, buffer).atexit = False
        return array.reshape(shape)


def new_batch(pool: BufferPool, *, num_images: int, bucket: tuple[int, int], num_gt: int, num_crowds: int) -> Batch:
    """Allocate a batch; `images` and `gt_masks` hold arbitrary values, everything else is zero."""
    return Batch(
        sample_seeds=np.zeros((num_images, 2), np.int32),
        images=pool.take((num_images, *bucket, 3)),
        image_sizes=np.zeros((num_images, 2), np.int32),
        original_sizes=np.zeros((num_images, 2), np.int32),
        image_ids=[None] * num_images,
        gt_boxes=np.zeros((num_images, num_gt, 4), np.float32),
        gt_classes=np.zeros((num_images, num_gt), np.int32),
        gt_masks=pool.take((num_images, num_gt, MASK_SIZE, MASK_SIZE)),
        gt_has_mask=np.zeros((num_images, num_gt), bool),
        crowd_boxes=np.zeros((num_images, num_crowds, 4), np.float32),
    )


def _aligned(num_bytes: int) -> np.ndarray:
    memory = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + num_bytes]
