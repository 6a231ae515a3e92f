"""Detections to COCO AP. No TensorFlow."""

from mrcnn_eval.scoring.bootstrap import bootstrap_ap
from mrcnn_eval.scoring.classes import class_difference
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator, EvalResult
from mrcnn_eval.scoring.ground_truth import GroundTruth, GroundTruthError, load_ground_truth
from mrcnn_eval.scoring.image_results import ResultsError
from mrcnn_eval.scoring.precision_recall import PrecisionRecall
from mrcnn_eval.scoring.ranks import OtherRankError, RankError, merge_images, shares_of_all
from mrcnn_eval.scoring.summary import Measures

__all__ = [
    "CocoEvaluator",
    "EvalResult",
    "GroundTruth",
    "GroundTruthError",
    "Measures",
    "OtherRankError",
    "PrecisionRecall",
    "RankError",
    "ResultsError",
    "bootstrap_ap",
    "class_difference",
    "load_ground_truth",
    "merge_images",
    "shares_of_all",
]
