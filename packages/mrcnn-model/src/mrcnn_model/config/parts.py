"""The options of each part of the network: every width, count and threshold. The defaults are those of Tensorpack.

Sizes are pixels of the resized image. Sources: Mask R-CNN (He et al. 2017), FPN (Lin et al. 2017), Faster R-CNN (Ren
et al. 2015).
"""

import dataclasses
import math
from dataclasses import dataclass, field

from mrcnn_model.config.checks import (
    are_positive,
    require,
    require_at_least,
    require_one_of,
    require_positive,
    require_shares,
    require_type,
)

STRIDES = (4, 8, 16, 32, 64)  # of P2 to P6
ROI_STRIDES = STRIDES[:4]  # RoIs are pooled from P2 to P5

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NORMS = ("frozen_bn", "sync_bn", "gn")
HEAD_NORMS = ("none", "gn")
BOX_LOSSES = ("huber", "smooth_l1", "l1", "giou")


class Part:
    """The options of one part of the network, checked when they are made."""

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):  # type: ignore[arg-type]
            require_type(option.name, getattr(self, option.name), option.type)
        self.check()

    def check(self) -> None:
        """Raise OptionError for a value outside its range."""


@dataclass
class ResNetConfig(Part):
    """The backbone."""

    backbone: str = "resnet50"  # one of BACKBONES
    backbone_width: int = 64  # channels of the stem; every stage scales with it
    freeze_at: int = 2  # 0: everything trains; 1: the stem is fixed; 2: the stem and the first stage are fixed
    # The last norm of every residual block starts at scale 0, its block as the identity. A frozen norm without
    # pretrained weights needs it; group norm from scratch learns faster without it.
    zero_residual_scale: bool = True
    symmetric_padding: bool = False  # of layers of stride 2, as torchvision and detectron2; else align padding
    stride_in_1x1: bool = False  # where a bottleneck halves the resolution: in its first 1x1, else in its 3x3

    def check(self) -> None:
        require_one_of("backbone", self.backbone, BACKBONES)
        require_one_of("freeze_at", self.freeze_at, (0, 1, 2))
        require_at_least(1, backbone_width=self.backbone_width)


@dataclass
class NormConfig(Part):
    """What follows the convolutions of backbone, pyramid and heads."""

    norm: str = "frozen_bn"  # one of NORMS, in the backbone
    norm_epsilon: float = 1e-5  # added to the variance, in the backbone; 0 in torchvision's released COCO detectors
    freeze_affine: bool = False  # the norms of the backbone keep their scale and shift
    fpn_norm: str = "none"  # one of HEAD_NORMS
    head_norm: str = "none"  # one of HEAD_NORMS, in the convolutions of box and mask head
    gn_groups: int = 32
    gn_after_relu: bool = False  # in pyramid and heads, as Tensorpack: convolution, bias, ReLU, group norm

    def check(self) -> None:
        require_one_of("norm", self.norm, NORMS)
        require_one_of("fpn_norm", self.fpn_norm, HEAD_NORMS)
        require_one_of("head_norm", self.head_norm, HEAD_NORMS)
        require_at_least(1, gn_groups=self.gn_groups)
        may_be_zero = self.norm == "frozen_bn"
        require(
            self.norm_epsilon > 0 or (may_be_zero and self.norm_epsilon == 0),
            "norm_epsilon",
            self.norm_epsilon,
            "a positive number, or 0 with frozen_bn",
        )


@dataclass
class PyramidConfig(Part):
    """The feature pyramid, and how RoIs are pooled from it."""

    fpn_channels: int = 256
    # Level that serves a RoI: floor(4 + log2(sqrt(area) / canonical_size)) (FPN, equation 1)
    canonical_size: float = 224.0
    roi_align_aligned: bool = True  # pixel centres at one half; False: the half pixel forgotten, as torchvision

    def check(self) -> None:
        require_at_least(1, fpn_channels=self.fpn_channels)
        require_positive(canonical_size=self.canonical_size)


