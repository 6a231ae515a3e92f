"""What is odd in the segmentations of a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from mrcnn_data.columns import Segmentations
from mrcnn_data.masks import segmentation_box
from mrcnn_data.report import Report
from mrcnn_data.segmentation import FAULTS, decode_segmentation

# A box that says less than half of what its segmentation says was probably not made for it.
MIN_BOX_AGREEMENT = 0.5


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
        is_object: bool [A], boxes: float32 [A, 4] clipped, offsets: int64 [I + 1], image_sizes: int64 [I, 2].
    """
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for index, (height, width) in enumerate(image_sizes.tolist()):
        for row in range(offsets[index], offsets[index + 1]):
            if is_object[row]:
                for fault in _faults(segmentations[row], boxes[row], height=height, width=width):
                    rows_of[fault].append(row)
    for fault, rows in rows_of.items():
        severity, action = FAULTS.get(fault, ("note", "used as they are"))
        report.add(fault, severity=severity, action=action, where=describe(np.array(rows)))


def _faults(raw: bytes, box: np.ndarray, *, height: int, width: int) -> tuple[str, ...]:
    decoded = decode_segmentation(raw, height=height, width=width)
    if decoded.segmentation is None:
        return decoded.faults
    found = segmentation_box(decoded.segmentation, height=height, width=width)
    if found is None or _iou(found, box) < MIN_BOX_AGREEMENT:
        return (*decoded.faults, "box and segmentation overlap by less than half")
    return decoded.faults


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    size = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    overlap = float(np.prod(np.maximum(size, 0)))
    total = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])) - overlap
    return overlap / max(total, 1e-9)
