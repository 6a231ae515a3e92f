"""The ops of the training step composed from stock TensorFlow ops, image by image, as in trainers without compiled ops.

Arguments and results are those of the functions of the same name in `mrcnn_ops`, as far as the training step uses them.
ROIAlign crops each level's boxes with `tf.image.crop_and_resize` and pools the samples in pairs. Proposals use
`tf.boolean_mask` and `tf.image.non_max_suppression`. Matching builds the A x G matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import tensorflow as tf

from mrcnn_ops import BoxMatches, GeneratedProposals


def multilevel_roi_align(
    features: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    *,
    strides: Sequence[float],
    output_size: int,
    aligned: bool = True,
    canonical_size: float = 224.0,
) -> tf.Tensor:
    assert aligned, "crop_and_resize has no rule that forgets the half pixel"
    num_images = boxes.shape[0]
    # A border of one pixel, so that a sample just off the map takes the value at the edge and not 0.
    padded = [tf.pad(level, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="SYMMETRIC") for level in features]
    return tf.stack(
        [
            _align_image(
                [level[image : image + 1] for level in padded], boxes[image], strides, output_size, canonical_size
            )
            for image in range(num_images)
        ]
    )


def _align_image(
    levels: Sequence[tf.Tensor], boxes: tf.Tensor, strides: Sequence[float], output_size: int, canonical_size: float
) -> tf.Tensor:
    sizes = boxes[:, 2:] - boxes[:, :2]
    edge = tf.sqrt(sizes[:, 0] * sizes[:, 1])
    numbers = tf.cast(tf.floor(4.0 + tf.math.log(edge / canonical_size + 1e-6) / math.log(2.0)), tf.int32) - 2
    numbers = tf.clip_by_value(numbers, 0, len(levels) - 1)
    crops, rows = [], []
    for number, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        of_level = tf.where(tf.equal(numbers, number))[:, 0]
        crops.append(_crop(level, tf.gather(boxes, of_level) / stride, 2 * output_size))
        rows.append(of_level)
    pooled = tf.nn.avg_pool2d(tf.concat(crops, axis=0), ksize=2, strides=2, padding="SAME")
    return tf.gather(pooled, tf.math.invert_permutation(tf.concat(rows, axis=0)))


def _crop(level: tf.Tensor, boxes: tf.Tensor, num_samples: int) -> tf.Tensor:
    """Sample bilinearly at the centres of num_samples x num_samples cells; boxes in pixels of the unpadded map."""
    height, width = level.shape[1], level.shape[2]
    x1, y1, x2, y2 = tf.unstack(boxes, axis=1)
    cell_width, cell_height = (x2 - x1) / num_samples, (y2 - y1) / num_samples
    # crop_and_resize samples at both ends of a box, in units of the last pixel; + 1 for the border, - 0.5 for centres.
    corners = [
        (y1 + cell_height / 2 + 0.5) / (height - 1),
        (x1 + cell_width / 2 + 0.5) / (width - 1),
        (y2 - cell_height / 2 + 0.5) / (height - 1),
        (x2 - cell_width / 2 + 0.5) / (width - 1),
    ]
    box_indices = tf.zeros([tf.shape(boxes)[0]], tf.int32)
    return tf.image.crop_and_resize(level, tf.stack(corners, axis=1), box_indices, [num_samples, num_samples])


def generate_proposals(
    logits: tf.Tensor,
    deltas: tf.Tensor,
    anchors: tf.Tensor,
    image_sizes: tf.Tensor,
    level_sizes: tf.Tensor,
    *,
    pre_nms_top_k: int,
    post_nms_top_k: int,
    num_proposals: int,
    nms_threshold: float,
    max_log_scale: float,
    keep_empty: bool,
    keep_padding_anchors: bool,
) -> GeneratedProposals:
    assert not keep_empty
    assert not keep_padding_anchors
    num_levels = level_sizes.shape[0]
    level_anchors = tf.split(anchors, level_sizes, num=num_levels)
    per_image = []
    for image in range(logits.shape[0]):
        size = tf.cast(image_sizes[image], tf.float32)
        kept = [
            _level_proposals(*level, size, pre_nms_top_k, post_nms_top_k, nms_threshold, max_log_scale)
            for level in zip(
                tf.split(logits[image], level_sizes, num=num_levels),
                tf.split(deltas[image], level_sizes, num=num_levels),
                level_anchors,
                strict=True,
            )
        ]
        boxes, scores = (tf.concat(parts, axis=0) for parts in zip(*kept, strict=True))
        best, order = tf.math.top_k(scores, tf.minimum(num_proposals, tf.size(scores)))
        padding = num_proposals - tf.size(best)
        per_image.append(
            (
                tf.ensure_shape(tf.pad(tf.gather(boxes, order), [[0, padding], [0, 0]]), [num_proposals, 4]),
                tf.ensure_shape(tf.pad(best, [[0, padding]]), [num_proposals]),
                tf.range(num_proposals) < tf.size(best),
            )
        )
    return GeneratedProposals(*(tf.stack(parts) for parts in zip(*per_image, strict=True)))


def _level_proposals(
    logits: tf.Tensor,
    deltas: tf.Tensor,
    anchors: tf.Tensor,
    size: tf.Tensor,
    pre_nms_top_k: int,
    post_nms_top_k: int,
    nms_threshold: float,
    max_log_scale: float,
) -> tuple[tf.Tensor, tf.Tensor]:
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2  # (x, y)
    inside = tf.reduce_all(centres < size[::-1], axis=1)
    logits, deltas, anchors = (tf.boolean_mask(part, inside) for part in (logits, deltas, anchors))
    scores, order = tf.math.top_k(logits, tf.minimum(pre_nms_top_k, tf.size(logits)))
    deltas, anchors = tf.gather(deltas, order), tf.gather(anchors, order)
    edges = anchors[:, 2:] - anchors[:, :2]
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2 + deltas[:, :2] * edges
    edges = tf.exp(tf.minimum(deltas[:, 2:], max_log_scale)) * edges
    limit = size[::-1]
    corners = [tf.clip_by_value(centres + sign * edges / 2, 0.0, limit) for sign in (-1.0, 1.0)]
    boxes = tf.concat(corners, axis=1)
    has_area = tf.reduce_all(corners[1] > corners[0], axis=1)
    boxes, scores = tf.boolean_mask(boxes, has_area), tf.boolean_mask(scores, has_area)
    kept = tf.image.non_max_suppression(boxes, scores, post_nms_top_k, nms_threshold)
    return tf.gather(boxes, kept), tf.gather(scores, kept)


def match_boxes(
    boxes: tf.Tensor, gt_boxes: tf.Tensor, gt_valid: tf.Tensor, crowd_boxes: tf.Tensor, *, boxes_valid: tf.Tensor
) -> BoxMatches:
    per_image = []
    for image in range(gt_boxes.shape[0]):
        of_image = boxes if boxes.shape.rank == 2 else boxes[image]
        usable = boxes_valid[image][:, tf.newaxis]
        overlap, areas, gt_areas = _intersections(of_image, gt_boxes[image])  # [A, G], [A, 1], [1, G]
        iou = tf.math.divide_no_nan(overlap, areas + gt_areas - overlap)
        iou = tf.where(usable & gt_valid[image], iou, 0.0)
        best_iou, best_gt = tf.reduce_max(iou, axis=1), tf.argmax(iou, axis=1, output_type=tf.int32)
        best_of_gt = tf.reduce_max(iou, axis=0)
        is_best = tf.reduce_any(tf.equal(iou, best_of_gt) & (best_of_gt > 0), axis=1)
        crowd, _, _ = _intersections(of_image, crowd_boxes[image])
        covered = tf.reduce_max(tf.math.divide_no_nan(tf.where(usable, crowd, 0.0), areas), axis=1)
        per_image.append((best_iou, best_gt, is_best, covered))
    return BoxMatches(*(tf.stack(parts) for parts in zip(*per_image, strict=True)))


def _intersections(boxes: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the areas of the intersections [A, G], of the boxes [A, 1] and of the others [1, G]."""
    x1, y1, x2, y2 = tf.split(boxes, 4, axis=1)
    others_x1, others_y1, others_x2, others_y2 = tf.split(tf.transpose(others), 4, axis=0)
    width = tf.maximum(tf.minimum(x2, others_x2) - tf.maximum(x1, others_x1), 0.0)
    height = tf.maximum(tf.minimum(y2, others_y2) - tf.maximum(y1, others_y1), 0.0)
    return width * height, (x2 - x1) * (y2 - y1), (others_x2 - others_x1) * (others_y2 - others_y1)
