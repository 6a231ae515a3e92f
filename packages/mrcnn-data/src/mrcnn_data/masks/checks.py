"""What is odd in the segmentations of a dataset, for its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mrcnn_data.annotations.columns import Segmentations
from mrcnn_data.masks.rasterising import segmentation_area, segmentation_box
from mrcnn_data.masks.segmentation import BOX_ONLY, FAULTS, decode_segmentation
from mrcnn_data.report import Report

# A box and a segmentation that overlap by less than half were probably not made for the same object.
MIN_BOX_AGREEMENT = 0.5
# Rounding and overlapping parts make less of a difference; some tools write the box's area.
MIN_AREA_AGREEMENT = 0.5

OTHER_BOX = "box and segmentation overlap by less than half"
_OTHER_AREA = "area is less than half or more than twice the mask's"
_USED_AS_THEY_ARE = {
    OTHER_BOX: "used as they are",
    _OTHER_AREA: "used as it is: it decides whether the object is scored as small, medium or large",
}


def report_segmentations(
    segmentations: Segmentations,
    *,
    describe: Callable[[np.ndarray], Sequence[object]],
    is_object: np.ndarray,
    boxes: np.ndarray,
    areas: np.ndarray,
    offsets: np.ndarray,
    image_sizes: np.ndarray,
    report: Report,
) -> None:
    """Decode the segmentations of all objects, and add what is odd to the report.

    Args:
        describe: ids of rows, as the report shows them.
        is_object: bool [A], boxes: float32 [A, 4] clipped, areas: float64 [A] as in the file, NaN where missing,
            offsets: int64 [I + 1], image_sizes: int64 [I, 2].
    """
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for index, (height, width) in enumerate(image_sizes.tolist()):
        for row in range(offsets[index], offsets[index + 1]):
            if is_object[row]:
                for fault in _faults(
                    segmentations[row], box=boxes[row], area=float(areas[row]), height=height, width=width
                ):
                    rows_of[fault].append(row)
    report_faults(rows_of, describe=describe, report=report)


def report_faults(
    rows_of: Mapping[str, list[int]], *, describe: Callable[[np.ndarray], Sequence[object]], report: Report
) -> None:
    """Add the faults of segmentations to the report, each with the rows that have it."""
    for fault, rows in rows_of.items():
        severity, action = FAULTS[fault] if fault in FAULTS else ("note", _USED_AS_THEY_ARE[fault])
        where = describe(np.array(rows))
        report.add(fault, severity=severity, action=action, where=where, leaves_box_only=action == BOX_ONLY)


def _faults(raw: bytes, *, box: np.ndarray, area: float, height: int, width: int) -> list[str]:
    decoded = decode_segmentation(raw, height=height, width=width)
    faults = list(decoded.faults)
    if decoded.segmentation is None:
        return faults
    found = segmentation_box(decoded.segmentation, height=height, width=width)
    if found is None or _iou(found, box) < MIN_BOX_AGREEMENT:
        faults.append(OTHER_BOX)
    if area > 0 and not _agree(area, segmentation_area(decoded.segmentation)):
        faults.append(_OTHER_AREA)
    return faults


def _agree(area: float, other: float) -> bool:
    return min(area, other) >= MIN_AREA_AGREEMENT * max(area, other) - 1.0  # a pixel is rounding


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    x1, y1, x2, y2 = box.tolist()
    left, top, right, bottom = other.tolist()
    overlap = max(min(x2, right) - max(x1, left), 0.0) * max(min(y2, bottom) - max(y1, top), 0.0)
    total = (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - overlap
    return overlap / max(total, 1e-9)
