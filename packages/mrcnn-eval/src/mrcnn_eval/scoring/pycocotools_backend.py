"""Scoring with pycocotools: the reference, slow."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn_eval.scoring.precision_recall import PrecisionRecall, ScoredObjects, ScoringTask


def score_with_pycocotools(task: ScoringTask) -> PrecisionRecall:
    """Match and accumulate one IoU type."""
    evaluation = match_with_pycocotools(task)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    return PrecisionRecall(evaluation.eval["precision"], evaluation.eval["recall"])


def match_with_pycocotools(task: ScoringTask) -> COCOeval:
    """Match one IoU type; `evalImgs` of the result has what was matched in each category, area range and image."""
    truth_entries = _entries(task.truth)
    for entry, crowd in zip(truth_entries, task.truth_crowd.tolist(), strict=True):
        entry["iscrowd"] = int(crowd)
    for row in task.zero_ids.tolist()[:1]:  # ids are unique in pycocotools, where a later entry replaces an earlier one
        truth_entries[row]["id"] = 0
    detection_entries = _entries(task.detections)
    for entry, score in zip(detection_entries, task.scores.tolist(), strict=True):
        entry["score"] = score
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress with print()
        truth, detections = _dataset(task, truth_entries), _dataset(task, detection_entries)
        evaluation = COCOeval(truth, detections, "bbox" if task.truth.segmentations is None else "segm")
        evaluation.params.iouThrs = np.asarray(task.iou_thresholds)
        evaluation.params.areaRng = [list(area_range) for area_range in task.area_ranges]
        evaluation.params.areaRngLbl = [str(number) for number in range(len(task.area_ranges))]
        evaluation.params.maxDets = list(task.max_dets)
        evaluation.evaluate()
    return evaluation


def _entries(objects: ScoredObjects) -> list[dict[str, Any]]:
    columns = zip(
        objects.image_numbers.tolist(),
        objects.category_numbers.tolist(),
        objects.boxes.tolist(),
        objects.areas.tolist(),
        strict=True,
    )
    entries: list[dict[str, Any]] = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area}
        for number, (image, category, box, area) in enumerate(columns, start=1)
    ]
    for entry, segmentation in zip(entries, objects.segmentations or (), strict=False):
        entry["segmentation"] = segmentation
    return entries


def _dataset(task: ScoringTask, entries: list[dict[str, Any]]) -> COCO:
    # Not loadRes: it fails on an empty list, and takes the box's area for a mask that comes with a box.
    dataset = COCO()
    dataset.dataset = {
        "images": [{"id": number, "height": h, "width": w} for number, (h, w) in enumerate(task.image_sizes, start=1)],
        "categories": [{"id": number} for number in range(1, task.num_categories + 1)],
        "annotations": entries,
    }
    dataset.createIndex()
    return dataset
