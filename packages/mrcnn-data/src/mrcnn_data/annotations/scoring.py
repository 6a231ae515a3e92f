"""What an evaluation requires of a dataset: the same objects, crowds and masks that training uses.

Legend: A annotations, G of them scored.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_data.annotations.file import is_area
from mrcnn_data.masks.checks import report_faults
from mrcnn_data.masks.rasterising import compressed_rle
from mrcnn_data.masks.segmentation import decode_segmentation
from mrcnn_data.report import Report

if TYPE_CHECKING:
    from mrcnn_data.annotations.dataset import CocoDataset


class ScoredAnnotations(NamedTuple):
    """The objects that train, and the regions (crowds and what is ignored), by image, in the order of the file.

    Attributes:
        rows: int64 [G], rows in `CocoDataset.annotations`.
        image_indices: int64 [G], number of the image in the dataset.
        classes: int32 [G], contiguous from 1.
        boxes: float64 [G, 4] (x, y, w, h), pixels of the image, as in the file, not clipped.
        areas: float64 [G], as in the file; where that is not positive, the mask's pixels, or else the box's area.
        is_crowd, is_ignored: bool [G], the flags of the file.
        rles: G masks {"size": [h, w], "counts": compressed str}, None where there is a box only. They take less than
            half the memory of polygons, and half the time in each scoring.
        report: what was odd in their segmentations.
    """

    rows: np.ndarray
    image_indices: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    rles: list[dict[str, Any] | None]
    report: Report


def scored_annotations(dataset: CocoDataset) -> ScoredAnnotations:
    """Decode and rasterise every segmentation that an evaluation needs, once."""
    table = dataset.annotations
    rows = np.flatnonzero(table.is_object | table.is_region)
    image_indices = np.searchsorted(table.offsets, rows, side="right") - 1
    boxes, areas = table.boxes_xywh[rows], table.areas[rows]
    lacks_area = ~is_area(areas)
    areas[lacks_area] = boxes[lacks_area, 2:].prod(axis=1)
    rles: list[dict[str, Any] | None] = []
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    sizes = dataset.image_sizes[image_indices].tolist()
    for number, (row, (height, width), lacks) in enumerate(zip(rows.tolist(), sizes, lacks_area.tolist(), strict=True)):
        segmentation, faults = decode_segmentation(table.segmentations[row], height=height, width=width)
        for fault in faults:
            rows_of[fault].append(row)
        rle = None if segmentation is None else compressed_rle(segmentation, height=height, width=width)
        rles.append(rle)
        if lacks and rle is not None:
            areas[number] = coco_mask.area(rle)
    report = Report()
    report_faults(rows_of, describe=dataset.describe_annotations, report=report)
    return ScoredAnnotations(
        rows=rows,
        image_indices=image_indices,
        classes=table.classes[rows],
        boxes=boxes,
        areas=areas,
        is_crowd=table.is_crowd[rows],
        is_ignored=table.is_ignored[rows],
        rles=rles,
        report=report,
    )


class ScoringSummary(NamedTuple):
    """How many annotations train, and how many are scored.

    Attributes:
        objects: train and are scored.
        box_only: of these, without a usable mask: for masks, their boxes are regions to ignore.
        crowds: neither train nor are required; detections on them are not counted.
        ignored: likewise, with `honor_ignore`; without it they are scored, and still do not train.
        unused: neither train nor are scored.
    """

    objects: int
    box_only: int
    crowds: int
    ignored: int
    unused: int

    def __str__(self) -> str:
        parts = [f"{self.objects} objects train and are scored"]
        if self.box_only:
            parts.append(f"{self.box_only} of them by box only (no usable mask: a region to ignore for mask AP)")
        if self.crowds:
            parts.append(f"{self.crowds} crowds neither train nor have to be found")
        if self.ignored:
            parts.append(f"{self.ignored} with ignore do not train, and have to be found only without honor_ignore")
        if self.unused:
            parts.append(f"{self.unused} annotations without a usable box neither train nor are scored")
        return "; ".join(parts)


def scoring_summary(dataset: CocoDataset) -> ScoringSummary:
    """Count what trains and what is scored; decodes every segmentation once, as `dataset.report` does."""
    table = dataset.annotations
    return ScoringSummary(
        objects=int(table.is_object.sum()),
        box_only=sum(finding.count for finding in dataset.report.findings if finding.leaves_box_only),
        crowds=int((table.is_region & table.is_crowd).sum()),
        ignored=int((table.is_region & ~table.is_crowd).sum()),
        unused=int((~table.is_object & ~table.is_region).sum()),
    )
