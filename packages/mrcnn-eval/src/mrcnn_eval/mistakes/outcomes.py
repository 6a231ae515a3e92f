"""The outcome of each detection and object: right, or wrong and how; found, or missed.

Detections are matched as COCO does at one IoU: within a class, best score first, each object once. A wrong detection
has one kind, the first that applies:

- duplicate: covers an object of its class that a better detection has found;
- class: covers an object of another class;
- localisation: overlaps an object of its class too little to count;
- background: anything else.

Since better scores go first, cutting the list at a score changes no kind above the cut.

Legend: n detections and m objects of one image; D detections, G objects of all images; K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator, IouType
from mrcnn_eval.scoring.ground_truth import GroundTruth
from mrcnn_eval.scoring.image_results import ImageResults
from mrcnn_eval.scoring.segmentation import box_polygon, to_rle

MATCH_IOU = 0.5  # from which a detection is right
TOUCH_IOU = 0.1  # from which a wrong detection of the right class is one of localisation (Bolya et al. 2020, TIDE)

RIGHT, DUPLICATE, CLASS, LOCALISATION, BACKGROUND, IGNORED = range(6)
WRONG_KINDS = {LOCALISATION: "localisation", CLASS: "class", DUPLICATE: "duplicate", BACKGROUND: "background"}


class Outcomes(NamedTuple):
    """Detections and objects of an evaluation as columns, with their outcomes.

    Attributes:
        image_ids: of the images, as in the file.
        class_names: K names.
        iou_type: what was compared, masks or boxes.
        det_images: int64 [D], index into `image_ids`.
        det_rows: int64 [D], row in the image's `ImageResults`.
        det_classes: int64 [D], index of the class.
        det_scores: float64 [D].
        det_kinds: int64 [D], RIGHT, a wrong kind, or IGNORED (on a crowd or a region to ignore).
        det_objects: int64 [D], row in the ground truth of the object that explains the kind, -1 for none.
        det_ious: float64 [D], its IoU with that object.
        object_rows: int64 [G], row in the ground truth; regions to ignore are left out.
        object_images: int64 [G].
        object_classes: int64 [G].
        found_scores: float64 [G], score of the detection that found the object, -inf where none did.
    """

    image_ids: list[Any]
    class_names: tuple[str, ...]
    iou_type: IouType
    det_images: np.ndarray
    det_rows: np.ndarray
    det_classes: np.ndarray
    det_scores: np.ndarray
    det_kinds: np.ndarray
    det_objects: np.ndarray
    det_ious: np.ndarray
    object_rows: np.ndarray
    object_images: np.ndarray
    object_classes: np.ndarray
    found_scores: np.ndarray

    def wrong_detections(self, threshold: float) -> np.ndarray:
        """Return the numbers of the wrong detections from this score up, int64."""
        return np.flatnonzero(np.isin(self.det_kinds, list(WRONG_KINDS)) & (self.det_scores >= threshold))

    def missed_objects(self, threshold: float) -> np.ndarray:
        """Return the numbers of the objects that no detection from this score up found, int64."""
        return np.flatnonzero(self.found_scores < threshold)


def outcomes(evaluator: CocoEvaluator, *, image_ids: Iterable[Any] | None = None) -> Outcomes:
    """Match every detection at IoU 0.5: by masks where they are scored and given, else by boxes.

    Args:
        evaluator: holds ground truth and detections.
        image_ids: those that count; by default all of the annotation file.
    """
    truth = evaluator.ground_truth
    wanted = None if image_ids is None else set(image_ids)
    indices = [i for i, image_id in enumerate(truth.image_ids) if wanted is None or image_id in wanted]
    iou_type = _compared(evaluator)
    rows_of_image = _rows_by_image(truth)
    detections, objects = [], []
    for number, index in enumerate(indices):
        results = evaluator.image_results.get(truth.image_ids[index])
        rows = rows_of_image[index]
        crowd, regular = _crowd_and_regular(evaluator, rows, iou_type)
        found = np.full(len(rows), -np.inf)  # [m]
        if results is not None and len(results.scores):
            lines = _match_image(evaluator, results, rows, crowd, regular, found, iou_type=iou_type)
            detections.append(np.concatenate([np.full((1, lines.shape[1]), number), lines]))
        objects.append(np.stack([rows, np.full(len(rows), number), truth.category_indices[rows], found])[:, regular])
    columns = np.concatenate([np.zeros((7, 0)), *detections], axis=1)
    truths = np.concatenate([np.zeros((4, 0)), *objects], axis=1)
    images, det_rows, classes, kinds, matched = columns[[0, 1, 2, 4, 5]].astype(np.int64)
    return Outcomes(
        image_ids=[truth.image_ids[index] for index in indices],
        class_names=truth.category_names,
        iou_type=iou_type,
        det_images=images,
        det_rows=det_rows,
        det_classes=classes,
        det_scores=columns[3],
        det_kinds=kinds,
        det_objects=matched,
        det_ious=columns[6],
        object_rows=truths[0].astype(np.int64),
        object_images=truths[1].astype(np.int64),
        object_classes=truths[2].astype(np.int64),
        found_scores=truths[3],
    )


def _compared(evaluator: CocoEvaluator) -> IouType:
    has_masks = any(rle is not None for results in evaluator.image_results.values() for rle in results.rles)
    return "segm" if "segm" in evaluator.iou_types and (has_masks or "bbox" not in evaluator.iou_types) else "bbox"


def _rows_by_image(truth: GroundTruth) -> list[np.ndarray]:
    order = np.argsort(truth.image_indices, kind="stable")
    ends = np.searchsorted(truth.image_indices[order], np.arange(1, len(truth.image_ids)))
    return np.split(order, ends)


def _crowd_and_regular(evaluator: CocoEvaluator, rows: np.ndarray, iou_type: IouType) -> tuple[np.ndarray, np.ndarray]:
    """Return which objects any number of detections may match, and which are found or missed: bool [m] each."""
    truth = evaluator.ground_truth
    crowd = truth.crowd[rows]
    if iou_type == "segm":
        crowd = crowd | np.array([truth.segmentations[row] is None for row in rows], bool)
    return crowd, ~crowd & ~truth.ignored[rows] if evaluator.honor_ignore else ~crowd


def _match_image(
    evaluator: CocoEvaluator,
    results: ImageResults,
    rows: np.ndarray,
    crowd: np.ndarray,
    regular: np.ndarray,
    found: np.ndarray,
    *,
    iou_type: IouType,
) -> np.ndarray:
    """Match one image: float64 [6, n] of row, class, score, kind, object, IoU; fills `found` [m]."""
    truth = evaluator.ground_truth
    classes = np.searchsorted(truth.category_ids, results.category_ids)
    usable = (
        np.array([rle is not None for rle in results.rles], bool)
        if iou_type == "segm"
        else ~np.isnan(results.boxes).any(axis=1)
    )
    kept = _best_of_each_class(results, classes, usable, max_dets=evaluator.measures.max_dets)
    ious = _ious(truth, results, kept, rows, crowd, iou_type)  # [n, m]
    same = classes[kept][:, None] == truth.category_indices[rows]  # [n, m]
    taken = np.zeros(len(rows), bool)  # [m]
    lines = []
    for position, row in enumerate(kept):
        kind, at = _kind(ious[position], same[position], regular, taken)
        if kind == RIGHT:
            found[at] = results.scores[row]
        if kind in (RIGHT, IGNORED):
            taken[at] = not crowd[at]
        matched, iou = (-1, 0.0) if at < 0 else (rows[at], ious[position, at])
        lines.append((row, classes[row], results.scores[row], kind, matched, iou))
    return np.array(lines, np.float64).reshape(-1, 6).T


def _best_of_each_class(results: ImageResults, classes: np.ndarray, usable: np.ndarray, *, max_dets: int) -> np.ndarray:
    """Return rows by falling score, of each class at most `max_dets`, as for AP."""
    order = np.argsort(-results.scores, kind="stable")
    order = order[usable[order]]
    kept = np.zeros(len(order), bool)
    for category in np.unique(classes[order]):
        kept[np.flatnonzero(classes[order] == category)[:max_dets]] = True
    return order[kept]


def _ious(
    truth: GroundTruth,
    results: ImageResults,
    kept: np.ndarray,
    rows: np.ndarray,
    crowd: np.ndarray,
    iou_type: IouType,
) -> np.ndarray:
    """Return the IoU of detections with objects; for crowds, the share of the detection inside: float64 [n, m]."""
    if not len(kept) or not len(rows):
        return np.zeros((len(kept), len(rows)))
    crowds = crowd.astype(np.uint8).tolist()
    if iou_type == "bbox":
        return np.asarray(mask_utils.iou(results.boxes[kept], truth.boxes[rows], crowds))
    found = [results.rles[row] for row in kept]
    size = tuple(found[0]["size"])  # type: ignore[index]
    # An object without a mask is a region of the shape of its box.
    objects = [to_rle(truth.segmentations[row] or box_polygon(truth.boxes[row], size=size), size=size) for row in rows]
    return np.asarray(mask_utils.iou(found, objects, crowds))


def _kind(ious: np.ndarray, same: np.ndarray, regular: np.ndarray, taken: np.ndarray) -> tuple[int, int]:
    """Judge one detection by its IoUs [m]: the kind, and the object that explains it, -1 for none."""
    rules = (
        (RIGHT, same & regular & ~taken, MATCH_IOU),
        (IGNORED, same & ~regular & ~taken, MATCH_IOU),
        (DUPLICATE, same & taken, MATCH_IOU),
        (CLASS, ~same & regular, MATCH_IOU),
        (LOCALISATION, same & regular, TOUCH_IOU),
    )
    for kind, candidates, least in rules:
        if candidates.any():
            candidate_ious = np.where(candidates, ious, -1.0)
            at = len(ious) - 1 - int(np.argmax(candidate_ious[::-1]))  # of equal ones the last, as in pycocotools
            if ious[at] >= least:
                return kind, at
    return BACKGROUND, -1
