"""A box head with the options of its stage: which RoIs are foreground, how boxes are encoded, and the losses.

A model has one stage. A cascade (Cai and Vasconcelos 2018) has three; each works on the boxes of the one before.

Shapes: N images, R RoIs an image, C classes with background, B boxes of a RoI (C, or 1 if the classes share one),
P pooled edge.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from mrcnn_model.boxes import clip_boxes, decode_boxes
from mrcnn_model.config import ROI_STRIDES
from mrcnn_model.layers.heads import BoxHead, BoxHeadOutput
from mrcnn_model.structures import Proposals, RoiTargets
from mrcnn_model.targets.losses import box_class_loss, box_errors, box_regression_loss


@dataclass(frozen=True)
class RoiPool:
    """Pools each RoI from a level of the pyramid that its size decides (FPN, equation 1).

    Attributes:
        roi_align: the op, such as `mrcnn_ops.multilevel_roi_align`.
        aligned, canonical_size: its arguments; see its documentation.
    """

    roi_align: Callable[..., tf.Tensor]
    aligned: bool
    canonical_size: float

    def __call__(self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, size: int) -> tf.Tensor:
        """Pool boxes [N, R, 4] to [N * R, size, size, channels]."""
        pooled = self.roi_align(
            list(pyramid[: len(ROI_STRIDES)]),
            boxes,
            strides=ROI_STRIDES,
            output_size=size,
            aligned=self.aligned,
            canonical_size=self.canonical_size,
        )
        return tf.reshape(pooled, [-1, size, size, pooled.shape[-1]])


@dataclass(frozen=True)
class BoxStage:
    """One stage.

    Attributes:
        head: its layers.
        pool: pools its RoIs.
        pool_size: P.
        foreground_iou: a RoI with at least this IoU with a ground truth is foreground.
        weights: weights of its deltas (dx, dy, dw, dh).
        max_log_scale: limit of dw and dh.
        loss, loss_beta: loss of its boxes; see `box_errors`.
        gradient_share: factor of the gradient that reaches the pyramid, 1 / number of stages.
    """

    head: BoxHead
    pool: RoiPool
    pool_size: int
    foreground_iou: float
    weights: Sequence[float]
    max_log_scale: float
    loss: str
    loss_beta: float
    gradient_share: float

    def classify(self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, *, training: bool = False) -> BoxHeadOutput:
        """Run the head on boxes [N, R, 4]: logits [N, R, C] and deltas [N, R, B, 4]."""
        pooled = self.pool(pyramid, boxes, self.pool_size)
        if self.gradient_share < 1:
            pooled = _scale_gradient(pooled, self.gradient_share)
        output = self.head(pooled, training=training)
        num_images, num_boxes = tf.shape(boxes)[0], boxes.shape[1]
        return BoxHeadOutput(
            logits=tf.reshape(output.logits, [num_images, num_boxes, output.logits.shape[-1]]),
            deltas=tf.reshape(output.deltas, [num_images, num_boxes, self.head.num_boxes, 4]),
        )

    def refine(self, output: BoxHeadOutput, boxes: tf.Tensor, image_sizes: tf.Tensor) -> tf.Tensor:
        """Apply deltas to boxes [N, R, 4] and clip: [N, R, B, 4], the background included. No gradient flows."""
        boxes = decode_boxes(
            tf.stop_gradient(output.deltas),
            boxes[:, :, tf.newaxis, :],
            self.weights,
            max_log_scale=self.max_log_scale,
        )
        return clip_boxes(boxes, image_sizes[:, tf.newaxis, tf.newaxis, :])

    def score(self, output: BoxHeadOutput, proposals: Proposals, image_sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Turn the head's output for proposals into scores and boxes without the background.

        Returns:
            Scores [N, R, C-1], 0 where a proposal is not valid; boxes [N, R, C-1 or 1, 4].
        """
        scores = tf.nn.softmax(output.logits)[:, :, 1:]
        boxes = self.refine(output, proposals.boxes, image_sizes)
        boxes = boxes if boxes.shape[2] == 1 else boxes[:, :, 1:]
        return tf.where(proposals.valid[..., tf.newaxis], scores, 0.0), boxes

    def losses(self, output: BoxHeadOutput, rois: RoiTargets) -> tuple[tf.Tensor, tf.Tensor]:
        """Return class and regression loss on the sampled RoIs, float32 scalars."""
        class_loss = box_class_loss(output.logits, rois.classes, rois.sampled)
        errors = box_errors(
            output.deltas,
            rois,
            weights=self.weights,
            loss=self.loss,
            beta=self.loss_beta,
            max_log_scale=self.max_log_scale,
        )
        return class_loss, box_regression_loss(errors, rois.classes, rois.sampled)


def _scale_gradient(x: tf.Tensor, factor: float) -> tf.Tensor:
    """Return `x`; its gradient is multiplied by `factor`."""

    @tf.custom_gradient
    def identity(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.identity(x), lambda dy: dy * factor

    return identity(x)
