"""The network, put together: pixels in, losses or detections out.

Shapes: N images, H x W padded size, G ground truths, K crowds, A anchors over all levels, R proposals, S sampled RoIs,
F foreground slots of them, C classes with background, D detections, m mask edge.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from mrcnn_model.anchors import level_anchors
from mrcnn_model.boxes import clip_boxes, decode_boxes, encode_boxes
from mrcnn_model.config import ROI_STRIDES, STRIDES, ModelConfig
from mrcnn_model.fpn import Fpn
from mrcnn_model.gathering import gather_ground_truth
from mrcnn_model.heads import BoxHead, BoxHeadOutput, MaskHead
from mrcnn_model.losses import (
    box_class_loss,
    box_regression_loss,
    huber,
    mask_loss,
    rpn_box_loss,
    rpn_class_loss,
)
from mrcnn_model.mask_targets import mask_targets
from mrcnn_model.resnet import ResNet
from mrcnn_model.rpn import RpnHead
from mrcnn_model.structures import Detections, Losses, Proposals, RoiTargets, RpnOutput
from mrcnn_model.targets import AnchorTargets, GroundTruth, anchor_targets, roi_targets
from mrcnn_ops import generate_proposals, multiclass_nms, multilevel_roi_align

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
ELEMENT_LOSSES = {"huber": huber, "l1": tf.abs}


class MaskRCNN:
    """Mask R-CNN on a feature pyramid. Make one with `build_model`.

    Not a Keras layer itself: coordinates pass between the parts in float32, and a mixed-precision layer would cast
    them to half (1333.7 becomes 1334) on the way in.

    Attributes:
        config: the ModelConfig it was built from.
        parts: the Keras layers that own variables: backbone, fpn, rpn, box head, mask head.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        backbone: ResNet,
        fpn: Fpn,
        rpn: RpnHead,
        box_head: BoxHead,
        mask_head: MaskHead,
    ) -> None:
        self.config = config
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.box_head = box_head
        self.mask_head = mask_head
        self.parts: tuple[keras.layers.Layer, ...] = (backbone, fpn, rpn, box_head, mask_head)

    # Variables

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables, in the order of construction."""
        return [v for part in self.parts for v in part.variables]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """Those that train, in the order of construction."""
        return [v for part in self.parts for v in part.trainable_variables]

    @property
    def decayed_variables(self) -> list[keras.Variable]:
        """The trainable kernels: weight decay applies to W, not to biases or norms."""
        return [v for v in self.trainable_variables if v.name == "kernel"]

    # Training

    def losses(
        self,
        images: tf.Tensor,
        image_sizes: tf.Tensor,
        gt_boxes: tf.Tensor,
        gt_classes: tf.Tensor,
        gt_masks: tf.Tensor,
        gt_has_mask: tf.Tensor,
        crowd_boxes: tf.Tensor,
        sample_seeds: tf.Tensor,
    ) -> tuple[Losses, dict[str, tf.Tensor]]:
        """Compute the training losses of a batch.

        Args:
            images: uint8 or float [N, H, W, 3], RGB, 0 to 255; H and W multiples of 32; zero outside `image_sizes`.
            image_sizes: int32 [N, 2], valid (h, w).
            gt_boxes: float32 [N, G, 4], pixels of the resized image.
            gt_classes: int32 [N, G], contiguous; 0 = padding.
            gt_masks: uint8 [N, G, M, M], 0 or 1, each cropped to its box.
            gt_has_mask: bool [N, G]; False keeps an instance out of the mask loss.
            crowd_boxes: float32 [N, K, 4]; all-zero rows are padding.
            sample_seeds: int32 [N, 2]; what is sampled in an image depends on its own seed only.

        Returns:
            The losses, and float32 scalars to log: means over images of the numbers of foreground anchors and
            RoIs and of the valid proposals, and the box head's accuracy on all and on foreground RoIs. An image without
            ground truth gives finite losses; its box and mask regression losses are 0.
        """
        gt = GroundTruth(gt_boxes, gt_classes, gt_masks, gt_has_mask, crowd_boxes)
        pyramid = self.features(images, image_sizes)
        rpn_output = self.rpn(pyramid)
        anchors = self.anchors(pyramid)
        proposals = self.proposals(rpn_output, pyramid, image_sizes, training=True)

        from_anchors = anchor_targets(anchors, gt, image_sizes, sample_seeds, self.config)
        rpn_class, rpn_box = self.rpn_losses(rpn_output, anchors, from_anchors)
        rois = roi_targets(proposals, gt, sample_seeds, self.config)
        output = self.classify(pyramid, rois.boxes)
        box_class, box_reg = self.box_losses(output, rois)
        mask = self.mask_loss(pyramid, rois, gt)
        stats = _training_stats(from_anchors, proposals, rois, output)
        return Losses(rpn_class, rpn_box, box_class, box_reg, mask), stats

    def rpn_losses(
        self, rpn_output: RpnOutput, anchors: tf.Tensor, targets: AnchorTargets
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Class and box loss of the sampled anchors, float32 scalars."""
        config = self.config
        samples = targets.samples
        sampled_anchors = tf.gather(anchors, samples.indices)  # [N, S, 4]
        sampled_logits = tf.gather(rpn_output.logits, samples.indices, batch_dims=1)  # [N, S]
        sampled_deltas = tf.gather(rpn_output.deltas, samples.indices, batch_dims=1)  # [N, S, 4]
        target_deltas = encode_boxes(targets.boxes, sampled_anchors, [1.0, 1.0, 1.0, 1.0])
        class_loss = rpn_class_loss(sampled_logits, samples.foreground, samples.sampled, normaliser=config.rpn_samples)
        box_loss = rpn_box_loss(
            sampled_deltas,
            target_deltas,
            samples.foreground,
            beta=config.rpn_box_loss_beta,
            normaliser=config.rpn_samples,
        )
        return class_loss, box_loss

    def box_losses(self, output: BoxHeadOutput, rois: RoiTargets) -> tuple[tf.Tensor, tf.Tensor]:
        """Class and regression loss of the box head ([N, S, ...]) on the sampled RoIs, float32 scalars."""
        class_loss = box_class_loss(output.logits, rois.classes, rois.sampled)
        box_loss = box_regression_loss(
            output.deltas,
            rois.deltas,
            rois.classes,
            rois.sampled,
            element_loss=ELEMENT_LOSSES[self.config.box_loss],
        )
        return class_loss, box_loss

    def mask_loss(self, pyramid: Sequence[tf.Tensor], rois: RoiTargets, gt: GroundTruth) -> tf.Tensor:
        """Mask loss on the slots that can hold foreground (foreground comes first), a float32 scalar."""
        num_slots = min(self.config.roi_max_foreground, rois.boxes.shape[1])
        boxes, classes = rois.boxes[:, :num_slots], rois.classes[:, :num_slots]  # [N, F, 4], [N, F]
        gt_indices = rois.gt_indices[:, :num_slots]
        targets = mask_targets(gt.masks, gt.boxes, gt_indices, boxes, size=self.config.mask_size)
        has_mask = gather_ground_truth(gt.has_mask, gt_indices) & (classes > 0)
        return mask_loss(self.mask_logits(pyramid, boxes, classes), targets, has_mask)

    # Inference

    def detect(self, images: tf.Tensor, image_sizes: tf.Tensor) -> Detections:
        """Find the objects of a batch of images.

        Args:
            images: uint8 or float [N, H, W, 3], RGB, 0 to 255; H and W multiples of 32; zero outside `image_sizes`.
            image_sizes: int32 [N, 2], valid (h, w).

        Returns:
            Detections with D = config.detections_per_image, boxes in pixels of `images`, best first. Nothing found:
            `valid` is all False and everything else 0.
        """
        pyramid = self.features(images, image_sizes)
        proposals = self.proposals(self.rpn(pyramid), pyramid, image_sizes, training=False)
        scores, boxes = self.scored_boxes(self.classify(pyramid, proposals.boxes), proposals, image_sizes)
        boxes, scores, classes, _, valid = multiclass_nms(
            boxes,
            scores,
            score_threshold=self.config.score_threshold,
            nms_threshold=self.config.detection_nms_threshold,
            max_detections=self.config.detections_per_image,
        )
        masks = tf.sigmoid(self.mask_logits(pyramid, boxes, classes))
        return Detections(boxes, scores, classes, tf.where(valid[..., tf.newaxis, tf.newaxis], masks, 0.0), valid)

    def scored_boxes(
        self, output: BoxHeadOutput, proposals: Proposals, image_sizes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Turn the box head's output into foreground scores [N, R, C-1] (0 where invalid) and boxes [N, R, C-1, 4]."""
        scores = tf.nn.softmax(output.logits)[:, :, 1:]
        boxes = decode_boxes(
            output.deltas[:, :, 1:],
            proposals.boxes[:, :, tf.newaxis, :],
            self.config.box_regression_weights,
            max_log_scale=self.config.max_log_scale,
        )
        boxes = clip_boxes(boxes, image_sizes[:, tf.newaxis, tf.newaxis, :])
        return tf.where(proposals.valid[..., tf.newaxis], scores, 0.0), boxes

    # Stages shared by both

    def features(self, images: tf.Tensor, image_sizes: tf.Tensor) -> list[tf.Tensor]:
        """Pixels to the pyramid P2..P6, each [N, H / stride, W / stride, channels] in the compute type."""
        return self.fpn(self.backbone(normalise_images(images, image_sizes, self.config)))

    def anchors(self, pyramid: Sequence[tf.Tensor]) -> tf.Tensor:
        """float32 [A, 4] in pixels of the resized image, level after level."""
        config = self.config
        per_level = [
            level_anchors(*_map_size(features), stride=stride, size=size, ratios=config.anchor_ratios)
            for features, stride, size in zip(pyramid, STRIDES, config.anchor_sizes, strict=True)
        ]
        return tf.concat(per_level, axis=0)

    def proposals(
        self, rpn_output: RpnOutput, pyramid: Sequence[tf.Tensor], image_sizes: tf.Tensor, *, training: bool
    ) -> Proposals:
        """The best boxes of the region proposal network; no gradient flows through them (Ren et al. 2015)."""
        config = self.config
        sizes = [_map_size(features) for features in pyramid]
        boxes, scores, valid = generate_proposals(
            tf.stop_gradient(rpn_output.logits),
            tf.stop_gradient(rpn_output.deltas),
            self.anchors(pyramid),
            image_sizes,
            tf.stack([height * width * config.num_anchors for height, width in sizes]),
            pre_nms_top_k=config.train_pre_nms_top_k if training else config.detect_pre_nms_top_k,
            post_nms_top_k=config.train_post_nms_top_k if training else config.detect_post_nms_top_k,
            num_proposals=config.train_proposals if training else config.detect_proposals,
            nms_threshold=config.rpn_nms_threshold,
            max_log_scale=config.max_log_scale,
            keep_empty=config.keep_empty_proposals,
            keep_padding_anchors=config.keep_padding_anchors,
        )
        return Proposals(boxes, scores, valid)

    def pool(self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, size: int) -> tf.Tensor:
        """ROIAlign boxes [N, R, 4] to [N * R, size, size, channels]."""
        pooled = multilevel_roi_align(
            list(pyramid[: len(ROI_STRIDES)]),
            boxes,
            strides=ROI_STRIDES,
            output_size=size,
            canonical_size=self.config.canonical_size,
        )
        return tf.reshape(pooled, [-1, size, size, pooled.shape[-1]])

    def classify(self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor) -> BoxHeadOutput:
        """Run the box head on boxes [N, R, 4]: logits [N, R, C] and deltas [N, R, C, 4]."""
        output = self.box_head(self.pool(pyramid, boxes, self.config.box_pool_size))
        num_images, num_boxes = tf.shape(boxes)[0], boxes.shape[1]
        num_classes = self.config.num_classes
        return BoxHeadOutput(
            logits=tf.reshape(output.logits, [num_images, num_boxes, num_classes]),
            deltas=tf.reshape(output.deltas, [num_images, num_boxes, num_classes, 4]),
        )

    def mask_logits(self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Run the mask head on boxes [N, F, 4] for classes [N, F]: float32 [N, F, m, m]."""
        logits = self.mask_head(self.pool(pyramid, boxes, self.config.mask_pool_size), tf.reshape(classes, [-1]))
        size = self.config.mask_size
        return tf.reshape(logits, [tf.shape(boxes)[0], boxes.shape[1], size, size])


def build_model(config: ModelConfig, *, precision: str = "float32") -> MaskRCNN:
    """Make a network with fresh variables.

    Seed them with `keras.utils.set_random_seed` before. The last norm of every residual block starts at scale 0, so
    that activations keep their size without pretrained weights (Goyal et al. 2017, section 5.1).

    Args:
        precision: "float32", "mixed_float16" or "mixed_bfloat16": the type of convolutions and matrix products.
            Variables, coordinates and losses are float32 whatever it is.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    dtype = keras.DTypePolicy(precision)
    backbone = ResNet(
        depth=config.backbone,
        width=config.backbone_width,
        norm=config.norm,
        gn_groups=config.gn_groups,
        freeze_at=config.freeze_at,
        dtype=dtype,
    )
    return MaskRCNN(
        config=config,
        backbone=backbone,
        fpn=Fpn(
            in_channels=backbone.out_channels,
            channels=config.fpn_channels,
            norm=config.fpn_norm,
            gn_groups=config.gn_groups,
            dtype=dtype,
        ),
        rpn=RpnHead(
            in_channels=config.fpn_channels,
            channels=config.rpn_channels,
            num_anchors=config.num_anchors,
            dtype=dtype,
        ),
        box_head=BoxHead(
            in_channels=config.fpn_channels,
            pool_size=config.box_pool_size,
            num_convs=config.box_head_convs,
            channels=config.box_head_channels,
            num_classes=config.num_classes,
            norm=config.head_norm,
            gn_groups=config.gn_groups,
            dtype=dtype,
        ),
        mask_head=MaskHead(
            in_channels=config.fpn_channels,
            channels=config.mask_head_channels,
            num_convs=config.mask_head_convs,
            num_classes=config.num_classes,
            norm=config.head_norm,
            gn_groups=config.gn_groups,
            dtype=dtype,
        ),
    )


def normalise_images(images: tf.Tensor, image_sizes: tf.Tensor, config: ModelConfig) -> tf.Tensor:
    """Subtract the mean, divide by the standard deviation, and zero what lies outside each image.

    Zero padding is not zero after normalisation, so it is zeroed again: the network sees the same border whatever
    the canvas.

    Args:
        images: uint8 or float [N, H, W, 3], RGB, 0 to 255.
        image_sizes: int32 [N, 2], (h, w).

    Returns:
        float32 [N, H, W, 3].
    """
    # One multiply-add per pixel: x / std - mean / std.
    scale = 1.0 / tf.constant(config.pixel_std, tf.float32)
    shift = -tf.constant(config.pixel_mean, tf.float32) * scale
    normalised = tf.cast(images, tf.float32) * scale + shift
    height, width = _map_size(images)
    rows = tf.range(height)[tf.newaxis, :] < image_sizes[:, :1]  # [N, H]
    columns = tf.range(width)[tf.newaxis, :] < image_sizes[:, 1:]  # [N, W]
    inside = rows[:, :, tf.newaxis, tf.newaxis] & columns[:, tf.newaxis, :, tf.newaxis]  # [N, H, W, 1]
    return tf.where(inside, normalised, 0.0)


def _map_size(features: tf.Tensor) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """(height, width) of [N, H, W, C], as numbers where they are static."""
    dynamic = tf.shape(features)
    height, width = features.shape[1], features.shape[2]
    return (dynamic[1] if height is None else height), (dynamic[2] if width is None else width)


def _training_stats(
    from_anchors: AnchorTargets, proposals: Proposals, rois: RoiTargets, output: BoxHeadOutput
) -> dict[str, tf.Tensor]:
    is_foreground = rois.classes > 0
    is_right = tf.argmax(output.logits, axis=-1, output_type=tf.int32) == rois.classes
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
