"""Detections in, COCO AP out: evaluation, reports and pictures.

Importing this package does not import TensorFlow; what runs a model lies in `mrcnn_eval.inference.detection`.
"""

from mrcnn_eval.scoring.classes import class_difference
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator, EvalResult
from mrcnn_eval.scoring.ground_truth import GroundTruthError
from mrcnn_eval.scoring.image_results import ResultsError
from mrcnn_eval.scoring.ranks import RankError, merge_images, shares_of_all
from mrcnn_eval.scoring.summary import Measures

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
