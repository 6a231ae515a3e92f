"""What defines a network: every width, count and threshold, with the ancestor's values as defaults."""

import math
from dataclasses import dataclass, field

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
NORMS = ("frozen_bn", "sync_bn", "gn")
HEAD_NORMS = ("none", "gn")
BOX_LOSSES = ("huber", "smooth_l1", "l1", "giou")
COUNTS = (
    "backbone_width",
    "gn_groups",
    "fpn_channels",
    "rpn_channels",
    "rpn_samples",
    "train_pre_nms_top_k",
    "train_post_nms_top_k",
    "train_proposals",
    "detect_pre_nms_top_k",
    "detect_post_nms_top_k",
    "detect_proposals",
    "roi_samples",
    "box_pool_size",
    "box_head_fcs",
    "box_head_channels",
    "mask_pool_size",
    "mask_head_channels",
    "detections_per_image",
)
POSITIVE = ("rpn_box_loss_beta", "box_loss_beta", "canonical_size", "max_log_scale")
SHARES = (
    "rpn_foreground_iou",
    "rpn_background_iou",
    "rpn_foreground_fraction",
    "rpn_nms_threshold",
    "roi_foreground_fraction",
    "roi_foreground_iou",
    "score_threshold",
    "detection_nms_threshold",
)


