"""The boxes of a file: clipped to their images, derived from segmentations, or refused. Legend: A annotations."""

from __future__ import annotations

import numpy as np

from mrcnn_data.columns import Columns
from mrcnn_data.masks import segmentation_box
from mrcnn_data.report import Report
from mrcnn_data.segmentation import decode_segmentation


def check_boxes(columns: Columns, image_sizes: np.ndarray, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Clip, derive or refuse every box.

    Args:
        image_sizes: int64 [I, 2] (h, w).
    Returns:
        boxes: float32 [A, 4] (x1, y1, x2, y2), source pixels.
        usable: bool [A].
    """
    sizes = image_sizes[columns.image_index]  # [A, 2]
    boxes = columns.boxes_xywh.copy()
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        boxes[:, 2:] += boxes[:, :2]
    is_given = columns.has_bbox & np.isfinite(boxes).all(axis=1)
    _derive_boxes(columns, ~is_given, sizes, boxes, report)
    is_known = np.isfinite(boxes).all(axis=1)
    boxes[~is_known] = 0
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    clipped = np.clip(boxes, 0, sizes[:, [1, 0, 1, 0]])
    is_inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    sticks_out = (np.abs(clipped - boxes) > 1.0).any(axis=1)  # up to a pixel is rounding: COCO's own boxes do it
    for kind, severity, action, which in (
        ("box of zero or negative size", "dropped", "object dropped", is_known & ~has_area),
        ("box outside the image", "dropped", "object dropped", has_area & ~is_inside),
        ("box sticks out of the image", "repaired", "clipped to the image", is_inside & sticks_out & has_area),
    ):
        report.add(kind, severity=severity, action=action, where=columns.ids_where(which))
    return clipped.astype(np.float32), is_known & has_area & is_inside


def _derive_boxes(columns: Columns, wanted: np.ndarray, sizes: np.ndarray, boxes: np.ndarray, report: Report) -> None:
    """Write the boxes of the segmentations of `wanted` annotations, NaN where there is none."""
    derived = np.zeros(len(boxes), bool)
    for row in np.flatnonzero(wanted).tolist():
        height, width = map(int, sizes[row])
        segmentation = decode_segmentation(columns.segmentations[row], height=height, width=width).segmentation
        box = None if segmentation is None else segmentation_box(segmentation, height=height, width=width)
        boxes[row] = np.nan if box is None else box
        derived[row] = box is not None
    for kind, of_kind in (
        ("bbox missing", wanted & ~columns.has_bbox),
        ("bbox is not four finite numbers", wanted & columns.has_bbox),
    ):
        action = "taken from the segmentation"
        report.add(kind, severity="repaired", action=action, where=columns.ids_where(of_kind & derived))
        report.add(
            f"{kind}, and no segmentation to take it from",
            severity="dropped",
            action="object dropped",
            where=columns.ids_where(of_kind & ~derived),
        )
