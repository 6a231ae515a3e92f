"""Detections in, COCO AP out: evaluation, reports and pictures.

Importing this package does not import TensorFlow; what runs a model lies in `mrcnn_eval.inference`.
"""

from mrcnn_eval.classes import class_difference
from mrcnn_eval.coco_evaluator import CocoEvaluator, EvalResult
from mrcnn_eval.ground_truth import GroundTruthError
from mrcnn_eval.image_results import ResultsError
from mrcnn_eval.ranks import RankError, merge_images, shares_of_all
from mrcnn_eval.summary import Measures

__version__ = "0.1.0"

__all__ = [
    "CocoEvaluator",
    "EvalResult",
    "GroundTruthError",
    "Measures",
    "RankError",
    "ResultsError",
    "__version__",
    "class_difference",
    "merge_images",
    "shares_of_all",
]
