"""Detections in, COCO AP out: evaluation, reports and pictures.

Importing this package does not import TensorFlow; `load` and `mrcnn_eval.inference`, which run models, do.
"""

from typing import TYPE_CHECKING

from mrcnn_eval.scoring import (
    CocoEvaluator,
    EvalResult,
    GroundTruth,
    GroundTruthError,
    Measures,
    OtherRankError,
    RankError,
    ResultsError,
    bootstrap_ap,
    class_difference,
    load_ground_truth,
    merge_images,
    shares_of_all,
)

if TYPE_CHECKING:
    from mrcnn_eval.inference import Found, Predictor, load

__version__ = "0.1.0"

__all__ = [
    "CocoEvaluator",
    "EvalResult",
    "Found",
    "GroundTruth",
    "GroundTruthError",
    "Measures",
    "OtherRankError",
    "Predictor",
    "RankError",
    "ResultsError",
    "__version__",
    "bootstrap_ap",
    "class_difference",
    "load",
    "load_ground_truth",
    "merge_images",
    "shares_of_all",
]


def __getattr__(name: str) -> object:
    if name not in ("Found", "Predictor", "load"):
        raise AttributeError(f"module 'mrcnn_eval' has no attribute {name!r}")
    from mrcnn_model import import_tensorflow_quietly

    import_tensorflow_quietly()
    from mrcnn_eval import inference

    return getattr(inference, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
