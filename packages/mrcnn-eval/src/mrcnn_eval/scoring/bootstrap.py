"""How much AP depends on which images were scored: the bootstrap (Efron 1979).

Legend: T IoU thresholds, D detections of a category, I images.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator, IouType
from mrcnn_eval.scoring.summary import ALL_AREAS

RECALLS = np.linspace(0.0, 1.0, 101)  # at which pycocotools reads the precision


class _Found(NamedTuple):
    """What was matched of a category in one image, by falling score.

    Attributes:
        scores: float64 [D].
        is_right, counts: bool [T, D], whether a detection found an object, and whether it counts at all.
        num_objects: that could be found.
    """

    scores: np.ndarray
    is_right: np.ndarray
    counts: np.ndarray
    num_objects: int


def bootstrap_ap(
    evaluator: CocoEvaluator,
    iou_type: IouType,
    *,
    image_ids: Iterable[Any] | None = None,
    samples: int = 200,
    seed: int = 0,
) -> np.ndarray:
    """Return the AP of random draws, with replacement, of as many images as there are.

    Args:
        evaluator: holds the detections.
        image_ids: as for `evaluate`.
        samples: number of draws.

    Returns:
        float64 [samples], rising; without the draws in which no object could be found.
    """
    task = evaluator.task(iou_type, image_ids=image_ids)
    task = task._replace(area_ranges=(ALL_AREAS,), max_dets=(max(task.max_dets),))
    num_images = len(task.image_sizes)
    found = _matched(task, num_images)
    random = np.random.default_rng(seed)
    aps = [_ap(found, random.integers(num_images, size=num_images).tolist()) for _ in range(samples)]
    return np.sort([ap for ap in aps if ap is not None])


def _matched(task: Any, num_images: int) -> list[list[_Found | None]]:
    """Match once: by category, then by image; None where an image has neither objects nor detections."""
    from mrcnn_eval.scoring.pycocotools_backend import match_with_pycocotools  # imports matplotlib: 0.5 s

    per_image = [None if one is None else _found(one) for one in match_with_pycocotools(task).evalImgs]
    return [per_image[begin : begin + num_images] for begin in range(0, len(per_image), num_images)]


def _found(one: dict[str, Any]) -> _Found:
    return _Found(
        np.asarray(one["dtScores"], np.float64),
        np.asarray(one["dtMatches"]) > 0,
        ~np.asarray(one["dtIgnore"], bool),
        int(np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)),
    )


def _ap(found: list[list[_Found | None]], images: list[int]) -> float | None:
    """Return the mean AP over the categories that have objects in these images; None without any."""
    aps = []
    for of_category in found:
        drawn = [one for image in images if (one := of_category[image]) is not None]
        num_objects = sum(one.num_objects for one in drawn)
        if num_objects:
            aps.append(_ap_of_category(drawn, num_objects))
    return float(np.mean(aps)) if aps else None


def _ap_of_category(drawn: list[_Found], num_objects: int) -> float:
    order = np.argsort(-np.concatenate([one.scores for one in drawn]), kind="mergesort")  # as pycocotools orders ties
    is_right = np.concatenate([one.is_right for one in drawn], axis=1)[:, order]  # [T, D]
    counts = np.concatenate([one.counts for one in drawn], axis=1)[:, order]
    right = np.cumsum(is_right & counts, axis=1, dtype=np.float64)
    wrong = np.cumsum(~is_right & counts, axis=1, dtype=np.float64)
    recall = right / num_objects
    precision = right / np.maximum(right + wrong, 1.0)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # the best at this recall or a higher one
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)  # recalls that are not reached
    places = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    return float(np.mean([row[place] for row, place in zip(precision, places, strict=True)]))
