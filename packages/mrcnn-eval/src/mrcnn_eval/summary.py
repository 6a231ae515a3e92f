"""The twelve numbers of COCO out of precision and recall, for any cap on detections (pycocotools fixes it at 100)."""

from __future__ import annotations

import numpy as np

from mrcnn_eval.precision_recall import PrecisionRecall

ALL, SMALL, MEDIUM, LARGE = range(4)  # area ranges, in the order of both backends
MIN_MAX_DETS = 11  # AR1 and AR10 are reported beside the cap


def stat_names(max_dets: int) -> tuple[str, ...]:
    """Return the names of the twelve numbers, in the order of pycocotools; the cap labels the ninth."""
    return ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", f"AR{max_dets}", "ARs", "ARm", "ARl")


def summarize(curves: PrecisionRecall, *, max_dets: int, category: int | None = None) -> dict[str, float]:
    """Average the curves to the twelve numbers.

    Args:
        curves: with detection caps (1, 10, max_dets).
        max_dets: labels the ninth number.
        category: index of one category, None for the mean over all.

    Returns:
        Numbers by name; -1 where there is no ground truth to find, as pycocotools has it.
    """
    categories = slice(None) if category is None else [category]
    precision, recall = curves.precision[:, :, categories], curves.recall[:, categories]
    at_50, at_75 = (np.isclose(curves.iou_thresholds, iou) for iou in (0.5, 0.75))
    values = (
        *(precision[..., ALL, -1], precision[at_50][..., ALL, -1], precision[at_75][..., ALL, -1]),
        *(precision[..., area, -1] for area in (SMALL, MEDIUM, LARGE)),
        *(recall[..., ALL, cap] for cap in (0, 1, 2)),
        *(recall[..., area, -1] for area in (SMALL, MEDIUM, LARGE)),
    )
    return {name: _mean(value) for name, value in zip(stat_names(max_dets), values, strict=True)}


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0
