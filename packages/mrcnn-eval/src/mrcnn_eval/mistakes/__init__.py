"""What is right, wrong and missed: the outcome of each detection and object, and counts of them."""

from mrcnn_eval.mistakes.counts import best_threshold, calibration, class_errors, confusion, image_f1
from mrcnn_eval.mistakes.outcomes import Outcomes, outcomes

__all__ = [
    "Outcomes",
    "best_threshold",
    "calibration",
    "class_errors",
    "confusion",
    "image_f1",
    "outcomes",
]
