"""Run a model over a data set or over pictures. TensorFlow is imported when a name that needs it is first used."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mrcnn_eval.inference.detection import (
        DetectFunction,
        Preprocessing,
        Share,
        compiled_detect,
        detect_dataset,
        evaluate_model,
        new_evaluator,
    )
    from mrcnn_eval.inference.original_pixels import add_detections
    from mrcnn_eval.inference.packing import PackedDetections
    from mrcnn_eval.inference.predictor import Found, Predictor, load
    from mrcnn_eval.inference.tta import View, augmented_detect, views

__all__ = [
    "DetectFunction",
    "Found",
    "PackedDetections",
    "Predictor",
    "Preprocessing",
    "Share",
    "View",
    "add_detections",
    "augmented_detect",
    "compiled_detect",
    "detect_dataset",
    "evaluate_model",
    "load",
    "new_evaluator",
    "views",
]

_HOMES = {
    **dict.fromkeys(("View", "augmented_detect", "views"), "tta"),
    **dict.fromkeys(("Found", "Predictor", "load"), "predictor"),
    "PackedDetections": "packing",
    "add_detections": "original_pixels",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'mrcnn_eval.inference' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"mrcnn_eval.inference.{_HOMES.get(name, 'detection')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
