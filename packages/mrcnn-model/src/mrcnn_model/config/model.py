"""The options of a whole network, by name or by part.

The name of an option is the same everywhere: keyword arguments, `model.NAME=...` on the trainer's command line,
config.yaml and model.json.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mrcnn_model.config.checks import OptionError, Part, require, require_type
from mrcnn_model.config.parts import (
    AnchorConfig,
    BoxConfig,
    DetectionConfig,
    MaskConfig,
    NormConfig,
    PixelConfig,
    ProposalConfig,
    PyramidConfig,
    ResNetConfig,
    RoiConfig,
    RpnConfig,
)

MOST_CLASSES = 1 << 16


@dataclass(init=False)
class ModelConfig:
    """Architecture and thresholds of a Mask R-CNN, in parts.

    The constructor takes options by name. They are read and set by name, or in their part:

    >>> config = ModelConfig(num_classes=3, backbone_width=8)
    >>> config.backbone_width, config.resnet.backbone_width
    (8, 8)
    >>> ModelConfig(backbone_widht=8)
    Traceback (most recent call last):
        ...
    mrcnn_model.config.checks.OptionError: model.backbone_widht is not an option; did you mean backbone_width?

    Raises:
        OptionError: an option does not exist, or its value has the wrong type or is out of range.
    """

    num_classes: int  # with background, which is class 0
    resnet: ResNetConfig
    norms: NormConfig
    pyramid: PyramidConfig
    anchors: AnchorConfig
    rpn: RpnConfig
    proposals: ProposalConfig
    rois: RoiConfig
    box: BoxConfig
    mask: MaskConfig
    detection: DetectionConfig
    pixels: PixelConfig

    def __init__(self, num_classes: int = 81, **options: Any) -> None:
        for name in sorted(options.keys() - PART_OF.keys()):
            close = difflib.get_close_matches(name, PART_OF, n=1)
            raise OptionError(f"model.{name} is not an option" + (f"; did you mean {close[0]}?" if close else ""))
        self.num_classes = num_classes
        for part, kind in PARTS.items():
            setattr(self, part, kind(**{name: value for name, value in options.items() if PART_OF[name] == part}))
        self._check()

    def _check(self) -> None:
        require_type("num_classes", self.num_classes, int)
        require(self.num_classes >= 2, "num_classes", self.num_classes, "at least 2: the background and one class")
        require(self.num_classes <= MOST_CLASSES, "num_classes", self.num_classes, f"at most {MOST_CLASSES}")
        norms, rpn = self.norms, self.rpn
        is_valid = norms.norm_epsilon > 0 or (norms.norm == "frozen_bn" and norms.norm_epsilon == 0)
        require(is_valid, "norm_epsilon", norms.norm_epsilon, "a positive number, or 0 with frozen_bn")
        expected = f"at most rpn_foreground_iou={rpn.rpn_foreground_iou}"
        require(
            rpn.rpn_background_iou <= rpn.rpn_foreground_iou, "rpn_background_iou", rpn.rpn_background_iou, expected
        )
        head_widths = {"mask_head_channels": self.mask.mask_head_channels}
        if self.box.box_head_convs:
            head_widths["fpn_channels"] = self.pyramid.fpn_channels
        for norm, widths in (
            (norms.norm, {"backbone_width": self.resnet.backbone_width}),
            (norms.fpn_norm, {"fpn_channels": self.pyramid.fpn_channels}),
            (norms.head_norm, head_widths),
        ):
            for name, width in widths.items() if norm == "gn" else ():
                require(width % norms.gn_groups == 0, name, width, f"a multiple of gn_groups={norms.gn_groups}")

    def __getattr__(self, name: str) -> Any:
        if name not in PART_OF:
            raise AttributeError(f"ModelConfig has no attribute {name!r}")
        return getattr(getattr(self, PART_OF[name]), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in PART_OF:
            setattr(getattr(self, PART_OF[name]), name, value)
        else:
            super().__setattr__(name, value)

    @staticmethod
    def options() -> list[dataclasses.Field]:
        """Return all options except `num_classes`, with types and defaults, for the schema of a command line."""
        return [option for part in PARTS.values() for option in dataclasses.fields(part)]  # type: ignore[arg-type]

    def to_flat(self) -> dict[str, Any]:
        """Return {name of an option: value}."""
        return {"num_classes": self.num_classes} | {name: getattr(self, name) for name in PART_OF}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ModelConfig":
        """Read the options in model.json: by part, as `dataclasses.asdict` returns them, or flat as in format 1."""
        flat: dict[str, Any] = {}
        for name, value in content.items():
            flat |= value if name in PARTS and isinstance(value, dict) else {name: value}
        return cls(**flat)


PARTS: Mapping[str, type[Part]] = {f.name: f.type for f in dataclasses.fields(ModelConfig) if f.name != "num_classes"}  # type: ignore[misc,arg-type]
PART_OF: Mapping[str, str] = {
    option.name: part
    for part, kind in PARTS.items()
    for option in dataclasses.fields(kind)  # type: ignore[arg-type]
}
