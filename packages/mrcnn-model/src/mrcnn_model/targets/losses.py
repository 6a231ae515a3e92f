"""The five losses, float32. Each is the mean over images of per-image losses.

Shapes: N images, S samples, F foreground slots, C classes with background, B boxes of a RoI (C, or 1), m mask edge.
"""

from collections.abc import Sequence

import tensorflow as tf

from mrcnn_model.boxes import decode_boxes, generalized_iou
from mrcnn_model.structures import RoiTargets


def smooth_l1(errors: tf.Tensor, *, beta: float) -> tf.Tensor:
    """Return 0.5 e^2 / beta where |e| < beta, otherwise |e| - beta / 2 (with beta 1, Girshick 2015, equation 3)."""
    size = tf.abs(errors)
    return tf.where(size < beta, 0.5 / beta * tf.square(errors), size - 0.5 * beta)


def huber(errors: tf.Tensor) -> tf.Tensor:
    """Return the Huber loss with delta 1, which is smooth L1 with beta 1."""
    return smooth_l1(errors, beta=1.0)


def rpn_class_loss(logits: tf.Tensor, foreground: tf.Tensor, sampled: tf.Tensor, *, normaliser: int) -> tf.Tensor:
    """Return the sigmoid cross entropy of the sampled anchors, divided by `normaliser`.

    Args:
        logits: float32 [N, S] of the sampled anchors.
        foreground, sampled: bool [N, S].
        normaliser: the number of samples that an image should have, also if it has fewer, as in Tensorpack.
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(foreground, tf.float32), logits=logits)
    return tf.reduce_mean(_masked_sum(entropy, sampled) / normaliser)


def rpn_box_loss(
    deltas: tf.Tensor, target_deltas: tf.Tensor, foreground: tf.Tensor, *, beta: float, normaliser: int
) -> tf.Tensor:
    """Return the smooth L1 loss of the foreground anchors, divided by `normaliser`.

    Args:
        deltas, target_deltas: float32 [N, S, 4].
        foreground: bool [N, S].
    """
    per_anchor = tf.reduce_sum(smooth_l1(deltas - target_deltas, beta=beta), axis=-1)
    return tf.reduce_mean(_masked_sum(per_anchor, foreground) / normaliser)


def box_class_loss(logits: tf.Tensor, classes: tf.Tensor, sampled: tf.Tensor) -> tf.Tensor:
    """Return the softmax cross entropy, averaged over each image's sampled RoIs.

    Args:
        logits: float32 [N, S, C].
        classes: int64 [N, S].
        sampled: bool [N, S].
    """
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits)
    return tf.reduce_mean(_masked_sum(entropy, sampled) / _count(sampled))


def box_regression_loss(errors: tf.Tensor, classes: tf.Tensor, sampled: tf.Tensor) -> tf.Tensor:
    """Return each image's sum of box errors of foreground RoIs, divided by its sampled RoIs; the mean over images.

    Args:
        errors: float32 [N, S], from `box_errors`.
        classes: int64 [N, S], 0 = background.
        sampled: bool [N, S].
    """
    return tf.reduce_mean(_masked_sum(errors, sampled & (classes > 0)) / _count(sampled))


def box_errors(
    deltas: tf.Tensor, rois: RoiTargets, *, weights: Sequence[float], loss: str, beta: float, max_log_scale: float
) -> tf.Tensor:
    """Return the error of each RoI's box, that of its class.

    L1, smooth L1 and Huber add up over the four deltas; GIoU (Rezatofighi et al. 2019) compares the decoded boxes.

    Args:
        deltas: float32 [N, S, B, 4].
        rois: boxes, classes and deltas [N, S, ...] are read.
        weights: weights of the deltas.
        loss: one of `BOX_LOSSES`.
        beta: beta of smooth L1.
        max_log_scale: limit of dw and dh, for GIoU.

    Returns:
        float32 [N, S]; the values of background and padding are finite and must not be used.
    """
    own = deltas[:, :, 0] if deltas.shape[2] == 1 else tf.gather(deltas, rois.classes, batch_dims=2)  # [N, S, 4]
    if loss == "giou":
        decoded, target = (
            decode_boxes(d, rois.boxes, weights, max_log_scale=max_log_scale) for d in (own, rois.deltas)
        )
        return 1.0 - generalized_iou(decoded, target)
    errors = own - rois.deltas
    if loss == "l1":
        return tf.reduce_sum(tf.abs(errors), axis=-1)
    return tf.reduce_sum(huber(errors) if loss == "huber" else smooth_l1(errors, beta=beta), axis=-1)


def mask_loss(logits: tf.Tensor, targets: tf.Tensor, has_mask: tf.Tensor) -> tf.Tensor:
    """Return the sigmoid cross entropy, averaged over pixels and each image's foreground RoIs that have a mask.

    An image without such RoIs adds 0 and counts in the mean over images.

    Args:
        logits, targets: float32 [N, F, m, m]; targets may lie between 0 and 1.
        has_mask: bool [N, F].
    """
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits)
    per_roi = tf.reduce_mean(entropy, axis=[2, 3])
    return tf.reduce_mean(_masked_sum(per_roi, has_mask) / _count(has_mask))


def _masked_sum(values: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Sum [N, S] to [N]. By tf.where, not by a product, because a masked value may be infinite."""
    return tf.reduce_sum(tf.where(mask, values, 0.0), axis=1)


def _count(mask: tf.Tensor) -> tf.Tensor:
    return tf.maximum(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1), 1.0)
