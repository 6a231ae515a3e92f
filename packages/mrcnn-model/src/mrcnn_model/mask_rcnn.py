"""The whole network: from pixels to losses or detections.

Shapes: N images, H x W padded size, G ground truths, K crowds, A anchors over all levels, R proposals, S sampled RoIs,
F foreground slots of them, C classes with background, B boxes of a RoI, D detections, m mask edge.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from mrcnn_model.anchors import level_anchors
from mrcnn_model.box_stage import BoxStage, RoiPool
from mrcnn_model.config import STRIDES, ModelConfig
from mrcnn_model.detection_ops import DetectionOps
from mrcnn_model.layers.fpn import Fpn
from mrcnn_model.layers.heads import MaskHead
from mrcnn_model.layers.inputs import check_ground_truth, check_images
from mrcnn_model.layers.pixels import map_size, normalise_images
from mrcnn_model.layers.resnet import ResNet
from mrcnn_model.layers.rpn import RpnHead
from mrcnn_model.structures import Detections, Losses, Proposals, RoiTargets, RpnOutput
from mrcnn_model.targets.assignment import GroundTruth, anchor_targets, roi_targets
from mrcnn_model.targets.gathering import gather_ground_truth
from mrcnn_model.targets.losses import mask_loss
from mrcnn_model.targets.mask_targets import mask_targets
from mrcnn_model.training import box_stage_losses, branch, rpn_losses, training_stats


class MaskRCNN:
    """Mask R-CNN on a feature pyramid. `build_model` makes one; `losses` is for training, `detect` finds objects.

    It is not a Keras layer: coordinates pass between the parts in float32, and a mixed-precision layer would cast its
    inputs to half precision (1333.7 becomes 1334).

    Attributes:
        config: its options.
        box_stages: one stage, or the three of a cascade.
        mask_head: None in a model without masks.
        pool: pools RoIs from the pyramid.
        ops: the ops that normalise, pool RoIs, make proposals and choose detections.
        parts: the Keras layers with variables: backbone, fpn, rpn, box heads, mask head.
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
        pool: RoiPool,
        ops: DetectionOps,
    ) -> None:
        self.config = config
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.box_stages = tuple(box_stages)
        self.mask_head = mask_head
        self.pool = pool
        self.ops = ops
        heads = [stage.head for stage in box_stages] + ([] if mask_head is None else [mask_head])
        self.parts: tuple[keras.layers.Layer, ...] = (backbone, fpn, rpn, *heads)

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables, in the order of construction."""
        return [v for part in self.parts for v in part.variables]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """The variables that train, in the order of construction."""
        return [v for part in self.parts for v in part.trainable_variables]

    @property
    def decayed_variables(self) -> list[keras.Variable]:
        """The trainable kernels, to which weight decay applies; not biases or norms."""
        return [v for v in self.trainable_variables if v.name == "kernel"]

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
            sample_seeds: int32 [N, 2]; the samples of an image depend only on its row.

        Returns:
            The losses, and float32 scalars to log: the numbers of foreground anchors, valid proposals, foreground RoIs
            and sampled RoIs, each a mean over images, and the box head's accuracy on all and on foreground RoIs. An
            image without ground truth has finite losses; its rpn_box, box_reg and mask are 0.

        Raises:
            ValueError: an argument has another type or static shape; in eager mode also: values out of range.
        """
        config, first = self.config, self.box_stages[0]
        crowd = config.rois.crowd_overlap_threshold
        pyramid = self.features(images, image_sizes, training=True)
        given = (gt_boxes, gt_classes, gt_masks, gt_has_mask, crowd_boxes, sample_seeds)
        *objects, sample_seeds = tensors = [tf.convert_to_tensor(argument) for argument in given]
        check_ground_truth(tensors, num_images=pyramid[0].shape[0], num_classes=config.num_classes)
        gt = GroundTruth(*objects)
        gt = gt._replace(classes=tf.cast(gt.classes, tf.int64))
        rpn_output = self.rpn(pyramid, training=True)
        anchors = self.anchors(pyramid)
        proposals = self.proposals(rpn_output, pyramid, image_sizes, training=True)

        from_anchors = anchor_targets(anchors, gt, image_sizes, sample_seeds, config.rpn, crowd_overlap_threshold=crowd)
        rpn_class, rpn_box = rpn_losses(rpn_output, anchors, from_anchors, config.rpn)
        rois = roi_targets(
            proposals, gt, sample_seeds, config.rois, foreground_iou=first.foreground_iou, weights=first.weights
        )
        pyramid = branch(pyramid)  # gradients: RPN + (boxes + mask)
        output, box_class, box_reg = box_stage_losses(
            self.box_stages, branch(pyramid), rois, gt, image_sizes, crowd_overlap_threshold=crowd
        )
        mask = self.mask_loss(pyramid, rois, gt) if self.mask_head else tf.constant(0.0)
        stats = training_stats(from_anchors, proposals, rois, output)
        return Losses(rpn_class, rpn_box, box_class, box_reg, mask), stats

    def detect(self, images: tf.Tensor, image_sizes: tf.Tensor) -> Detections:
        """Find the objects of a batch of images.

        Args:
            images: uint8 or float [N, H, W, 3], RGB, 0 to 255; H and W multiples of 32; zero outside `image_sizes`.
            image_sizes: int32 [N, 2], valid (h, w).

        Returns:
            Detections with D = config.detections_per_image, boxes in pixels of `images`, best first. If nothing is
            found, `valid` is all False and everything else 0.

        Raises:
            ValueError: as of `losses`.
        """
        options = self.config.detection
        pyramid = self.features(images, image_sizes)
        proposals = self.proposals(self.rpn(pyramid), pyramid, image_sizes, training=False)
        scores, boxes = self.classified_boxes(pyramid, proposals, image_sizes)
        chosen = self.ops.multiclass_nms(
            boxes,
            scores,
            score_threshold=options.score_threshold,
            nms_threshold=options.detection_nms_threshold,
            max_detections=options.detections_per_image,
        )
        boxes, classes, valid = chosen.boxes, chosen.classes, chosen.valid
        if self.mask_head is None:
            masks = tf.zeros([tf.shape(boxes)[0], boxes.shape[1], 0, 0])
        else:
            masks = tf.sigmoid(self.mask_logits(pyramid, boxes, classes))
            masks = tf.where(valid[..., tf.newaxis, tf.newaxis], masks, 0.0)
        return Detections(boxes, chosen.scores, classes, masks, valid)

    # Stages that training and detection share

    def features(self, images: tf.Tensor, image_sizes: tf.Tensor, *, training: bool = False) -> list[tf.Tensor]:
        """Turn pixels into the pyramid P2..P6, each [N, H / stride, W / stride, channels] in the compute type."""
        images, image_sizes = tf.convert_to_tensor(images), tf.convert_to_tensor(image_sizes)
        check_images(images, image_sizes)
        pixels = self.config.pixels
        normalised = normalise_images(images, image_sizes, mean=pixels.pixel_mean, std=pixels.pixel_std)
        return self.fpn(self.backbone(normalised, training=training), training=training)

    def anchors(self, pyramid: Sequence[tf.Tensor]) -> tf.Tensor:
        """Return the anchors, float32 [A, 4] in pixels of the resized image, level after level."""
        options = self.config.anchors
        per_level = [
            level_anchors(
                *map_size(features),
                stride=stride,
                size=size,
                ratios=options.anchor_ratios,
                rounded=options.round_anchors,
            )
            for features, stride, size in zip(pyramid, STRIDES, options.anchor_sizes, strict=True)
        ]
        return tf.concat(per_level, axis=0)

    def proposals(
        self, rpn_output: RpnOutput, pyramid: Sequence[tf.Tensor], image_sizes: tf.Tensor, *, training: bool
    ) -> Proposals:
        """Choose the best boxes of the region proposal network; no gradient flows through them (Ren et al. 2015)."""
        options = self.config.proposals
        sizes = [map_size(features) for features in pyramid]
        boxes, scores, valid = self.ops.generate_proposals(
            tf.stop_gradient(rpn_output.logits),
            tf.stop_gradient(rpn_output.deltas),
            self.anchors(pyramid),
            image_sizes,
            tf.stack([height * width * self.config.anchors.num_anchors for height, width in sizes]),
            pre_nms_top_k=options.train_pre_nms_top_k if training else options.detect_pre_nms_top_k,
            post_nms_top_k=options.train_post_nms_top_k if training else options.detect_post_nms_top_k,
            num_proposals=options.train_proposals if training else options.detect_proposals,
            nms_threshold=options.rpn_nms_threshold,
            max_log_scale=self.config.box.max_log_scale,
            keep_empty=options.keep_empty_proposals,
            keep_padding_anchors=options.keep_padding_anchors,
        )
        return Proposals(boxes, scores, valid)

    def classified_boxes(
        self, pyramid: Sequence[tf.Tensor], proposals: Proposals, image_sizes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Run the box stages: scores [N, R, C-1], the mean over stages, and the boxes of the last [N, R, B, 4]."""
        stage_scores = []
        for stage in self.box_stages:
            output = stage.classify(pyramid, proposals.boxes)
            scores, boxes = stage.score(output, proposals, image_sizes)
            stage_scores.append(scores)
            proposals = proposals._replace(boxes=boxes[:, :, 0])
        return tf.add_n(stage_scores) / len(stage_scores), boxes

    def mask_logits(
        self, pyramid: Sequence[tf.Tensor], boxes: tf.Tensor, classes: tf.Tensor, *, training: bool = False
    ) -> tf.Tensor:
        """Run the mask head on boxes [N, F, 4] for classes [N, F]: float32 [N, F, m, m].

        Class 0, the background, is read as 1; the caller discards those masks.
        """
        assert self.mask_head is not None
        pooled = self.pool(pyramid, boxes, self.config.mask.mask_pool_size)
        # Grappler would reshape before a cast alone; int32 tensors are reshaped on the host of a GPU.
        classes = tf.maximum(tf.cast(classes, tf.int64), 1)
        logits = self.mask_head(pooled, tf.reshape(classes, [-1]), training=training)
        size = self.config.mask.mask_size
        return tf.reshape(logits, [tf.shape(boxes)[0], boxes.shape[1], size, size])

    def mask_loss(self, pyramid: Sequence[tf.Tensor], rois: RoiTargets, gt: GroundTruth) -> tf.Tensor:
        """Return the mask loss on the slots that can hold foreground (it comes first), a float32 scalar."""
        num_slots = min(self.config.rois.max_foreground, rois.boxes.shape[1])
        boxes, classes = rois.boxes[:, :num_slots], rois.classes[:, :num_slots]  # [N, F, 4], [N, F]
        gt_indices = rois.gt_indices[:, :num_slots]
        targets = mask_targets(gt.masks, gt.boxes, gt_indices, boxes, size=self.config.mask.mask_size)
        has_mask = gather_ground_truth(gt.has_mask, gt_indices) & (classes > 0)
        return mask_loss(self.mask_logits(pyramid, boxes, classes, training=True), targets, has_mask)
