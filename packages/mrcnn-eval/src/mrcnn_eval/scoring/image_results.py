"""The detections of one image, checked, and their form in a COCO results file.

Legend: n detections of the image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from mrcnn_eval.scoring.segmentation import Rle, SegmentationError, check_compressed_rle, mask_areas

MAX_COORDINATE = 1e12  # pixels; the areas of larger boxes are no longer exact numbers


class ResultsError(ValueError):
    """Detections that cannot be scored; one line that names image and entry."""


class ImageResults(NamedTuple):
    """Detections of one image, in the order they were given.

    Attributes:
        category_ids: int64 [n], as in the annotation file.
        boxes: float64 [n, 4] (x, y, w, h), pixels of the original image; NaN where only a mask was given.
        scores: float64 [n].
        rles: n masks {"size": [h, w], "counts": str} of the original image's size, None where only a box was given.
    """

    category_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    rles: list[Rle | None]


def image_results(
    image_id: Any,
    *,
    category_ids: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    rles: Sequence[Rle | None] | None,
    size: tuple[int, int],
) -> ImageResults:
    """Check the detections of one image.

    Args:
        image_id: for messages.
        category_ids: whole numbers [n].
        boxes: numbers [n, 4] (x, y, w, h), pixels of the original image.
        scores: numbers [n].
        rles: n compressed RLEs; None for boxes only.
        size: (h, w) of the image, pixels; (0, 0) where unknown.

    Returns:
        Checked columns, in float64 so that nothing is rounded before scoring.

    Raises:
        ResultsError: lengths that differ, scores or boxes that are not finite, an RLE that does not fit the image.
    """
    scores = np.asarray(scores, np.float64).reshape(-1)
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    category_ids = np.asarray(category_ids)
    category_ids = category_ids.astype(np.int64) if category_ids.size == 0 else category_ids
    rles = [None] * len(scores) if rles is None else list(rles)
    if boxes.shape[:1] == scores.shape and boxes.shape != (len(scores), 4):
        raise ResultsError(f"image {image_id!r}: bbox must be [x, y, width, height]")
    if boxes.shape != (len(scores), 4) or category_ids.shape != scores.shape or len(rles) != len(scores):
        raise ResultsError(
            f"image {image_id!r}: {len(scores)} scores, but boxes of shape {list(boxes.shape)}, "
            f"category_ids of shape {list(category_ids.shape)} and {len(rles)} masks"
        )
    if not np.issubdtype(category_ids.dtype, np.integer):
        raise ResultsError(f"image {image_id!r}: category_ids must be whole numbers, not {category_ids.dtype}")
    if not np.isfinite(scores).all():
        raise ResultsError(f"image {image_id!r}: a score is not finite")
    box_given = np.array([rle is None for rle in rles], bool)
    if np.isinf(boxes).any() or np.isnan(boxes[box_given]).any():
        raise ResultsError(f"image {image_id!r}: a box is not finite")
    if (np.abs(boxes) > MAX_COORDINATE).any():
        raise ResultsError(f"image {image_id!r}: a box has a coordinate beyond {MAX_COORDINATE:g}")
    return ImageResults(
        category_ids=category_ids.astype(np.int64),
        boxes=boxes,
        scores=scores,
        rles=_checked_rles(rles, size=size, image_id=image_id),
    )


def _checked_rles(rles: list[Rle | None], *, size: tuple[int, int], image_id: Any) -> list[Rle | None]:
    try:
        checked = [None if rle is None else check_compressed_rle(rle, size=size) for rle in rles]
        mask_areas([rle for rle in checked if rle is not None])  # finds damaged counts
    except SegmentationError as error:
        raise ResultsError(f"image {image_id!r}: {error}") from error
    return checked


def count_empty_masks(rles: Sequence[Rle | None]) -> int:
    """Count the masks without a pixel: a small object's mask may become empty at the size of the image."""
    return int((mask_areas([rle for rle in rles if rle is not None]) == 0).sum())


def with_plain_numbers(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an entry of a results list in which numbers written as text are numbers; itself if it has none."""
    changed = {name: _plain(entry[name]) for name in ("category_id", "score", "bbox") if name in entry}
    if all(changed[name] is entry[name] for name in changed):
        return entry
    return {**entry, **changed}


def _plain(value: Any) -> Any:
    """Return the number that a text spells, or a list with such numbers; anything else as it is."""
    if isinstance(value, list) and any(isinstance(item, str) for item in value):
        return [_plain(item) for item in value]
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def from_coco(image_id: Any, entries: list[dict[str, Any]], *, size: tuple[int, int]) -> ImageResults:
    """Check the entries of one image out of a COCO results list.

    Raises:
        ResultsError: an entry without category_id or score, or with neither bbox nor segmentation; see `image_results`.
    """
    for entry in entries:
        for key in ("category_id", "score"):
            if key not in entry:
                raise ResultsError(f"image {image_id!r}: a result has no {key}")
        if not isinstance(entry["score"], Real):
            raise ResultsError(f"image {image_id!r}: score must be a number, not {entry['score']!r}")
        if "bbox" not in entry and "segmentation" not in entry:
            raise ResultsError(f"image {image_id!r}: a result has neither bbox nor segmentation")
    try:
        return image_results(
            image_id,
            category_ids=np.asarray([entry["category_id"] for entry in entries]),
            boxes=np.asarray([entry.get("bbox", [np.nan] * 4) for entry in entries], np.float64),
            scores=np.asarray([entry["score"] for entry in entries], np.float64),
            rles=[entry.get("segmentation") for entry in entries],
            size=size,
        )
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ResultsError):
            raise
        if isinstance(error, OverflowError):
            raise ResultsError(f"image {image_id!r}: a number is beyond the range of float64") from error
        raise ResultsError(f"image {image_id!r}: bbox must be [x, y, width, height]") from error


def to_coco(image_id: Any, results: ImageResults) -> list[dict[str, Any]]:
    """Return the detections of one image as entries of a COCO results list, which JSON can hold as they are."""
    entries = []
    columns = zip(
        results.category_ids.tolist(), results.boxes.tolist(), results.scores.tolist(), results.rles, strict=True
    )
    for category_id, box, score, rle in columns:
        entry = {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score, "segmentation": rle}
        if rle is None:
            del entry["segmentation"]
        if box[0] != box[0]:  # NaN: only a mask was given
            del entry["bbox"]
        entries.append(entry)
    return entries