@dataclass
class ModelConfig:
    """Architecture and thresholds of one Mask R-CNN.

    A plain dataclass of JSON types, so that a checkpoint can hold it and Hydra can use it as a schema. Sizes are
    pixels of the resized image. Sources: Mask R-CNN (He et al. 2017), FPN (Lin et al. 2017), Faster R-CNN
    (Ren et al. 2015); the numbers are those of the Tensorpack recipe.

    Raises:
        ValueError: a value outside its range, named.
    """

    num_classes: int = 81  # with background, which is class 0

    # Backbone and feature pyramid
    backbone: str = "resnet50"  # one of BACKBONES
    backbone_width: int = 64  # channels of the stem; every stage scales with it
    norm: str = "frozen_bn"  # one of NORMS, in the backbone
    gn_groups: int = 32
    norm_epsilon: float = 1e-5  # added to the variance, in the backbone; 0 in torchvision's released COCO detectors
    freeze_at: int = 2  # 0: everything trains; 1: stem fixed; 2: stem and first stage fixed
    # The last norm of every residual block starts at scale 0, its block as the identity. A frozen norm without
    # pretrained weights needs it; group norm from scratch learns faster without.
    zero_residual_scale: bool = True
    freeze_affine: bool = False  # the norms of the backbone keep their scale and shift
    symmetric_padding: bool = False  # of layers of stride 2, as torchvision and detectron2; else align padding
    stride_in_1x1: bool = False  # where a bottleneck halves the resolution: in its first 1x1, else in its 3x3
    fpn_channels: int = 256
    fpn_norm: str = "none"  # one of HEAD_NORMS
    gn_after_relu: bool = False  # of pyramid and heads, as the ancestor: convolution, bias, ReLU, group norm

    # Anchors: one size per pyramid level P2..P6
    anchor_sizes: list[float] = field(default_factory=lambda: [32.0, 64.0, 128.0, 256.0, 512.0])
    anchor_ratios: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0])  # height / width
    round_anchors: bool = False  # their offsets from the centre to whole pixels, as torchvision

    # Region proposal network
    rpn_channels: int = 256
    rpn_foreground_iou: float = 0.7
    rpn_background_iou: float = 0.3
    rpn_samples: int = 256  # anchors per image
    rpn_foreground_fraction: float = 0.5  # at most
    rpn_label_only_inside: bool = True  # anchors that leave the image are neither foreground nor background
    rpn_box_loss_beta: float = 1 / 9
    rpn_nms_threshold: float = 0.7
    train_pre_nms_top_k: int = 2000  # per level
    train_post_nms_top_k: int = 2000  # per level
    train_proposals: int = 2000  # per image
    detect_pre_nms_top_k: int = 1000
    detect_post_nms_top_k: int = 1000
    detect_proposals: int = 1000
    keep_empty_proposals: bool = False  # the ancestor keeps boxes that clip to zero area
    keep_padding_anchors: bool = False  # the ancestor keeps anchors centred in padding

    # A box of which a crowd covers more than this share is not background. Above 1, as the ancestor has it: off
    crowd_overlap_threshold: float = 9.99

    # Box head
    roi_samples: int = 512  # RoIs per image
    roi_foreground_fraction: float = 0.25  # at most
    roi_foreground_iou: float = 0.5
    roi_align_aligned: bool = True  # pixel centres at one half; False: the half pixel forgotten, as torchvision
    box_pool_size: int = 7
    box_head_convs: int = 0  # 3x3 convolutions of fpn_channels before the fully connected layers
    box_head_fcs: int = 2
    box_head_channels: int = 1024
    class_agnostic_boxes: bool = False  # all classes of a RoI share one box
    box_regression_weights: list[float] = field(default_factory=lambda: [10.0, 10.0, 5.0, 5.0])
    box_loss: str = "huber"  # one of BOX_LOSSES; huber has delta 1
    box_loss_beta: float = 1 / 9  # of smooth_l1
    max_log_scale: float = math.log(1333 / 16)  # a 16 px box grown to the longest edge

    # Cascade R-CNN (Cai and Vasconcelos 2018): three box heads, each on the boxes of the one before, class-agnostic.
    # In place of roi_foreground_iou, box_regression_weights and class_agnostic_boxes come these, per stage.
    cascade: bool = False
    cascade_foreground_ious: list[float] = field(default_factory=lambda: [0.5, 0.6, 0.7])
    cascade_regression_weights: list[list[float]] = field(
        default_factory=lambda: [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]]
    )

    # Mask head
    masks: bool = True  # False: boxes only (Faster R-CNN)
    mask_pool_size: int = 14
    mask_head_convs: int = 4
    mask_head_channels: int = 256
    head_norm: str = "none"  # one of HEAD_NORMS, in the convolutions of both heads

    # Level that serves a RoI: floor(4 + log2(sqrt(area) / canonical_size)) (FPN, equation 1)
    canonical_size: float = 224.0

    # Detections
    score_threshold: float = 0.05
    detection_nms_threshold: float = 0.5
    detections_per_image: int = 100

    # Normalisation of the pixels, RGB
    pixel_mean: list[float] = field(default_factory=lambda: [123.675, 116.28, 103.53])
    pixel_std: list[float] = field(default_factory=lambda: [58.395, 57.12, 57.375])

    def __post_init__(self) -> None:
        for name, known in (
            ("backbone", BACKBONES),
            ("norm", NORMS),
            ("fpn_norm", HEAD_NORMS),
            ("head_norm", HEAD_NORMS),
            ("box_loss", BOX_LOSSES),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"model.{name} is {value!r}; expected one of {', '.join(known)}")
        self._require(len(self.anchor_sizes) == len(STRIDES), "anchor_sizes", f"{len(STRIDES)} sizes, for P2 to P6")
        self._require(all(s > 0 for s in self.anchor_sizes), "anchor_sizes", "positive sizes")
        self._require(
            bool(self.anchor_ratios) and all(r > 0 for r in self.anchor_ratios), "anchor_ratios", "positive ratios"
        )
        self._require(self.num_classes >= 2, "num_classes", "background and at least one class")
        self._require(self.freeze_at in (0, 1, 2), "freeze_at", "0, 1 or 2")
        self._require(_are_positive(self.box_regression_weights, 4), "box_regression_weights", "four positive numbers")
        ious = self.cascade_foreground_ious
        self._require(
            len(ious) == 3 and all(0.0 <= iou <= 1.0 for iou in ious), "cascade_foreground_ious", "three shares"
        )
        weights = self.cascade_regression_weights
        self._require(
            len(weights) == 3 and all(_are_positive(stage, 4) for stage in weights),
            "cascade_regression_weights",
            "three lists of four positive numbers",
        )
        self._require(len(self.pixel_mean) == 3, "pixel_mean", "three numbers, RGB")
        self._require(_are_positive(self.pixel_std, 3), "pixel_std", "three positive numbers, RGB")
        for name in POSITIVE:
            self._require(getattr(self, name) > 0, name, "a positive number")
        is_fixed_norm = self.norm == "frozen_bn" and self.norm_epsilon == 0
        self._require(self.norm_epsilon > 0 or is_fixed_norm, "norm_epsilon", "a positive number, or 0 with frozen_bn")
        for name in SHARES:
            self._require(0.0 <= getattr(self, name) <= 1.0, name, "a share between 0 and 1")
        self._require(
            self.rpn_background_iou <= self.rpn_foreground_iou,
            "rpn_background_iou",
            f"at most rpn_foreground_iou={self.rpn_foreground_iou}",
        )
        for name in COUNTS:
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("box_head_convs", "mask_head_convs"):
            self._require(getattr(self, name) >= 0, name, "at least 0")
        box_widths = ("fpn_channels",) if self.box_head_convs else ()
        for norm, widths in (
            (self.norm, ("backbone_width",)),
            (self.fpn_norm, ("fpn_channels",)),
            (self.head_norm, ("mask_head_channels", *box_widths)),
        ):
            for name in widths if norm == "gn" else ():
                self._require(
                    getattr(self, name) % self.gn_groups == 0, name, f"a multiple of gn_groups={self.gn_groups}"
                )

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            value = getattr(self, name, "")
            raise ValueError(f"model.{name} is {value!r}; expected {expected}")

    @property
    def num_anchors(self) -> int:
        """Anchors per position."""
        return len(self.anchor_ratios)

    @property
    def mask_size(self) -> int:
        """Edge of a predicted mask: the mask head doubles its input."""
        return 2 * self.mask_pool_size

    @property
    def roi_max_foreground(self) -> int:
        """Most foreground RoIs of an image, which is how many the mask head sees in training."""
        return max(1, round(self.roi_samples * self.roi_foreground_fraction))


def _are_positive(numbers: list[float], count: int) -> bool:
    return len(numbers) == count and all(number > 0 for number in numbers)


STRIDES = (4, 8, 16, 32, 64)  # of P2 to P6
ROI_STRIDES = STRIDES[:4]  # RoIs are pooled from P2 to P5
