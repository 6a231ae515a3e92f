"""The detections of a batch in one tensor, so that a GPU is waited for once, and sends them in one transfer.

Legend: N images of a batch, D detections of an image, M mask edge.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mrcnn_model import Detections

NUMBERS = 7  # of a detection, before its mask: x1, y1, x2, y2, score, class, valid


class PackedDetections(NamedTuple):
    """Detections that the device may still compute.

    Attributes:
        numbers: float32 [N, D, NUMBERS + M * M], which holds classes exactly, since they are below 2^24.
    """

    numbers: tf.Tensor

    @classmethod
    def of(cls, detections: Detections) -> PackedDetections:
        """Pack detections, best inside a compiled function: it would return int32 classes in the host's memory."""
        boxes, scores, classes, masks, valid = detections
        others = tf.stack([scores, tf.cast(classes, tf.float32), tf.cast(valid, tf.float32)], axis=-1)  # [N, D, 3]
        flat = tf.reshape(masks, [*masks.shape[:2], masks.shape[2] * masks.shape[3]])
        return cls(tf.concat([boxes, others, flat], axis=-1))

    def fetch(self) -> Detections:
        """Wait for the device, and return the detections as NumPy arrays."""
        numbers = self.numbers.numpy()
        edge = math.isqrt(numbers.shape[-1] - NUMBERS)
        return Detections(
            boxes=numbers[..., :4],
            scores=numbers[..., 4],
            classes=numbers[..., 5].astype(np.int32),
            masks=numbers[..., NUMBERS:].reshape(*numbers.shape[:2], edge, edge),
            valid=numbers[..., 6] > 0,
        )
