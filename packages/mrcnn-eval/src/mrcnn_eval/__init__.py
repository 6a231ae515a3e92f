"""Detections in, COCO AP out: evaluation, reports and pictures.

Importing this package does not import TensorFlow; `mrcnn_eval.inference`, which runs models, does.
"""

from mrcnn_eval.scoring import (
    CocoEvaluator,
    EvalResult,
    GroundTruth,
    GroundTruthError,
    Measures,
    OtherRankError,
    RankError,
    ResultsError,
    class_difference,
    load_ground_truth,
    merge_images,
    shares_of_all,
)

__version__ = "0.1.0"

__all__ = [
    "CocoEvaluator",
    "EvalResult",
    "GroundTruth",
    "GroundTruthError",
    "Measures",
    "OtherRankError",
    "RankError",
    "ResultsError",
    "__version__",
    "class_difference",
    "load_ground_truth",
    "merge_images",
    "shares_of_all",
]
