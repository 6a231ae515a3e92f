"""Mask R-CNN on TensorFlow and Keras 3: the network, its losses, its checkpoints, and weights of other projects.

Importing this package does not import TensorFlow; the first use of a name that needs it does.
"""

from typing import TYPE_CHECKING

from mrcnn_model.config import (
    AUTO_PRECISION,
    CPU,
    DEVICES,
    PRECISIONS,
    DeviceError,
    ModelConfig,
    OptionError,
    PrecisionChoice,
    choose_precision,
)
from mrcnn_model.quiet_tensorflow import import_tensorflow_quietly

if TYPE_CHECKING:
    from mrcnn_model.building import build_model
    from mrcnn_model.checkpoint import flush, load_model, save_model, variable_key
    from mrcnn_model.detection_ops import COMPILED_OPS, DetectionOps
    from mrcnn_model.device import Device, use_device, use_tf32
    from mrcnn_model.export.portable import PORTABLE_OPS
    from mrcnn_model.flops import count_flops
    from mrcnn_model.mask_rcnn import MaskRCNN
    from mrcnn_model.storage.cards import (
        CheckpointError,
        ModelCard,
        find_checkpoint,
        read_best,
        read_card,
        resolve_checkpoint,
    )
    from mrcnn_model.storage.readable import require_weights
    from mrcnn_model.structures import Detections, Losses, Proposals
    from mrcnn_model.weights.filling import WeightsReport, fill_model, load_weights

_MODULES = {
    "building": ("build_model",),
    "checkpoint": ("flush", "load_model", "save_model", "variable_key"),
    "detection_ops": ("COMPILED_OPS", "DetectionOps"),
    "device": ("Device", "use_device", "use_tf32"),
    "export.portable": ("PORTABLE_OPS",),
    "flops": ("count_flops",),
    "mask_rcnn": ("MaskRCNN",),
    "storage.cards": (
        "CheckpointError",
        "ModelCard",
        "find_checkpoint",
        "read_best",
        "read_card",
        "resolve_checkpoint",
    ),
    "storage.readable": ("require_weights",),
    "structures": ("Detections", "Losses", "Proposals"),
    "weights.filling": ("WeightsReport", "fill_model", "load_weights"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "AUTO_PRECISION",
    "COMPILED_OPS",
    "CPU",
    "DEVICES",
    "PORTABLE_OPS",
    "PRECISIONS",
    "CheckpointError",
    "DetectionOps",
    "Detections",
    "Device",
    "DeviceError",
    "Losses",
    "MaskRCNN",
    "ModelCard",
    "ModelConfig",
    "OptionError",
    "PrecisionChoice",
    "Proposals",
    "WeightsReport",
    "build_model",
    "choose_precision",
    "count_flops",
    "fill_model",
    "find_checkpoint",
    "flush",
    "import_tensorflow_quietly",
    "load_model",
    "load_weights",
    "read_best",
    "read_card",
    "require_weights",
    "resolve_checkpoint",
    "save_model",
    "use_device",
    "use_tf32",
    "variable_key",
]


def __getattr__(name: str) -> object:
    """Import the module of a name when it is used: most need TensorFlow."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mrcnn_model' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mrcnn_model.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
