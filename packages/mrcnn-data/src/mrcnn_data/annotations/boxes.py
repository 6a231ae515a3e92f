"""Check the boxes of a file: clip them to their images, derive missing ones, refuse others. Legend: A annotations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrcnn_data.annotations.columns import Columns
from mrcnn_data.masks.rasterising import segmentation_box
from mrcnn_data.masks.segmentation import decode_segmentation
from mrcnn_data.report import Report


class CheckedBoxes(NamedTuple):
    """Boxes in source pixels.

    Attributes:
        clipped: float32 [A, 4] (x1, y1, x2, y2), inside the image, for training.
        xywh: float64 [A, 4] (x, y, w, h), as in the file or derived, not clipped, for scoring.
        usable: bool [A]; the other annotations are neither trained on nor scored.
    """

    clipped: np.ndarray
    xywh: np.ndarray
    usable: np.ndarray


def check_boxes(columns: Columns, image_sizes: np.ndarray, report: Report) -> CheckedBoxes:
    """Clip, derive or refuse every box.

    Args:
        image_sizes: int64 [I, 2] (h, w); 0 where unknown: then boxes are not clipped on the right and at the bottom.
    """
    limits = image_sizes.T[::-1].astype(np.float64)[:, columns.image_index]  # [2, A], (w, h)
    boxes = columns.boxes_xywh.T.copy()  # [4, A]: NumPy is several times as fast on a few long rows
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        boxes[2:] += boxes[:2]
    is_given = columns.has_bbox & np.isfinite(boxes).all(axis=0)
    is_derived = _derive_boxes(columns, ~is_given, limits, boxes, report)
    is_known = is_given | is_derived
    boxes[:, ~is_known] = 0
    has_area = _has_area(boxes)
    limits[limits == 0] = np.inf
    clipped = np.clip(boxes.reshape(2, 2, -1), 0, limits).reshape(4, -1)
    is_inside = _has_area(clipped)
    sticks_out = (np.abs(clipped - boxes) > 1.0).any(axis=0)  # up to a pixel is rounding, as in COCO's own files
    for kind, severity, action, which in (
        ("box of zero or negative size", "dropped", "not trained, not scored", is_known & ~has_area),
        ("box outside the image", "dropped", "not trained, not scored", has_area & ~is_inside),
        (
            "box sticks out of the image",
            "repaired",
            "clipped to the image for training, scored as it is",
            is_inside & sticks_out & has_area,
        ),
    ):
        report.add(kind, severity=severity, action=action, where=columns.ids_where(which))
    xywh = columns.boxes_xywh
    if is_derived.any():
        xywh = xywh.copy()
        xywh[is_derived] = np.concatenate([boxes[:2], boxes[2:] - boxes[:2]])[:, is_derived].T
    return CheckedBoxes(clipped.T.astype(np.float32, order="C"), xywh, is_known & has_area & is_inside)


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return np.asarray((boxes[2] > boxes[0]) & (boxes[3] > boxes[1]))


def _derive_boxes(
    columns: Columns, wanted: np.ndarray, limits: np.ndarray, boxes: np.ndarray, report: Report
) -> np.ndarray:
    """Write into `boxes` the box of the segmentation of each `wanted` annotation; return which have one, bool [A]."""
    derived = np.zeros(len(wanted), bool)
    for row in np.flatnonzero(wanted).tolist():
        width, height = map(int, limits[:, row])
        segmentation = decode_segmentation(columns.segmentations[row], height=height, width=width).segmentation
        box = None if segmentation is None else segmentation_box(segmentation, height=height, width=width)
        if box is not None:
            boxes[:, row], derived[row] = box, True
    for kind, of_kind in (
        ("bbox missing", wanted & ~columns.has_bbox),
        ("bbox is not four finite numbers", wanted & columns.has_bbox),
    ):
        action = "taken from the segmentation"
        report.add(kind, severity="repaired", action=action, where=columns.ids_where(of_kind & derived))
        report.add(
            f"{kind}, and no segmentation to take it from",
            severity="dropped",
            action="not trained, not scored",
            where=columns.ids_where(of_kind & ~derived),
        )
    return derived
