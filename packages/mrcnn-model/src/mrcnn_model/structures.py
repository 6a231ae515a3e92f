"""The groups of tensors that pass between the stages of the network.

Shapes: N images, A anchors over all levels, R proposals, S sampled RoIs, D detections, M mask edge.
Boxes are float32 (x1, y1, x2, y2) in pixels of the resized image.
"""

from typing import NamedTuple

import tensorflow as tf


class RpnOutput(NamedTuple):
    """Output of the region proposal network for every anchor: level after level, row-major, ratios innermost."""

    logits: tf.Tensor  # float32 [N, A]
    deltas: tf.Tensor  # float32 [N, A, 4]


class Proposals(NamedTuple):
    """Class-agnostic boxes, best first."""

    boxes: tf.Tensor  # float32 [N, R, 4]
    scores: tf.Tensor  # float32 [N, R], logits
    valid: tf.Tensor  # bool [N, R]


class Samples(NamedTuple):
    """The candidates that an image trains on; foreground first."""

    indices: tf.Tensor  # int64 [N, S] into the candidates; 0 where not sampled
    foreground: tf.Tensor  # bool [N, S]
    sampled: tf.Tensor  # bool [N, S]


class RoiTargets(NamedTuple):
    """Sampled RoIs and their targets; foreground first."""

    boxes: tf.Tensor  # float32 [N, S, 4]
    classes: tf.Tensor  # int64 [N, S], 0 = background or not sampled
    deltas: tf.Tensor  # float32 [N, S, 4], encoded with the box regression weights
    gt_indices: tf.Tensor  # int64 [N, S]; 0 where there is none
    sampled: tf.Tensor  # bool [N, S]


class Losses(NamedTuple):
    """Means over images of per-image losses: float32 scalars."""

    rpn_class: tf.Tensor
    rpn_box: tf.Tensor
    box_class: tf.Tensor
    box_reg: tf.Tensor  # of a cascade, as box_class, the sum over its stages
    mask: tf.Tensor  # 0 in a model without masks


class Detections(NamedTuple):
    """The objects found, best first, at most D an image."""

    boxes: tf.Tensor  # float32 [N, D, 4]
    scores: tf.Tensor  # float32 [N, D]
    classes: tf.Tensor  # int32 [N, D], contiguous; 0 = none
    masks: tf.Tensor  # float32 [N, D, M, M], probabilities inside the box; M = 0 in a model without masks
    valid: tf.Tensor  # bool [N, D]
