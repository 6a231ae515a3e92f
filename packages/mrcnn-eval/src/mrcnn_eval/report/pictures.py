"""Pictures of detections beside ground truth.

Images are uint8 RGB [h, w, 3]; masks uint8 [h, w], 0 or 1; pixel (x, y) spans [x, x + 1) x [y, y + 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn_data import DatasetError, load_image
from mrcnn_data.drawing import (
    GREY,
    MIN_EDGE,
    TITLE_HEIGHT,
    Instance,
    class_color,
    draw_instances,
    spread,
    stack,
    titled,
    told_apart,
    write_png,
)
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator
from mrcnn_eval.scoring.ground_truth import GroundTruthError
from mrcnn_eval.scoring.image_results import ImageResults
from mrcnn_eval.scoring.segmentation import to_mask

PICTURE_SCORE = 0.5  # least score of a detection that is drawn: all of them would cover the picture


def draw_contact_sheet(
    path: str | Path,
    evaluator: CocoEvaluator,
    images: str | Path | None = None,
    *,
    score_threshold: float = PICTURE_SCORE,
    max_images: int = 8,
    on_error: str = "raise",
) -> None:
    """Write a PNG of ground truth (left) beside detections (right), one image per row.

    Args:
        path: of the PNG.
        evaluator: holds ground truth and detections.
        images: folder that the file names of the ground truth are relative to; by default that of the data set.
        score_threshold: detections below it are not drawn (they do count for AP).
        max_images: rows, spread evenly over the images that were detected on.
        on_error: "raise", or "skip": an image that cannot be read is drawn black.

    Raises:
        DatasetError: an image file that is missing, broken, or of another size than the ground truth says.
        GroundTruthError: an image without a file name.
    """
    shown = spread([*evaluator.image_results], count=max_images)
    folder = images or evaluator.ground_truth.image_dir
    if folder is None:
        raise ValueError("images: the ground truth is of an annotation file alone; give the folder of its images")
    rows = [
        _row(evaluator, image_id, Path(folder), score_threshold=score_threshold, on_error=on_error)
        for image_id in shown
    ]
    sheet = stack(rows, axis=0) if rows else np.full((TITLE_HEIGHT, MIN_EDGE, 3), 255, np.uint8)
    write_png(Path(path), sheet)


def _row(evaluator: CocoEvaluator, image_id: Any, images: Path, *, score_threshold: float, on_error: str) -> np.ndarray:
    truth = evaluator.ground_truth
    index = truth.image_ids.index(image_id)
    name = truth.file_names[index]
    if name is None:
        raise GroundTruthError(f"image {image_id!r} of the ground truth has no file_name")
    height, width = (int(edge) for edge in truth.image_sizes[index])
    try:
        image = load_image(images / name, expected_size=(height, width) if height else None)
    except DatasetError:
        if on_error != "skip":
            raise
        image = np.zeros((max(height, 1), max(width, 1), 3), np.uint8)
    objects = truth_instances(evaluator, image_id)
    found = detected_instances(evaluator, image_id, score_threshold=score_threshold)
    of_what = f" ({truth.category_names[0]})" if _is_single_class(evaluator) else ""
    return stack(
        [
            titled(draw_instances(image, objects), f"{name}: {len(objects)} objects{of_what}"),
            titled(
                draw_instances(image, found), f"{len(found)} detections{of_what} at score {score_threshold:g} or more"
            ),
        ],
        axis=1,
    )


def truth_instances(evaluator: CocoEvaluator, image_id: Any) -> list[Instance]:
    """Return the ground-truth objects of an image, large ones first; crowds are grey."""
    truth = evaluator.ground_truth
    index = truth.image_ids.index(image_id)
    size = (int(truth.image_sizes[index, 0]), int(truth.image_sizes[index, 1]))
    rows = np.flatnonzero(truth.image_indices == index)
    instances = []
    for row in rows[np.argsort(-truth.areas[rows], kind="stable")]:
        category = int(truth.category_indices[row])
        name = "" if _is_single_class(evaluator) else truth.category_names[category]
        segmentation = truth.segmentations[row]
        instances.append(
            Instance(
                box=corners(truth.boxes[row]),
                mask=None if segmentation is None else to_mask(segmentation, size=size),
                label=f"crowd {name}".strip() if truth.crowd[row] else name,
                color=GREY if truth.crowd[row] else class_color(category),
            )
        )
    return told_apart(instances) if _is_single_class(evaluator) else instances


def detected_instances(evaluator: CocoEvaluator, image_id: Any, *, score_threshold: float) -> list[Instance]:
    """Return the detections of an image from `score_threshold` up; see `result_instances`."""
    truth = evaluator.ground_truth
    names = dict(zip(truth.category_ids, truth.category_names, strict=True))
    return result_instances(evaluator.image_results[image_id], names, score_threshold=score_threshold)


def result_instances(results: ImageResults, names: Mapping[int, str], *, score_threshold: float) -> list[Instance]:
    """Return detections from `score_threshold` up, lowest score first: the best is drawn on top.

    Args:
        results: of one image.
        names: of all classes by category id, in the order that gives them their colors.
        score_threshold: detections below it are left out.
    """
    numbers = {category_id: number for number, category_id in enumerate(names)}
    is_single_class = len(names) == 1
    instances = []
    for row in np.argsort(results.scores, kind="stable"):
        if results.scores[row] < score_threshold:
            continue
        category_id = int(results.category_ids[row])
        rle = results.rles[row]
        instances.append(
            Instance(
                box=None if np.isnan(results.boxes[row]).any() else corners(results.boxes[row]),
                mask=None if rle is None else to_mask(rle, size=tuple(rle["size"])),
                label=f"{'' if is_single_class else names[category_id]} {results.scores[row]:.2f}".strip(),
                color=class_color(numbers[category_id]),
            )
        )
    return told_apart(instances) if is_single_class else instances


def _is_single_class(evaluator: CocoEvaluator) -> bool:
    """Return whether there is one class: then the title names it, not a label on each of hundreds of objects."""
    return len(evaluator.ground_truth.category_ids) == 1


def corners(box: Sequence[float] | np.ndarray) -> tuple[float, float, float, float]:
    """Turn (x, y, w, h) into (x1, y1, x2, y2).

    >>> corners([10, 20, 30, 40])
    (10.0, 20.0, 40.0, 60.0)
    """
    x, y, w, h = (float(value) for value in box)
    return x, y, x + w, y + h
