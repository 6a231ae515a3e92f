"""What to know before trusting the numbers of an evaluation, one line each.

Legend: G annotations, D detections.
"""

from __future__ import annotations

import numpy as np

from mrcnn_data.checks import are_corners
from mrcnn_eval.scoring.ground_truth import GroundTruth
from mrcnn_eval.scoring.image_results import ImageResults, count_empty_masks
from mrcnn_eval.scoring.tasks import with_box, with_mask

TOO_LARGE = 1.5  # times the area of its box: an area that no mask has


def doubts_about_results(
    columns: ImageResults, sizes: np.ndarray, *, has_truth: bool, iou_types: tuple[str, ...]
) -> tuple[str, ...]:
    """Return what is odd about D detections.

    Args:
        sizes: int64 [D, 2], (h, w) of the image of each, (0, 0) where unknown.
        has_truth: whether there is an object on the images scored.
        iou_types: what is scored.
    """
    lines = []
    if not has_truth:
        lines.append("no ground-truth object on the images scored: AP is undefined (-1)")
    num_detections = len(columns.scores)
    if num_detections == 0:
        lines.append("nothing was detected: AP is 0")
        return tuple(lines)
    for iou_type, kept, what in (("bbox", with_box(columns), "box"), ("segm", with_mask(columns), "mask")):
        if iou_type in iou_types and not kept.all():
            missing = num_detections - int(kept.sum())
            lines.append(f"{missing} of {num_detections} detections have no {what} and do not count for {iou_type}")
    num_empty = count_empty_masks(columns.rles) if "segm" in iou_types else 0
    if num_empty and num_empty == sum(rle is not None for rle in columns.rles):
        lines.append(f"EVERY mask is empty ({num_empty} of them): mask AP is 0; is the file what was meant?")
    elif num_empty:
        lines.append(f"{num_empty} of {num_detections} detections have a mask without a pixel: they match no object")
    if "bbox" in iou_types and are_corners(columns.boxes, sizes):
        lines.append(
            "most boxes stick out of their images, but would fit in as corners (x1, y1, x2, y2): results hold "
            "(x, y, width, height), so the boxes are probably wrong"
        )
    return tuple(lines)


def doubt_about_areas(truth: GroundTruth) -> str | None:
    """Return a line about areas in the annotation file that are much larger than their boxes; None if there are none.

    An example are exporters that write the area of the whole image.
    """
    with np.errstate(over="ignore"):
        of_boxes = (truth.boxes[:, 2:] + 1).prod(axis=1)  # [G]
    is_wrong = (truth.areas > TOO_LARGE * of_boxes) & ~truth.crowd
    if not is_wrong.any():
        return None
    of_images = truth.image_sizes[truth.image_indices].prod(axis=1)
    num_whole = int((is_wrong & np.isclose(truth.areas, of_images)).sum())
    whole = f", {num_whole} of them the area of the whole image" if num_whole else ""
    return (
        f"{int(is_wrong.sum())} of {len(is_wrong)} objects have an `area` that is larger than their box{whole}: the "
        "numbers by size (APs, APm, APl, ARs, ARm, ARl) are wrong. --mask-areas counts the pixels of the masks instead."
    )
