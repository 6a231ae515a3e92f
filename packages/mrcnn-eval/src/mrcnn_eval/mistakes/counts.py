"""Counts of outcomes: by class, by pair of classes, by score, by image.

Legend: K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrcnn_eval.mistakes.outcomes import CLASS, IGNORED, RIGHT, WRONG_KINDS, Outcomes


def best_threshold(result: Outcomes) -> float:
    """Return the score threshold with the best F1 over all classes; 0.5 if no detection is right."""
    counted = result.det_kinds != IGNORED
    scores, right = result.det_scores[counted], result.det_kinds[counted] == RIGHT
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    if not len(hits) or hits[-1] == 0:
        return 0.5
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + len(result.object_rows))
    ends = np.append(scores[order][1:] < scores[order][:-1], True)  # equal scores stay or go together
    return float(scores[order][int(np.argmax(np.where(ends, f1, -1.0)))])


class ClassErrors(NamedTuple):
    """Counts by class at a score threshold, int64 [K] each: objects, found, and detections of each wrong kind."""

    objects: np.ndarray
    found: np.ndarray
    wrong: dict[int, np.ndarray]


def class_errors(result: Outcomes, *, threshold: float) -> ClassErrors:
    """Count found objects and wrong detections of each class, from `threshold` up."""
    num_classes = len(result.class_names)
    shown = result.det_scores >= threshold

    def by_class(classes: np.ndarray) -> np.ndarray:
        return np.bincount(classes, minlength=num_classes)

    return ClassErrors(
        objects=by_class(result.object_classes),
        found=by_class(result.object_classes[result.found_scores >= threshold]),
        wrong={kind: by_class(result.det_classes[shown & (result.det_kinds == kind)]) for kind in WRONG_KINDS},
    )


def confusion(result: Outcomes, *, threshold: float) -> np.ndarray:
    """Count objects by what they were taken for: int64 [K + 1, K + 1], rows objects, columns detections.

    The last column counts missed objects. If detections of other classes cover a missed object, it counts as taken for
    the best of them. The last row counts the other wrong detections. So the row of a class adds up to its objects, and
    the column to its detections, without those on regions to ignore.
    """
    num_classes = len(result.class_names)
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    shown = result.det_scores >= threshold
    taken_for: dict[int, int] = {}  # class of the best detection by row of the object
    for at in np.flatnonzero(shown & (result.det_kinds == CLASS))[::-1]:
        taken_for[int(result.det_objects[at])] = int(result.det_classes[at])  # the best score is written last
    columns = zip(result.object_rows.tolist(), result.object_classes.tolist(), result.found_scores, strict=True)
    for row, category, score in columns:
        matrix[category, category if score >= threshold else taken_for.get(row, num_classes)] += 1
    judged = result.det_classes[shown & (result.det_kinds != IGNORED)]
    matrix[-1, :-1] = np.bincount(judged, minlength=num_classes) - matrix[:-1, :-1].sum(axis=0)
    return matrix


class Calibration(NamedTuple):
    """Detections by score in bins of equal width from 0 to 1.

    Attributes:
        right: int64 [bins].
        wrong: int64 [bins].
        mean_scores: float64 [bins], NaN where empty.
        error: expected calibration error: mean over detections of |score of the bin - share that is right| (Guo et
            al. 2017), NaN without detections.
    """

    right: np.ndarray
    wrong: np.ndarray
    mean_scores: np.ndarray
    error: float


def calibration(result: Outcomes, *, num_bins: int) -> Calibration:
    """Compare scores with how often they are right; detections on regions to ignore are left out."""
    counted = result.det_kinds != IGNORED
    scores, is_right = result.det_scores[counted], result.det_kinds[counted] == RIGHT
    bins = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    right = np.bincount(bins[is_right], minlength=num_bins)
    wrong = np.bincount(bins[~is_right], minlength=num_bins)
    total = right + wrong
    sums = np.bincount(bins, weights=scores, minlength=num_bins)
    mean_scores = np.where(total > 0, sums / np.maximum(total, 1), np.nan)
    error = float(np.abs(sums - right).sum() / total.sum()) if total.sum() else float("nan")
    return Calibration(right, wrong, mean_scores, error)


def image_f1(result: Outcomes, *, threshold: float) -> np.ndarray:
    """Return F1 by image at a score threshold: float64 [images], 1 for an image without objects and detections."""
    num_images = len(result.image_ids)
    shown = (result.det_scores >= threshold) & (result.det_kinds != IGNORED)
    hits = np.bincount(result.det_images[shown & (result.det_kinds == RIGHT)], minlength=num_images)
    total = np.bincount(result.det_images[shown], minlength=num_images)
    objects = np.bincount(result.object_images, minlength=num_images)
    return np.where(total + objects > 0, 2 * hits / np.maximum(total + objects, 1), 1.0)
