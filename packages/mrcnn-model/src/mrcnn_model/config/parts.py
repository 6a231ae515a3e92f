"""The options of each part of the network: every width, count and threshold. The defaults are those of Tensorpack.

Sizes are pixels of the resized image. Sources: Mask R-CNN (He et al. 2017), FPN (Lin et al. 2017), Faster R-CNN (Ren
et al. 2015).
"""

# ruff: noqa: RUF009 (the functions below are dataclasses.field with a range)

import math
from dataclasses import dataclass

from mrcnn_model.config.checks import Part, at_least, one_of, option, positive, positives, share

STRIDES = (4, 8, 16, 32, 64)  # of P2 to P6
ROI_STRIDES = STRIDES[:4]  # RoIs are pooled from P2 to P5

# Limits far above useful values: what exceeds them is a mistake, and would fill the memory.
MOST_CHANNELS = 1 << 13
MOST_LAYERS = 64
MOST_POOLED = 128  # edge

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NORMS = ("frozen_bn", "sync_bn", "gn")
HEAD_NORMS = ("none", "gn")
BOX_LOSSES = ("huber", "smooth_l1", "l1", "giou")


@dataclass
class ResNetConfig(Part):
    """The backbone."""

    backbone: str = one_of("resnet50", BACKBONES)
    backbone_width: int = at_least(1, 64, most=1024)  # channels of the stem; every stage scales with it
    freeze_at: int = one_of(2, (0, 1, 2))  # 0: everything trains; 1: the stem is fixed; 2: the first stage too
    # The last norm of every residual block starts at scale 0, so that the block starts as the identity. A frozen norm
    # without pretrained weights needs it; group norm from scratch learns faster without it.
    zero_residual_scale: bool = True
    symmetric_padding: bool = False  # of layers of stride 2, as torchvision and detectron2; else align padding
    stride_in_1x1: bool = False  # where a bottleneck halves the resolution: in its first 1x1, else in its 3x3


@dataclass
class NormConfig(Part):
    """The norms of backbone, pyramid and heads."""

    norm: str = one_of("frozen_bn", NORMS)  # in the backbone
    norm_epsilon: float = 1e-5  # added to the variance, in the backbone; 0 in torchvision's released COCO detectors
    freeze_affine: bool = False  # the norms of the backbone keep their scale and shift
    fpn_norm: str = one_of("none", HEAD_NORMS)
    head_norm: str = one_of("none", HEAD_NORMS)  # in the convolutions of box and mask head
    gn_groups: int = at_least(1, 32)
    gn_after_relu: bool = False  # in pyramid and heads, as Tensorpack: convolution, bias, ReLU, group norm


@dataclass
class PyramidConfig(Part):
    """The feature pyramid, and how RoIs are pooled from it."""

    fpn_channels: int = at_least(1, 256, most=MOST_CHANNELS)
    # A RoI is pooled from level floor(4 + log2(sqrt(area) / canonical_size)) (FPN, equation 1).
    canonical_size: float = positive(224.0)
    roi_align_aligned: bool = True  # pixel centres at one half; False: without that shift, as torchvision


@dataclass
class AnchorConfig(Part):
    """Anchors: one size for each pyramid level P2..P6."""

    anchor_sizes: list[float] = positives([32.0, 64.0, 128.0, 256.0, 512.0], f"{len(STRIDES)} sizes, for P2 to P6")
    anchor_ratios: list[float] = option(  # height / width
        [0.5, 1.0, 2.0], lambda ratios: 0 < len(ratios) <= MOST_LAYERS and all(r > 0 for r in ratios), "positive ratios"
    )
    round_anchors: bool = False  # their offsets from the centre to whole pixels, as torchvision

    @property
    def num_anchors(self) -> int:
        """Anchors per position."""
        return len(self.anchor_ratios)


@dataclass
class RpnConfig(Part):
    """The region proposal network, and the targets of its anchors."""

    rpn_channels: int = at_least(1, 256, most=MOST_CHANNELS)
    rpn_foreground_iou: float = share(0.7)
    rpn_background_iou: float = share(0.3)
    rpn_samples: int = at_least(1, 256)  # anchors per image
    rpn_foreground_fraction: float = share(0.5)  # at most
    rpn_label_only_inside: bool = True  # anchors that leave the image are neither foreground nor background
    rpn_box_loss_beta: float = positive(1 / 9)

    @property
    def max_foreground(self) -> int:
        """Most foreground anchors of an image."""
        return max(1, round(self.rpn_samples * self.rpn_foreground_fraction))


