"""The ops of detection made of TensorFlow's own ops, for models that run without mrcnn_ops.

Arguments and results are those of `mrcnn_ops`. Only those of the norms have gradients.

Shapes: N images, R boxes an image, L levels, A anchors over all levels, C classes without background, P output size.
"""

from collections.abc import Sequence

import tensorflow as tf

from mrcnn_model.boxes import clip_boxes, decode_boxes
from mrcnn_model.detection_ops import DetectionOps
from mrcnn_model.layers.normalization import fold_batch_norm, group_norm
from mrcnn_ops import GeneratedProposals, NmsDetections

CANONICAL_LEVEL = 4
MIN_LEVEL = 2
SAMPLES = 2  # per bin and axis
TAPS = 2  # pixels that a sample reads, per axis
NEVER = tf.float32.min  # score of a candidate that must not be chosen


def multilevel_roi_align(
    features: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    *,
    strides: Sequence[int],
    output_size: int,
    aligned: bool,
    canonical_size: float,
) -> tf.Tensor:
    """Compute what `mrcnn_ops.multilevel_roi_align` does. The levels are concatenated, and every sample is a gather."""
    sizes = tf.stack([tf.shape(f)[1:3] for f in features])  # [L, 2], (h, w)
    areas = sizes[:, 0] * sizes[:, 1]
    num_images, channels = tf.shape(boxes)[0], features[0].shape[-1]
    pixels = tf.concat([tf.reshape(f, [-1, channels]) for f in features], axis=0)  # [sum of N * area, C]
    finite = tf.reduce_all(tf.math.is_finite(boxes), axis=-1)  # [N, R]
    boxes = tf.where(finite[..., tf.newaxis], boxes, 0.0)
    level = _levels(boxes, num_levels=len(features), canonical_size=canonical_size)  # [N, R]
    size = tf.gather(sizes, level)  # [N, R, 2]
    image = tf.range(num_images)[:, tf.newaxis]
    first = tf.gather(tf.cumsum(areas * num_images, exclusive=True), level) + image * tf.gather(areas, level)  # [N, R]
    stride = tf.gather(tf.constant(strides, tf.float32), level)
    low, high = boxes[..., :2] / stride[..., tf.newaxis], boxes[..., 2:] / stride[..., tf.newaxis]  # (x, y)
    rows, row_weights = _taps(low[..., 1], high[..., 1], size[..., 0], output_size=output_size, aligned=aligned)
    columns, column_weights = _taps(low[..., 0], high[..., 0], size[..., 1], output_size=output_size, aligned=aligned)
    row_weights = tf.where(finite[..., tf.newaxis], row_weights, 0.0)

    def add_tap(total: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        row, column = index // (SAMPLES * TAPS), index % (SAMPLES * TAPS)
        y, x = rows[row][..., tf.newaxis], columns[column][..., tf.newaxis, :]
        weights = row_weights[row][..., tf.newaxis] * column_weights[column][..., tf.newaxis, :]  # [N, R, P, P]
        where = first[..., tf.newaxis, tf.newaxis] + y * size[:, :, 1, tf.newaxis, tf.newaxis] + x
        return total + tf.cast(tf.gather(pixels, where), tf.float32) * weights[..., tf.newaxis]

    # One tap after the other: with 1,000 boxes of 7 x 7 x 256, each of the 16 takes 50 MB.
    shape = tf.concat([tf.shape(boxes)[:2], [output_size, output_size, channels]], axis=0)
    pooled = tf.foldl(add_tap, tf.range((SAMPLES * TAPS) ** 2), tf.zeros(shape), parallel_iterations=1)
    pooled = tf.ensure_shape(pooled, [boxes.shape[0], boxes.shape[1], output_size, output_size, channels])
    return tf.cast(pooled, features[0].dtype)


def _levels(boxes: tf.Tensor, *, num_levels: int, canonical_size: float) -> tf.Tensor:
    """Return the index of the level of each box, int32 [N, R] (FPN, equation 1)."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    scale = tf.sqrt(tf.maximum(width * height, 0.0)) / canonical_size + 1e-6
    # floor(log2(scale)) counted by the powers of two that it reaches, which is exact.
    powers = [2.0 ** (MIN_LEVEL + index - CANONICAL_LEVEL) for index in range(1, num_levels)]
    return tf.reduce_sum(tf.cast(scale[..., tf.newaxis] >= tf.constant(powers), tf.int32), axis=-1)


def _taps(
    low: tf.Tensor, high: tf.Tensor, length: tf.Tensor, *, output_size: int, aligned: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Find the pixels that the samples of each bin read along one axis, and their weights.

    Args:
        low, high: float32 [N, R], the box in pixels of its level.
        length: int32 [N, R] of the level.

    Returns:
        int32 indices and float32 weights, [SAMPLES * TAPS, N, R, P].
    """
    offset = 0.5 if aligned else 0.0
    extent = high - low if aligned else tf.maximum(high - low, 1.0)
    cell = extent / output_size
    bins = tf.range(output_size, dtype=tf.float32)
    indices, weights = [], []
    for sample in range(SAMPLES):
        position = (low - offset)[..., tf.newaxis] + (bins + (sample + 0.5) / SAMPLES) * cell[..., tf.newaxis]
        last = tf.cast(length - 1, tf.float32)[..., tf.newaxis]
        counts = (position >= -1.0) & (position <= last + 1.0)  # at most a pixel off the map
        position = tf.clip_by_value(position, 0.0, last)
        before = tf.floor(position)
        fraction = position - before
        for tap, weight in ((before, 1.0 - fraction), (tf.minimum(before + 1.0, last), fraction)):
            indices.append(tf.cast(tap, tf.int32))
            weights.append(tf.where(counts, weight, 0.0) / SAMPLES)
    return tf.stack(indices), tf.stack(weights)


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
    """Compute what `mrcnn_ops.generate_proposals` does. Every level is a class in TensorFlow's combined NMS."""
    sizes = tf.cast(image_sizes, tf.float32)[:, tf.newaxis]  # [N, 1, 2]
    inside = ((anchors[:, 0] + anchors[:, 2]) * 0.5 < sizes[..., 1]) & (
        (anchors[:, 1] + anchors[:, 3]) * 0.5 < sizes[..., 0]
    )
    usable = tf.math.is_finite(logits) & (inside | keep_padding_anchors)
    logits = tf.where(usable, logits, NEVER)
    boxes_per_level, scores_per_level = [], []
    begins = tf.cumsum(level_sizes, exclusive=True)
    for level in range(level_sizes.shape[0]):
        begin, size = begins[level], level_sizes[level]
        scores, index = tf.math.top_k(logits[:, begin : begin + size], tf.minimum(pre_nms_top_k, size))
        boxes = decode_boxes(
            tf.gather(deltas[:, begin : begin + size], index, batch_dims=1),
            tf.gather(anchors[begin : begin + size], index),
            [1.0, 1.0, 1.0, 1.0],
            max_log_scale=max_log_scale,
        )
        finite = tf.reduce_all(tf.math.is_finite(boxes), axis=-1)
        boxes = clip_boxes(tf.where(finite[..., tf.newaxis], boxes, 0.0), image_sizes[:, tf.newaxis])
        has_area = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        scores = tf.where(finite & (has_area | keep_empty), scores, NEVER)
        missing = pre_nms_top_k - tf.shape(scores)[1]
        boxes_per_level.append(tf.pad(boxes, [[0, 0], [0, missing], [0, 0]]))
        scores_per_level.append(tf.pad(scores, [[0, 0], [0, missing]], constant_values=NEVER))
    chosen = _best_boxes(
        tf.stack(boxes_per_level, axis=2),
        tf.stack(scores_per_level, axis=2),
        nms_threshold=nms_threshold,
        per_class=post_nms_top_k,
        total=num_proposals,
    )
    return GeneratedProposals(chosen.boxes, chosen.scores, chosen.valid)


def multiclass_nms(
    boxes: tf.Tensor, scores: tf.Tensor, *, score_threshold: float, nms_threshold: float, max_detections: int
) -> NmsDetections:
    """Compute what `mrcnn_ops.multiclass_nms` does."""
    finite = tf.reduce_all(tf.math.is_finite(boxes), axis=-1)  # [N, R, C or 1]
    allowed = finite & tf.math.is_finite(scores) & (scores > score_threshold)
    return _best_boxes(
        tf.where(finite[..., tf.newaxis], boxes, 0.0),
        tf.where(allowed, scores, NEVER),
        nms_threshold=nms_threshold,
        per_class=max_detections,
        total=max_detections,
    )


def _best_boxes(
    boxes: tf.Tensor, scores: tf.Tensor, *, nms_threshold: float, per_class: int, total: int
) -> NmsDetections:
    """Choose by class-wise NMS among boxes [N, K, C or 1, 4] with scores [N, K, C]; if equal, the lower class first.

    TensorFlow's op gets ranks instead of scores: it pads with candidates of score -1, which would come before logits
    below -1, and it does not define the order of equal scores.
    """
    num_images, num_boxes, num_classes = tf.shape(scores)[0], tf.shape(scores)[1], tf.shape(scores)[2]
    flat = tf.reshape(tf.transpose(scores, [0, 2, 1]), [num_images, -1])  # [N, C * K]
    order = tf.argsort(flat, direction="DESCENDING", stable=True)
    place = tf.reshape(tf.argsort(order), [num_images, num_classes, num_boxes])  # 0 is the best
    count = num_classes * num_boxes
    ranks = tf.where(scores > NEVER, tf.cast(count - tf.transpose(place, [0, 2, 1]), tf.float32), 0.0)
    boxes, ranks, classes, num_chosen = tf.image.combined_non_max_suppression(
        boxes, ranks, per_class, total, nms_threshold, score_threshold=0.5, clip_boxes=False
    )
    valid = tf.range(total) < num_chosen[:, tf.newaxis]  # [N, total]
    chosen = tf.where(valid, count - tf.cast(ranks, tf.int32), 0)
    order = tf.pad(order, [[0, 0], [0, 1]])  # so that an index exists even without boxes
    candidates = tf.where(valid, tf.gather(order, chosen, batch_dims=1), 0)  # [N, total] into C * K
    scores = tf.where(valid, tf.gather(tf.pad(flat, [[0, 0], [0, 1]]), candidates, batch_dims=1), 0.0)
    return NmsDetections(
        boxes=tf.ensure_shape(boxes, [None, total, 4]),
        scores=tf.ensure_shape(scores, [None, total]),
        classes=tf.where(valid, tf.cast(classes, tf.int32) + 1, 0),
        roi_indices=candidates % tf.maximum(num_boxes, 1),
        valid=valid,
    )


PORTABLE_OPS = DetectionOps(multilevel_roi_align, generate_proposals, multiclass_nms, fold_batch_norm, group_norm)
