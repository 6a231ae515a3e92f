"""What an evaluation measures, and its numbers, made from precision and recall."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mrcnn_eval.scoring.precision_recall import PrecisionRecall

COCO_IOU_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())
ALL_AREAS = (0.0, 1e5**2)  # pycocotools' own upper end
COCO_AREA_RANGES = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e5**2)}
COCO_CAPS = (1, 10)  # AR is reported at these too
SINGLE_THRESHOLDS = {"AP50": 0.5, "AP75": 0.75}


class Measures(NamedTuple):
    """What is measured; by default what COCO does.

    Attributes:
        iou_thresholds: AP and AR are means over these, rising.
        area_ranges: pixels (from, to), both ends inclusive, by the name of the size: "s" gives APs and ARs.
        max_dets: detections per image and class that count.
    """

    iou_thresholds: tuple[float, ...] = COCO_IOU_THRESHOLDS
    area_ranges: dict[str, tuple[float, float]] = COCO_AREA_RANGES
    max_dets: int = 100

    @property
    def caps(self) -> tuple[int, ...]:
        """Numbers of detections at which recall is reported, rising."""
        return (*(cap for cap in COCO_CAPS if cap < self.max_dets), self.max_dets)

    def check(self) -> None:
        """Raise ValueError, naming the argument, for what cannot be measured."""
        if self.max_dets < 1:
            raise ValueError(f"max_dets must be at least 1, not {self.max_dets}")
        rising = all(low < high for low, high in zip(self.iou_thresholds, self.iou_thresholds[1:], strict=False))
        if not self.iou_thresholds or not rising or not all(0 < iou <= 1 for iou in self.iou_thresholds):
            raise ValueError(f"iou_thresholds must be above 0, at most 1, and rise: {list(self.iou_thresholds)}")
        for name, (low, high) in self.area_ranges.items():
            if not name or name.isdigit():
                raise ValueError(f"area_ranges: the name of a size must not be empty or a number: {name!r}")
            if not 0 <= low <= high:
                raise ValueError(f"area_ranges: {name} must rise from 0 or more, not go from {low} to {high}")


def summarize(curves: PrecisionRecall, measures: Measures, *, category: int | None = None) -> dict[str, float]:
    """Average the curves to numbers by name: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.

    AP50 and AP75 are given if their thresholds are measured, AR for each limit on detections. The sizes have the names
    in `measures`.

    Args:
        curves: scored with these measures; every area is the first area range.
        measures: name the axes.
        category: index of one category, None for the mean over all.

    Returns:
        Numbers by name, in the order of pycocotools; -1, as in pycocotools, where there is no ground truth.
    """
    categories = slice(None) if category is None else [category]
    precision, recall = (
        curves.precision[:, :, categories],
        curves.recall[:, categories],
    )  # [T, R, K, A, M], [T, K, A, M]
    numbers = {"AP": precision[..., 0, -1]}
    for name, iou in SINGLE_THRESHOLDS.items():
        rows = [row for row, each in enumerate(measures.iou_thresholds) if math.isclose(each, iou, rel_tol=1e-5)]
        if rows:
            numbers[name] = precision[rows][..., 0, -1]
    sizes = [*enumerate(measures.area_ranges, start=1)]
    numbers |= {f"AP{size}": precision[..., area, -1] for area, size in sizes}
    numbers |= {f"AR{cap}": recall[..., 0, index] for index, cap in enumerate(measures.caps)}
    numbers |= {f"AR{size}": recall[..., area, -1] for area, size in sizes}
    return {name: _mean(values) for name, values in numbers.items()}


def _mean(values: np.ndarray) -> float:
    present = values[values > -1]
    return float(present.mean()) if present.size else -1.0
