"""Steps of `MaskRCNN.losses`, in the order in which it calls them.

Shapes: N images, A anchors over all levels, S sampled anchors or RoIs, F foreground slots, m mask edge.
"""

from collections.abc import Sequence

import tensorflow as tf

from mrcnn_model.box_stage import BoxStage
from mrcnn_model.boxes import encode_boxes
from mrcnn_model.config.parts import RpnConfig
from mrcnn_model.layers.heads import BoxHeadOutput
from mrcnn_model.structures import Proposals, RoiTargets, RpnOutput
from mrcnn_model.targets.assignment import AnchorTargets, GroundTruth, rematch_rois
from mrcnn_model.targets.losses import rpn_box_loss, rpn_class_loss


def rpn_losses(
    rpn_output: RpnOutput, anchors: tf.Tensor, targets: AnchorTargets, options: RpnConfig
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return class and box loss of the sampled anchors, float32 scalars.

    Args:
        anchors: all anchors, float32 [A, 4].
    """
    normaliser = options.rpn_samples
    samples = targets.samples
    sampled_anchors = tf.gather(anchors, samples.indices)  # [N, S, 4]
    sampled_logits = tf.gather(rpn_output.logits, samples.indices, batch_dims=1)  # [N, S]
    sampled_deltas = tf.gather(rpn_output.deltas, samples.indices, batch_dims=1)  # [N, S, 4]
    target_deltas = encode_boxes(targets.boxes, sampled_anchors, [1.0, 1.0, 1.0, 1.0])
    class_loss = rpn_class_loss(sampled_logits, samples.foreground, samples.sampled, normaliser=normaliser)
    box_loss = rpn_box_loss(
        sampled_deltas, target_deltas, samples.foreground, beta=options.rpn_box_loss_beta, normaliser=normaliser
    )
    return class_loss, box_loss


def box_stage_losses(
    stages: Sequence[BoxStage],
    pyramid: Sequence[tf.Tensor],
    rois: RoiTargets,
    gt: GroundTruth,
    image_sizes: tf.Tensor,
    *,
    crowd_overlap_threshold: float,
) -> tuple[BoxHeadOutput, tf.Tensor, tf.Tensor]:
    """Run the box stages one after the other, each on the boxes of the one before.

    Returns:
        The output of the first stage for the sampled RoIs [N, S, ...]; class and regression loss, summed over stages.
    """
    output = stages[0].classify(pyramid, rois.boxes, training=True)
    losses = [stages[0].losses(output, rois)]
    refined, before = output, stages[0]
    for stage in stages[1:]:
        boxes = before.refine(refined, rois.boxes, image_sizes)[:, :, 0]
        rois = rematch_rois(
            boxes,
            rois.sampled,
            gt,
            crowd_overlap_threshold=crowd_overlap_threshold,
            foreground_iou=stage.foreground_iou,
            weights=stage.weights,
        )
        pyramid = branch(pyramid)
        refined, before = stage.classify(pyramid, rois.boxes, training=True), stage
        losses.append(stage.losses(refined, rois))
    class_losses, box_losses = zip(*losses, strict=True)
    return output, tf.add_n(class_losses), tf.add_n(box_losses)


def branch(pyramid: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Return the same features for one more use, so that the gradients of P2 to P4 are summed two at a time.

    Grappler (TensorFlow 2.21) turns a sum of three or more into additions to a buffer of zeros, which it may keep as a
    constant as large as the features: 78 MiB for an image of 800 x 1216.
    """
    return [tf.identity(features) for features in pyramid]


def training_stats(
    from_anchors: AnchorTargets, proposals: Proposals, rois: RoiTargets, output: BoxHeadOutput
) -> dict[str, tf.Tensor]:
    """Return numbers to log, float32 scalars; see `MaskRCNN.losses`."""
    is_foreground = rois.classes > 0
    is_right = tf.argmax(output.logits, axis=-1) == rois.classes
    return {
        "foreground_anchors": _mean_count(from_anchors.samples.foreground),
        "valid_proposals": _mean_count(proposals.valid),
        "foreground_rois": _mean_count(is_foreground),
        "sampled_rois": _mean_count(rois.sampled),
        "box_accuracy": _share(is_right, rois.sampled),
        "foreground_accuracy": _share(is_right, is_foreground),
    }


def _mean_count(mask: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1))


def _share(hits: tf.Tensor, among: tf.Tensor) -> tf.Tensor:
    count = tf.reduce_sum(tf.cast(among, tf.float32))
    return tf.reduce_sum(tf.cast(hits & among, tf.float32)) / tf.maximum(count, 1.0)