@dataclass
class AnchorConfig(Part):
    """Anchors: one size for each pyramid level P2..P6."""

    anchor_sizes: list[float] = field(default_factory=lambda: [32.0, 64.0, 128.0, 256.0, 512.0])
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width
    round_anchors: bool = False  # their offsets from the centre to whole pixels, as torchvision

    def check(self) -> None:
        count = len(STRIDES)
        require(
            are_positive(self.anchor_sizes, count), "anchor_sizes", self.anchor_sizes, f"{count} sizes, for P2 to P6"
        )
        ratios = self.anchor_ratios
        require(bool(ratios) and are_positive(ratios, len(ratios)), "anchor_ratios", ratios, "positive ratios")

    @property
    def num_anchors(self) -> int:
        """Anchors per position."""
        return len(self.anchor_ratios)


@dataclass
class RpnConfig(Part):
    """The region proposal network, and what its anchors learn."""

    rpn_channels: int = 256
    rpn_foreground_iou: float = 0.7
    rpn_background_iou: float = 0.3
    rpn_samples: int = 256  # anchors per image
    rpn_foreground_fraction: float = 0.5  # at most
    rpn_label_only_inside: bool = True  # anchors that leave the image are neither foreground nor background
    rpn_box_loss_beta: float = 1 / 9

    def check(self) -> None:
        require_at_least(1, rpn_channels=self.rpn_channels, rpn_samples=self.rpn_samples)
        require_positive(rpn_box_loss_beta=self.rpn_box_loss_beta)
        require_shares(
            rpn_foreground_iou=self.rpn_foreground_iou,
            rpn_background_iou=self.rpn_background_iou,
            rpn_foreground_fraction=self.rpn_foreground_fraction,
        )
        require(
            self.rpn_background_iou <= self.rpn_foreground_iou,
            "rpn_background_iou",
            self.rpn_background_iou,
            f"at most rpn_foreground_iou={self.rpn_foreground_iou}",
        )

    @property
    def max_foreground(self) -> int:
        """Most foreground anchors of an image."""
        return max(1, round(self.rpn_samples * self.rpn_foreground_fraction))


@dataclass
class ProposalConfig(Part):
    """Which boxes of the region proposal network are kept, in training and in detection."""

    rpn_nms_threshold: float = 0.7
    train_pre_nms_top_k: int = 2000  # per level
    train_post_nms_top_k: int = 2000  # per level
    train_proposals: int = 2000  # per image
    detect_pre_nms_top_k: int = 1000
    detect_post_nms_top_k: int = 1000
    detect_proposals: int = 1000
    keep_empty_proposals: bool = False  # Tensorpack keeps boxes that clip to zero area
    keep_padding_anchors: bool = False  # Tensorpack keeps anchors centred in padding

    def check(self) -> None:
        require_shares(rpn_nms_threshold=self.rpn_nms_threshold)
        for stage in ("train", "detect"):
            for name in (f"{stage}_pre_nms_top_k", f"{stage}_post_nms_top_k", f"{stage}_proposals"):
                require_at_least(1, **{name: getattr(self, name)})


@dataclass
class RoiConfig(Part):
    """Which RoIs box head and mask head learn from."""

    roi_samples: int = 512  # RoIs per image
    roi_foreground_fraction: float = 0.25  # at most
    roi_foreground_iou: float = 0.5  # without a cascade, whose stages have their own
    # A box of which a crowd covers more than this share is not background, RoI or anchor. Above 1, as in Tensorpack:
    # off.
    crowd_overlap_threshold: float = 9.99

    def check(self) -> None:
        require_at_least(1, roi_samples=self.roi_samples)
        require_shares(roi_foreground_fraction=self.roi_foreground_fraction, roi_foreground_iou=self.roi_foreground_iou)

    @property
    def max_foreground(self) -> int:
        """Most foreground RoIs of an image, which is how many the mask head sees in training."""
        return max(1, round(self.roi_samples * self.roi_foreground_fraction))


