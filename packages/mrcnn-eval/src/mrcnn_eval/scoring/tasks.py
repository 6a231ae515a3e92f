"""Ground truth and detections as the columns that scorers take.

Legend: G annotations, D detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrcnn_eval.scoring.ground_truth import GroundTruth
from mrcnn_eval.scoring.image_results import ImageResults
from mrcnn_eval.scoring.precision_recall import ScoredObjects
from mrcnn_eval.scoring.segmentation import box_polygon, mask_areas


def scored_truth(
    truth: GroundTruth,
    rows: np.ndarray,
    images: np.ndarray,
    *,
    sizes: Sequence[tuple[int, int]] | None,
    honor_ignore: bool,
) -> tuple[ScoredObjects, np.ndarray]:
    """Take the annotations that count.

    Args:
        truth: of all images.
        rows: int64, annotations of the scored images.
        images: int64, index of the scored images, rising.
        sizes: (h, w) of the scored images where masks are compared; None where boxes are.
        honor_ignore: see `CocoEvaluator`.

    Returns:
        The objects, and which of them are crowds, bool.
    """
    crowd, areas = truth.crowd[rows], truth.areas[rows]
    if honor_ignore:
        # Both backends ignore an object whose area is outside of a range, but still match it by IoU. -1 is in no range.
        areas = np.where(truth.ignored[rows], -1.0, areas)
    numbers = np.searchsorted(images, truth.image_indices[rows])
    segmentations = None
    if sizes is not None:
        # An object without a usable mask trains its box only: for masks, that box is a region to ignore.
        crowd = crowd | np.array([truth.segmentations[row] is None for row in rows], bool)
        segmentations = [
            truth.segmentations[row] or box_polygon(truth.boxes[row], size=sizes[number])
            for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)
        ]
    objects = ScoredObjects(
        image_numbers=numbers + 1,
        category_numbers=truth.category_indices[rows] + 1,
        boxes=truth.boxes[rows],
        areas=areas,
        segmentations=segmentations,
    )
    return objects, crowd


def scored_detections(
    columns: ImageResults, numbers: np.ndarray, category_ids: Sequence[int], *, masks: bool
) -> tuple[ScoredObjects, np.ndarray]:
    """Take the detections that count: those with a mask, or with a box.

    Args:
        columns: D detections.
        numbers: int64 [D], number of the image from 1.
        category_ids: of the ground truth, sorted.
        masks: whether masks are compared, or boxes.

    Returns:
        The objects, and their scores.
    """
    kept = with_mask(columns) if masks else with_box(columns)
    boxes = columns.boxes[kept]
    rles = [rle for rle in columns.rles if rle is not None] if masks else None
    areas = boxes[:, 2] * boxes[:, 3] if rles is None else mask_areas(rles)
    objects = ScoredObjects(
        image_numbers=numbers[kept],
        category_numbers=np.searchsorted(category_ids, columns.category_ids[kept]) + 1,
        boxes=np.nan_to_num(boxes),
        areas=areas,
        segmentations=None if rles is None else [*rles],
    )
    return objects, columns.scores[kept]


def joined(results: list[ImageResults]) -> ImageResults:
    """Put the detections of images one after the other."""
    return ImageResults(
        category_ids=np.concatenate([np.zeros(0, np.int64), *(image.category_ids for image in results)]),
        boxes=np.concatenate([np.zeros((0, 4)), *(image.boxes for image in results)]),
        scores=np.concatenate([np.zeros(0), *(image.scores for image in results)]),
        rles=[rle for image in results for rle in image.rles],
    )


def with_box(columns: ImageResults) -> np.ndarray:
    """Return which detections have a box, bool [D]."""
    return ~np.isnan(columns.boxes).any(axis=1)


def with_mask(columns: ImageResults) -> np.ndarray:
    """Return which detections have a mask, bool [D]."""
    return np.array([rle is not None for rle in columns.rles], bool)
