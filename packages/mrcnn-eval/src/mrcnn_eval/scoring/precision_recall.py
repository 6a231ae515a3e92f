"""What a scorer takes and returns, the same for both backends.

Legend: T IoU thresholds, R recall thresholds, K categories, A area ranges (the first holds every area), M detection
caps.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrcnn_eval.scoring.segmentation import Segmentation


class ScoredObjects(NamedTuple):
    """Ground truth or detections of one IoU type as columns of length n; images and categories numbered from 1.

    Attributes:
        image_numbers: int64 [n].
        category_numbers: int64 [n].
        boxes: float64 [n, 4] (x, y, w, h), pixels.
        areas: float64 [n], pixels, that decide between small, medium and large.
        segmentations: n polygons or RLEs for masks, None for boxes.
    """

    image_numbers: np.ndarray
    category_numbers: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    segmentations: list[Segmentation] | None


class ScoringTask(NamedTuple):
    """What the numbers of one IoU type depend on.

    Attributes:
        image_sizes: (h, w) of image 1, 2, ....
        num_categories: K.
        iou_thresholds: T shares of overlap from which a detection counts as right, rising.
        area_ranges: A pairs (from, to) of pixels, both ends inclusive.
        max_dets: M limits on the detections per image and category, rising.
        truth: the ground truth.
        truth_crowd: bool [G]; crowds match any number of detections, by the share of the detection inside, and are not
            counted.
        detections: the detections.
        scores: float64 [D].
        zero_ids: int64, rows of the ground truth that keep the id 0; only the pycocotools backend has them.
    """

    image_sizes: list[tuple[int, int]]
    num_categories: int
    iou_thresholds: tuple[float, ...]
    area_ranges: tuple[tuple[float, float], ...]
    max_dets: tuple[int, ...]
    truth: ScoredObjects
    truth_crowd: np.ndarray
    detections: ScoredObjects
    scores: np.ndarray
    zero_ids: np.ndarray


class PrecisionRecall(NamedTuple):
    """Accumulated curves, -1 where a category has no ground truth in the area range.

    Attributes:
        precision: float64 [T, R, K, A, M].
        recall: float64 [T, K, A, M].
    """

    precision: np.ndarray
    recall: np.ndarray