@dataclass
class BoxConfig(Part):
    """The box head, or the three of a cascade, and its losses."""

    box_pool_size: int = 7
    box_head_convs: int = 0  # 3x3 convolutions of fpn_channels before the fully connected layers
    box_head_fcs: int = 2
    box_head_channels: int = 1024
    class_agnostic_boxes: bool = False  # all classes of a RoI share one box
    box_regression_weights: list[float] = field(default_factory=lambda: [10.0, 10.0, 5.0, 5.0])
    box_loss: str = "huber"  # one of BOX_LOSSES; huber has delta 1
    box_loss_beta: float = 1 / 9  # of smooth_l1
    max_log_scale: float = math.log(1333 / 16)  # a 16 px box grown to the longest edge; for proposals too

    # Cascade R-CNN (Cai and Vasconcelos 2018): three box heads, each on the boxes of the one before, class-agnostic.
    # roi_foreground_iou, box_regression_weights and class_agnostic_boxes are then replaced by these, one per stage.
    cascade: bool = False
    cascade_foreground_ious: list[float] = field(default_factory=lambda: [0.5, 0.6, 0.7])
    cascade_regression_weights: list[list[float]] = field(
        default_factory=lambda: [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]]
    )

    def check(self) -> None:
        require_one_of("box_loss", self.box_loss, BOX_LOSSES)
        require_positive(box_loss_beta=self.box_loss_beta, max_log_scale=self.max_log_scale)
        require_at_least(0, box_head_convs=self.box_head_convs)
        require_at_least(
            1,
            box_pool_size=self.box_pool_size,
            box_head_fcs=self.box_head_fcs,
            box_head_channels=self.box_head_channels,
        )
        weights, ious = self.box_regression_weights, self.cascade_foreground_ious
        require(are_positive(weights, 4), "box_regression_weights", weights, "four positive numbers")
        are_three = len(ious) == 3 and all(0.0 <= iou <= 1.0 for iou in ious)
        require(are_three, "cascade_foreground_ious", ious, "three shares")
        stages = self.cascade_regression_weights
        require(
            len(stages) == 3 and all(are_positive(stage, 4) for stage in stages),
            "cascade_regression_weights",
            stages,
            "three lists of four positive numbers",
        )


@dataclass
class MaskConfig(Part):
    """The mask head."""

    masks: bool = True  # False: boxes only (Faster R-CNN)
    mask_pool_size: int = 14
    mask_head_convs: int = 4
    mask_head_channels: int = 256

    def check(self) -> None:
        require_at_least(0, mask_head_convs=self.mask_head_convs)
        require_at_least(1, mask_pool_size=self.mask_pool_size, mask_head_channels=self.mask_head_channels)

    @property
    def mask_size(self) -> int:
        """Edge of a predicted mask: the mask head doubles its input."""
        return 2 * self.mask_pool_size


@dataclass
class DetectionConfig(Part):
    """Which boxes are detections."""

    score_threshold: float = 0.05
    detection_nms_threshold: float = 0.5
    detections_per_image: int = 100

    def check(self) -> None:
        require_at_least(1, detections_per_image=self.detections_per_image)
        require_shares(score_threshold=self.score_threshold, detection_nms_threshold=self.detection_nms_threshold)


@dataclass
class PixelConfig(Part):
    """How pixels are normalised, RGB."""

    pixel_mean: list[float] = field(default_factory=lambda: [123.675, 116.28, 103.53])
    pixel_std: list[float] = field(default_factory=lambda: [58.395, 57.12, 57.375])

    def check(self) -> None:
        require(len(self.pixel_mean) == 3, "pixel_mean", self.pixel_mean, "three numbers, RGB")
        require(are_positive(self.pixel_std, 3), "pixel_std", self.pixel_std, "three positive numbers, RGB")
