"""Targets of anchors and RoIs: labels from matching, sampled and encoded.

Shapes: N images, A anchors, R candidate RoIs, S samples, G ground truths, K crowds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

import mrcnn_ops
from mrcnn_model.boxes import boxes_inside, encode_boxes
from mrcnn_model.config.parts import RoiConfig, RpnConfig
from mrcnn_model.structures import Proposals, RoiTargets, Samples
from mrcnn_model.targets.gathering import gather_ground_truth
from mrcnn_model.targets.sampling import sample_candidates

ANCHOR_SALT, ROI_SALT = 1, 2


class GroundTruth(NamedTuple):
    """The annotated objects of a batch, padded (class 0)."""

    boxes: tf.Tensor  # float32 [N, G, 4]
    classes: tf.Tensor  # int64 [N, G]
    masks: tf.Tensor  # uint8 [N, G, M, M], 0 or 1, each cropped to its box
    has_mask: tf.Tensor  # bool [N, G]
    crowd_boxes: tf.Tensor  # float32 [N, K, 4]

    @property
    def valid(self) -> tf.Tensor:
        """Which rows are objects, bool [N, G]."""
        return self.classes > 0


class AnchorTargets(NamedTuple):
    """Sampled anchors of each image and their target boxes."""

    samples: Samples  # indices into the anchors
    boxes: tf.Tensor  # float32 [N, S, 4], the matched ground truth of the foreground


def anchor_targets(
    anchors: tf.Tensor,
    gt: GroundTruth,
    image_sizes: tf.Tensor,
    seeds: tf.Tensor,
    rpn: RpnConfig,
    *,
    crowd_overlap_threshold: float,
) -> AnchorTargets:
    """Label anchors and sample them (Ren et al. 2015, section 3.1.2).

    Foreground: IoU at or above `rpn_foreground_iou` with some ground truth, or the best anchor of one. Background: IoU
    below `rpn_background_iou` with all, and not in a crowd. With `rpn_label_only_inside`, anchors that leave the image
    are neither; anchors centred in the padding never are.

    Args:
        anchors: float32 [A, 4].
        image_sizes: int32 [N, 2], (h, w).
        seeds: int32 [N, 2].
        crowd_overlap_threshold: an anchor is not background if a crowd covers more than this share of it.
    """
    usable = _usable_anchors(anchors, image_sizes, only_inside=rpn.rpn_label_only_inside)  # [N, A]
    best_iou, best_gt, is_best, crowd_overlap = mrcnn_ops.match_boxes(
        anchors, gt.boxes, gt.valid, gt.crowd_boxes, boxes_valid=usable
    )
    best_gt = tf.cast(best_gt, tf.int64)
    foreground = usable & ((best_iou >= rpn.rpn_foreground_iou) | is_best)
    background = usable & ~foreground & (best_iou < rpn.rpn_background_iou) & (crowd_overlap <= crowd_overlap_threshold)
    samples = sample_candidates(
        foreground,
        background,
        seeds,
        num_samples=rpn.rpn_samples,
        max_foreground=rpn.max_foreground,
        salt=ANCHOR_SALT,
    )
    sampled_gt = tf.gather(best_gt, samples.indices, batch_dims=1)  # [N, S]
    return AnchorTargets(samples, gather_ground_truth(gt.boxes, sampled_gt))


def roi_targets(
    proposals: Proposals,
    gt: GroundTruth,
    seeds: tf.Tensor,
    options: RoiConfig,
    *,
    foreground_iou: float,
    weights: Sequence[float],
) -> RoiTargets:
    """Append the ground truth to the proposals, match, sample and encode (Girshick 2015, section 2.3).

    Args:
        seeds: int32 [N, 2].
        foreground_iou: a RoI with at least this IoU is foreground.
        weights: weights of the deltas.

    Returns:
        RoiTargets with S = roi_samples, or the number of candidates if that is smaller; foreground first.
    """
    candidates = tf.concat([proposals.boxes, gt.boxes], axis=1)  # [N, R + G, 4]
    valid = tf.concat([proposals.valid, gt.valid], axis=1)
    foreground, background, best_gt = _label_rois(
        candidates,
        valid,
        gt,
        foreground_iou=foreground_iou,
        crowd_overlap_threshold=options.crowd_overlap_threshold,
    )
    samples = sample_candidates(
        foreground,
        background,
        seeds,
        num_samples=options.roi_samples,
        max_foreground=options.max_foreground,
        salt=ROI_SALT,
    )
    boxes = tf.gather(candidates, samples.indices, batch_dims=1)  # [N, S, 4]
    boxes = tf.where(samples.sampled[..., tf.newaxis], boxes, 0.0)
    gt_indices = tf.gather(best_gt, samples.indices, batch_dims=1)
    return _encode_rois(boxes, samples.foreground, samples.sampled, gt_indices, gt, weights)


def rematch_rois(
    boxes: tf.Tensor,
    sampled: tf.Tensor,
    gt: GroundTruth,
    *,
    crowd_overlap_threshold: float,
    foreground_iou: float,
    weights: Sequence[float],
) -> RoiTargets:
    """Label the boxes that one stage of a cascade passes to the next (Cai and Vasconcelos 2018, section 4.2).

    They are not sampled again. Boxes without area after clipping are neither foreground nor background.

    Args:
        boxes: float32 [N, S, 4].
        sampled: bool [N, S], True for RoIs, False for padding.
    """
    has_area = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    foreground, background, best_gt = _label_rois(
        boxes,
        sampled & has_area,
        gt,
        foreground_iou=foreground_iou,
        crowd_overlap_threshold=crowd_overlap_threshold,
    )
    return _encode_rois(boxes, foreground, foreground | background, best_gt, gt, weights)


def _label_rois(
    boxes: tf.Tensor, valid: tf.Tensor, gt: GroundTruth, *, foreground_iou: float, crowd_overlap_threshold: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return foreground and background, bool [N, R], and the best ground truth, int64 [N, R]."""
    best_iou, best_gt, _, crowd_overlap = mrcnn_ops.match_boxes(
        boxes, gt.boxes, gt.valid, gt.crowd_boxes, boxes_valid=valid
    )
    foreground = valid & (best_iou >= foreground_iou)
    background = valid & ~foreground & (crowd_overlap <= crowd_overlap_threshold)
    return foreground, background, tf.cast(best_gt, tf.int64)