@dataclass
class ProposalConfig(Part):
    """Which boxes of the region proposal network are kept, in training and in detection."""

    rpn_nms_threshold: float = share(0.7)
    train_pre_nms_top_k: int = at_least(1, 2000)  # per level
    train_post_nms_top_k: int = at_least(1, 2000)  # per level
    train_proposals: int = at_least(1, 2000)  # per image
    detect_pre_nms_top_k: int = at_least(1, 1000)
    detect_post_nms_top_k: int = at_least(1, 1000)
    detect_proposals: int = at_least(1, 1000)
    keep_empty_proposals: bool = False  # Tensorpack keeps boxes that clip to zero area
    keep_padding_anchors: bool = False  # Tensorpack keeps anchors centred in padding


@dataclass
class RoiConfig(Part):
    """The RoIs from which box head and mask head learn."""

    roi_samples: int = at_least(1, 512)  # RoIs per image
    roi_foreground_fraction: float = share(0.25)  # at most
    roi_foreground_iou: float = share(0.5)  # without a cascade, whose stages have their own
    # A RoI or anchor is not background if a crowd covers more than this share of it. Above 1 (as in Tensorpack): off.
    crowd_overlap_threshold: float = 9.99

    @property
    def max_foreground(self) -> int:
        """Most foreground RoIs of an image: the number that the mask head gets in training."""
        return max(1, round(self.roi_samples * self.roi_foreground_fraction))


@dataclass
class BoxConfig(Part):
    """The box head, or the three of a cascade, and its losses."""

    box_pool_size: int = at_least(1, 7, most=MOST_POOLED)
    box_head_convs: int = at_least(0, 0, most=MOST_LAYERS)  # 3x3, of fpn_channels, before the fully connected layers
    box_head_fcs: int = at_least(1, 2, most=MOST_LAYERS)
    box_head_channels: int = at_least(1, 1024, most=MOST_CHANNELS)
    class_agnostic_boxes: bool = False  # all classes of a RoI share one box
    box_regression_weights: list[float] = positives([10.0, 10.0, 5.0, 5.0], "four positive numbers")
    box_loss: str = one_of("huber", BOX_LOSSES)  # huber has delta 1
    box_loss_beta: float = positive(1 / 9)  # of smooth_l1
    max_log_scale: float = positive(math.log(1333 / 16))  # a 16 px box grown to the longest edge; for proposals too

    # Cascade R-CNN (Cai and Vasconcelos 2018): three class-agnostic box heads, each on the boxes of the one before.
    # The two lists, one entry per stage, then replace roi_foreground_iou and box_regression_weights.
    cascade: bool = False
    cascade_foreground_ious: list[float] = option(
        [0.5, 0.6, 0.7], lambda ious: len(ious) == 3 and all(0.0 <= iou <= 1.0 for iou in ious), "three shares"
    )
    cascade_regression_weights: list[list[float]] = option(
        [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]],
        lambda stages: [len(stage) for stage in stages] == [4, 4, 4] and min(map(min, stages)) > 0,
        "three lists of four positive numbers",
    )


@dataclass
class MaskConfig(Part):
    """The mask head."""

    masks: bool = True  # False: boxes only (Faster R-CNN)
    mask_pool_size: int = at_least(1, 14, most=MOST_POOLED)
    mask_head_convs: int = at_least(0, 4, most=MOST_LAYERS)
    mask_head_channels: int = at_least(1, 256, most=MOST_CHANNELS)

    @property
    def mask_size(self) -> int:
        """Edge of a predicted mask: the mask head doubles its input."""
        return 2 * self.mask_pool_size


@dataclass
class DetectionConfig(Part):
    """Which boxes are detections."""

    score_threshold: float = share(0.05)
    detection_nms_threshold: float = share(0.5)
    detections_per_image: int = at_least(1, 100)


@dataclass
class PixelConfig(Part):
    """How pixels are normalised, RGB."""

    pixel_mean: list[float] = option([123.675, 116.28, 103.53], lambda mean: len(mean) == 3, "three numbers, RGB")
    pixel_std: list[float] = positives([58.395, 57.12, 57.375], "three positive numbers, RGB")
