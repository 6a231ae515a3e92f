"""Mask R-CNN on TensorFlow and Keras 3: the network, its losses, its checkpoints, and weights from elsewhere."""

from typing import TYPE_CHECKING

from mrcnn_model.config import ModelConfig

if TYPE_CHECKING:
    from mrcnn_model.checkpoint import (
        CheckpointError,
        ModelCard,
        load_model,
        read_card,
        resolve_checkpoint,
        save_model,
        variable_key,
    )
    from mrcnn_model.mask_rcnn import MaskRCNN, build_model
    from mrcnn_model.structures import Detections, Losses
    from mrcnn_model.weights.filling import WeightsReport, fill_model, load_weights

__all__ = [
    "CheckpointError",
    "Detections",
    "Losses",
    "MaskRCNN",
    "ModelCard",
    "ModelConfig",
    "WeightsReport",
    "build_model",
    "fill_model",
    "load_model",
    "load_weights",
    "read_card",
    "resolve_checkpoint",
    "save_model",
    "variable_key",
]

_HOMES = {
    "CheckpointError": "checkpoint",
    "ModelCard": "checkpoint",
    "load_model": "checkpoint",
    "read_card": "checkpoint",
    "resolve_checkpoint": "checkpoint",
    "save_model": "checkpoint",
    "variable_key": "checkpoint",
    "Detections": "structures",
    "Losses": "structures",
    "MaskRCNN": "mask_rcnn",
    "build_model": "mask_rcnn",
    "WeightsReport": "weights.filling",
    "fill_model": "weights.filling",
    "load_weights": "weights.filling",
}


def __getattr__(name: str) -> object:
    """Import TensorFlow only when something that needs it is asked for: `ModelConfig` alone takes milliseconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mrcnn_model' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mrcnn_model.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