def _encode_rois(
    boxes: tf.Tensor,
    foreground: tf.Tensor,
    sampled: tf.Tensor,
    best_gt: tf.Tensor,
    gt: GroundTruth,
    weights: Sequence[float],
) -> RoiTargets:
    gt_indices = tf.where(foreground, best_gt, 0)
    deltas = encode_boxes(gather_ground_truth(gt.boxes, gt_indices), boxes, weights)
    return RoiTargets(
        boxes=tf.stop_gradient(boxes),
        classes=tf.where(foreground, gather_ground_truth(gt.classes, gt_indices), 0),
        deltas=tf.where(foreground[..., tf.newaxis], deltas, 0.0),
        gt_indices=gt_indices,
        sampled=sampled,
    )


def _usable_anchors(anchors: tf.Tensor, image_sizes: tf.Tensor, *, only_inside: bool) -> tf.Tensor:
    """Return which anchors can be labelled, bool [N, A]."""
    if only_inside:
        return boxes_inside(anchors, image_sizes)
    # The same rule as for proposals: an anchor is usable if its centre lies in the image.
    height, width = tf.unstack(tf.cast(image_sizes[:, tf.newaxis, :], tf.float32), axis=-1)  # [N, 1]
    x1, y1, x2, y2 = tf.unstack(anchors, axis=-1)
    return ((x1 + x2) * 0.5 < width) & ((y1 + y2) * 0.5 < height)
