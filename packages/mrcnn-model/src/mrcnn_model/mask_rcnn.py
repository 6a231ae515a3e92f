"""The network, put together: pixels in, losses or detections out.

Shapes: N images, H x W padded size, G ground truths, K crowds, A anchors over all levels, R proposals, S sampled RoIs,
F foreground slots of them, C classes with background, D detections, m mask edge.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

import mrcnn_ops
from mrcnn_model.anchors import level_anchors
from mrcnn_model.boxes import clip_boxes, decode_boxes, encode_boxes
from mrcnn_model.config import ROI_STRIDES, STRIDES, ModelConfig
from mrcnn_model.layers.fpn import Fpn
from mrcnn_model.layers.heads import BoxHead, BoxHeadOutput, MaskHead
from mrcnn_model.layers.normalization import MeanOverProcesses, Norm
from mrcnn_model.layers.resnet import ResNet
from mrcnn_model.layers.rpn import RpnHead
from mrcnn_model.structures import Detections, Losses, Proposals, RoiTargets, RpnOutput
from mrcnn_model.targets.assignment import AnchorTargets, GroundTruth, anchor_targets, rematch_rois, roi_targets
from mrcnn_model.targets.gathering import gather_ground_truth
from mrcnn_model.targets.losses import (
    box_class_loss,
    box_errors,
    box_regression_loss,
    mask_loss,
    rpn_box_loss,
    rpn_class_loss,
)
from mrcnn_model.targets.mask_targets import mask_targets

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


class BoxStage(NamedTuple):
    """A box head, from which IoU its RoIs are foreground, and the weights of its deltas. A cascade has three."""

    head: BoxHead
    foreground_iou: float
    weights: Sequence[float]


class DetectionOps(NamedTuple):
    """The compiled ops that detection needs; `portable` has others of the same arguments."""

    multilevel_roi_align: Callable = mrcnn_ops.multilevel_roi_align
    generate_proposals: Callable = mrcnn_ops.generate_proposals
    multiclass_nms: Callable = mrcnn_ops.multiclass_nms


COMPILED_OPS = DetectionOps()


class MaskRCNN:
    """Mask R-CNN on a feature pyramid. Make one with `build_model`.

    Not a Keras layer itself: coordinates pass between the parts in float32, and a mixed-precision layer would cast
    them to half (1333.7 becomes 1334) on the way in.

    Attributes:
        config: the ModelConfig it was built from.
        box_stages: one, or the three of a cascade.
        mask_head: None in a model without masks.
        ops: by what RoIs are pooled, proposals made and detections chosen.
        parts: the Keras layers that own variables: backbone, fpn, rpn, box heads, mask head.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        backbone: ResNet,
        fpn: Fpn,
        rpn: RpnHead,
        box_stages: Sequence[BoxStage],
        mask_head: MaskHead | None,
        ops: DetectionOps,
    ) -> None:
        self.config = config
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.box_stages = tuple(box_stages)
        self.mask_head = mask_head
        self.ops = ops
        heads = [stage.head for stage in box_stages] + ([] if mask_head is None else [mask_head])
        self.parts: tuple[keras.layers.Layer, ...] = (backbone, fpn, rpn, *heads)

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
        gt = GroundTruth(*map(tf.convert_to_tensor, (gt_boxes, gt_classes, gt_masks, gt_has_mask, crowd_boxes)))
        pyramid = self.features(images, image_sizes, training=True)
        rpn_output = self.rpn(pyramid, training=True)
        anchors = self.anchors(pyramid)
        proposals = self.proposals(rpn_output, pyramid, image_sizes, training=True)

        from_anchors = anchor_targets(anchors, gt, image_sizes, sample_seeds, self.config)
        rpn_class, rpn_box = self.rpn_losses(rpn_output, anchors, from_anchors)
        first = self.box_stages[0]
        rois = roi_targets(
            proposals, gt, sample_seeds, self.config, foreground_iou=first.foreground_iou, weights=first.weights
        )
        pyramid = _branch(pyramid)  # gradients: RPN + (boxes + mask)
        output, box_class, box_reg = self.box_stage_losses(_branch(pyramid), rois, gt, image_sizes)
        mask = self.mask_loss(pyramid, rois, gt) if self.mask_head else tf.constant(0.0)
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

    def box_stage_losses(
        self, pyramid: Sequence[tf.Tensor], rois: RoiTargets, gt: GroundTruth, image_sizes: tf.Tensor
    ) -> tuple[BoxHeadOutput, tf.Tensor, tf.Tensor]:
        """Run the box stages one after the other, each on the boxes of the one before.

        Returns:
            What the first says of the sampled RoIs [N, S, ...], and class and regression loss, summed over the stages.
        """
        output = self.classify(pyramid, rois.boxes, training=True)
        losses = [self.box_losses(output, rois)]
        refined = output
        for index, stage in enumerate(self.box_stages[1:], start=1):
            boxes = self.refined_boxes(refined, rois.boxes, image_sizes, index - 1)[:, :, 0]
            rois = rematch_rois(
                boxes, rois.sampled, gt, self.config, foreground_iou=stage.foreground_iou, weights=stage.weights
            )
            pyramid = _branch(pyramid)
            refined = self.classify(pyramid, rois.boxes, index, training=True)
            losses.append(self.box_losses(refined, rois, index))
        class_losses, box_losses = zip(*losses, strict=True)
        return output, tf.add_n(class_losses), tf.add_n(box_losses)

    def box_losses(self, output: BoxHeadOutput, rois: RoiTargets, stage: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
        """Class and regression loss of a box head ([N, S, ...]) on the sampled RoIs, float32 scalars."""
        class_loss = box_class_loss(output.logits, rois.classes, rois.sampled)
        errors = box_errors(output.deltas, rois, self.box_stages[stage].weights, self.config)
        return class_loss, box_regression_loss(errors, rois.classes, rois.sampled)

    def mask_loss(self, pyramid: Sequence[tf.Tensor], rois: RoiTargets, gt: GroundTruth) -> tf.Tensor:
        """Mask loss on the slots that can hold foreground (foreground comes first), a float32 scalar."""
        num_slots = min(self.config.roi_max_foreground, rois.boxes.shape[1])
        boxes, classes = rois.boxes[:, :num_slots], rois.classes[:, :num_slots]  # [N, F, 4], [N, F]
        gt_indices = rois.gt_indices[:, :num_slots]
        targets = mask_targets(gt.masks, gt.boxes, gt_indices, boxes, size=self.config.mask_size)
        has_mask = gather_ground_truth(gt.has_mask, gt_indices) & (classes > 0)
        return mask_loss(self.mask_logits(pyramid, boxes, classes, training=True), targets, has_mask)

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
        scores, boxes = self.classified_boxes(pyramid, proposals, image_sizes)
        chosen = self.ops.multiclass_nms(
            boxes,
            scores,
            score_threshold=self.config.score_threshold,
            nms_threshold=self.config.detection_nms_threshold,
            max_detections=self.config.detections_per_image,
        )
        boxes, classes, valid = chosen.boxes, chosen.classes, chosen.valid
        if self.mask_head is None:
            masks = tf.zeros([tf.shape(boxes)[0], boxes.shape[1], 0, 0])
        else:
            masks = tf.sigmoid(self.mask_logits(pyramid, boxes, classes))
            masks = tf.where(valid[..., tf.newaxis, tf.newaxis], masks, 0.0)
        return Detections(boxes, chosen.scores, classes, masks, valid)

    def classified_boxes(
        self, pyramid: Sequence[tf.Tensor], proposals: Proposals, image_sizes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Run the box stages: scores [N, R, C-1], the mean over stages, and the boxes of the last [N, R, B, 4]."""
        stage_scores = []
        for index, _ in enumerate(self.box_stages):
            output = self.classify(pyramid, proposals.boxes, index)
            scores, boxes = self.scored_boxes(output, proposals, image_sizes, index)
            stage_scores.append(scores)
            proposals = proposals._replace(boxes=boxes[:, :, 0])
        return tf.add_n(stage_scores) / len(stage_scores), boxes

    def scored_boxes(
        self, output: BoxHeadOutput, proposals: Proposals, image_sizes: tf.Tensor, stage: int = 0
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Turn a box head's output into foreground scores [N, R, C-1] (0 where invalid) and boxes [N, R, B, 4].

        B is C-1, or 1 where all classes share a box.
        """
        scores = tf.nn.softmax(output.logits)[:, :, 1:]
        boxes = self.refined_boxes(output, proposals.boxes, image_sizes, stage)
        boxes = boxes if boxes.shape[2] == 1 else boxes[:, :, 1:]
        return tf.where(proposals.valid[..., tf.newaxis], scores, 0.0), boxes

    def refined_boxes(self, output: BoxHeadOutput, boxes: tf.Tensor, image_sizes: tf.Tensor, stage: int) -> tf.Tensor:
        """Apply deltas to boxes [N, R, 4] and clip: [N, R, B, 4], B counting the background. No gradient flows."""
        boxes = decode_boxes(
            tf.stop_gradient(output.deltas),
            boxes[:, :, tf.newaxis, :],
            self.box_stages[stage].weights,
            max_log_scale=self.config.max_log_scale,
        )
        return clip_boxes(boxes, image_sizes[:, tf.newaxis, tf.newaxis, :])

    # Stages shared by both

    def features(self, images: tf.Tensor, image_sizes: tf.Tensor, *, training: bool = False) -> list[tf.Tensor]:
        """Pixels to the pyramid P2..P6, each [N, H / stride, W / stride, channels] in the compute type."""
        features = self.backbone(normalise_images(images, image_sizes, self.config), training=training)
        return self.fpn(features, training=training)

    def anchors(self, pyramid: Sequence[tf.Tensor]) -> tf.Tensor:
        """float32 [A, 4] in pixels of the resized image, level after level."""
        config = self.config
        per_level = [
            level_anchors(
                *_map_size(features),
                stride=stride,
                size=size,
                ratios=config.anchor_ratios,
                rounded=config.round_anchors,
            )
            for features, stride, size in zip(pyramid, STRIDES, config.anchor_sizes, strict=True)
        ]
        return tf.concat(per_level, axis=0)

    def proposals(
        self, rpn_output: RpnOutput, pyramid: Sequence[tf.Tensor], image_sizes: tf.Tensor, *, training: bool
    ) -> Proposals:
        """The best boxes of the region proposal network; no gradient flows through them (Ren et al. 2015)."""
        config = self.config
        sizes = [_map_size(features) for features in pyramid]
        boxes, scores, valid = self.ops.generate_proposals(
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
        pooled = self.ops.multilevel_roi_align(
            list(pyramid[: len(ROI_STRIDES)]),
            boxes,
            strides=ROI_STRIDES,
            output_size=size,
            aligned=self.config.roi_align_aligned,
            canonical_size=self.config.canonical_size,
        )
        return tf.reshape(pooled, [-1, size, size, pooled.shape[-1]])

    def classify(
        self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, stage: int = 0, *, training: bool = False
    ) -> BoxHeadOutput:
        """Run a box head on boxes [N, R, 4]: logits [N, R, C] and deltas [N, R, B, 4]."""
        pooled = self.pool(pyramid, boxes, self.config.box_pool_size)
        if len(self.box_stages) > 1:
            pooled = _scale_gradient(pooled, 1 / len(self.box_stages))
        head = self.box_stages[stage].head
        output = head(pooled, training=training)
        num_images, num_boxes = tf.shape(boxes)[0], boxes.shape[1]
        return BoxHeadOutput(
            logits=tf.reshape(output.logits, [num_images, num_boxes, self.config.num_classes]),
            deltas=tf.reshape(output.deltas, [num_images, num_boxes, head.num_boxes, 4]),
        )

    def mask_logits(
        self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, classes: tf.Tensor, *, training: bool = False
    ) -> tf.Tensor:
        """Run the mask head on boxes [N, F, 4] for classes [N, F]: float32 [N, F, m, m]."""
        assert self.mask_head is not None
        pooled = self.pool(pyramid, boxes, self.config.mask_pool_size)
        logits = self.mask_head(pooled, tf.reshape(classes, [-1]), training=training)
        size = self.config.mask_size
        return tf.reshape(logits, [tf.shape(boxes)[0], boxes.shape[1], size, size])


def build_model(
    config: ModelConfig,
    *,
    precision: str = "float32",
    mean_over_processes: MeanOverProcesses = tf.identity,
    ops: DetectionOps = COMPILED_OPS,
) -> MaskRCNN:
    """Make a network with fresh variables.

    Seed them with `keras.utils.set_random_seed` before. With `config.zero_residual_scale` the last norm of every
    residual block starts at scale 0, so that activations keep their size without pretrained weights (Goyal et al. 2017,
    section 5.1).

    Args:
        precision: "float32", "mixed_float16" or "mixed_bfloat16": the type of convolutions and matrix products.
            Variables, coordinates and losses are float32 whatever it is.
        mean_over_processes: what `norm="sync_bn"` shares its statistics with: takes a float32 tensor of this process
            and returns its mean over all processes; for one process the identity.
        ops: by what RoIs are pooled, proposals made and detections chosen.

    Raises:
        ValueError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    dtype = keras.DTypePolicy(precision)
    backbone = ResNet(
        depth=config.backbone,
        width=config.backbone_width,
        norm=Norm(
            config.norm,
            groups=config.gn_groups,
            epsilon=config.norm_epsilon,
            freeze_affine=config.freeze_affine,
            mean_over_processes=mean_over_processes,
        ),
        freeze_at=config.freeze_at,
        symmetric_padding=config.symmetric_padding,
        stride_in_1x1=config.stride_in_1x1,
        zero_residual_scale=config.zero_residual_scale,
        dtype=dtype,
    )
    return MaskRCNN(
        config=config,
        backbone=backbone,
        fpn=Fpn(
            in_channels=backbone.out_channels,
            channels=config.fpn_channels,
            norm=_head_norm(config.fpn_norm, config),
            dtype=dtype,
        ),
        rpn=RpnHead(
            in_channels=config.fpn_channels,
            channels=config.rpn_channels,
            num_anchors=config.num_anchors,
            dtype=dtype,
        ),
        box_stages=_box_stages(config, dtype),
        mask_head=_mask_head(config, dtype) if config.masks else None,
        ops=ops,
    )


def _box_stages(config: ModelConfig, dtype: keras.DTypePolicy) -> list[BoxStage]:
    def head(name: str, *, class_agnostic: bool) -> BoxHead:
        return BoxHead(
            in_channels=config.fpn_channels,
            pool_size=config.box_pool_size,
            num_convs=config.box_head_convs,
            num_fcs=config.box_head_fcs,
            channels=config.box_head_channels,
            num_classes=config.num_classes,
            class_agnostic=class_agnostic,
            norm=_head_norm(config.head_norm, config),
            name=name,
            dtype=dtype,
        )

    if not config.cascade:
        plain = head("box_head", class_agnostic=config.class_agnostic_boxes)
        return [BoxStage(plain, config.roi_foreground_iou, config.box_regression_weights)]
    options = zip(config.cascade_foreground_ious, config.cascade_regression_weights, strict=True)
    return [
        BoxStage(head(f"box_head{number}", class_agnostic=True), foreground_iou, weights)
        for number, (foreground_iou, weights) in enumerate(options, start=1)
    ]


def _mask_head(config: ModelConfig, dtype: keras.DTypePolicy) -> MaskHead:
    return MaskHead(
        in_channels=config.fpn_channels,
        channels=config.mask_head_channels,
        num_convs=config.mask_head_convs,
        num_classes=config.num_classes,
        norm=_head_norm(config.head_norm, config),
        dtype=dtype,
    )


def _head_norm(kind: str, config: ModelConfig) -> Norm:
    return Norm(kind, groups=config.gn_groups, after_relu=kind == "gn" and config.gn_after_relu)


def _branch(pyramid: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The same features for one more reader, so that the gradients of P2 to P4 are summed by twos.

    Grappler (TensorFlow 2.21) turns a sum of three or more into additions to a buffer, and may fold the zeros it starts
    from into a constant that it keeps: as large as the features, 78 MiB for an image of 800 x 1216.
    """
    return [tf.identity(features) for features in pyramid]


def _scale_gradient(x: tf.Tensor, factor: float) -> tf.Tensor:
    """The features of RoIs are read by every stage of a cascade: each sends back its share."""

    @tf.custom_gradient
    def identity(x: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        return tf.identity(x), lambda dy: dy * factor

    return identity(x)


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
