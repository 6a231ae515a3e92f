"""Signs that the boxes of a dataset are not what COCO files hold. Legend: A annotations."""

from __future__ import annotations

import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.masks.checks import OTHER_BOX
from mrcnn_data.report import STOPS_TRAINING, Report

MOST = 0.5  # part of the boxes
MANY = 0.1  # part of the objects whose box and mask disagree, above which the boxes are in doubt
MANY_CROWDS = 0.2  # part of the annotations; 1 % in COCO
FEWEST = 5  # boxes: what holds for fewer may be chance
FEWEST_PERCENTAGES = 20  # fewer small objects may all lie in a corner
_FIX = "`mrcnn-data check ROOT SPLIT --fix OUT.json --boxes {}` rewrites them"


def report_doubts(dataset: CocoDataset, report: Report) -> None:
    """Add findings about a dataset as a whole; `report` already has those of single annotations."""
    _report_no_objects(dataset, report)
    _report_units(dataset, report)
    _report_crowds(dataset, report)
    num_differing = report.count(OTHER_BOX)
    num_objects = int(dataset.annotations.is_object.sum())
    if num_objects >= FEWEST and num_differing > MANY * num_objects:
        report.add(
            "data set whose boxes and masks disagree",
            severity="warning",
            action=f"boxes are trained and scored as they are; if the masks are right, {_FIX.format('masks')}",
            where=[f"{dataset.name} ({num_differing} of {num_objects} objects)"],
            what="in",
        )


def _report_no_objects(dataset: CocoDataset, report: Report) -> None:
    table = dataset.annotations
    if table.is_object.any():
        return
    num_regions = int(table.is_region.sum())
    reason = f"{len(table.classes)} annotations, {num_regions} of them crowds or ignore regions"
    report.add(
        "data set without an object",
        severity="warning",
        action="there is nothing to learn, and AP is undefined",
        where=[f"{dataset.name} ({reason})"],
        what="in",
    )


def _report_crowds(dataset: CocoDataset, report: Report) -> None:
    table = dataset.annotations
    num_crowds = int(table.is_crowd.sum())
    if num_crowds <= MANY_CROWDS * len(table.classes):
        return
    report.add(
        "data set with many crowds",
        severity="warning",
        action="they are not trained; if they are objects, as in files of tools that write iscrowd: 1 for every mask "
        "(CVAT, V7), `mrcnn-data check ROOT SPLIT --fix OUT.json --crowds-are-objects` makes them objects",
        where=[f"{dataset.name} ({num_crowds} of {len(table.classes)} annotations)"],
        what="in",
    )


def _report_units(dataset: CocoDataset, report: Report) -> None:
    """Look for fractions, percentages and corners where pixels, and width and height, are meant."""
    table = dataset.annotations
    boxes = table.boxes_xywh  # [A, 4]
    is_known = np.isfinite(boxes).all(axis=1)
    boxes = boxes[is_known]
    if len(boxes) < FEWEST:
        return
    sizes = np.repeat(dataset.image_sizes, np.diff(table.offsets), axis=0)[is_known][:, ::-1]  # [A, 2] (w, h)
    far = boxes[:, :2] + boxes[:, 2:]
    where = [f"{dataset.name} ({len(boxes)} boxes)"]
    if far.max() <= 1.0 and (boxes % 1.0).any():
        report.add(
            "data set whose coordinates are all between 0 and 1",
            severity="error",
            action=STOPS_TRAINING,
            where=where,
            what="in",
            message=f"{dataset.name}: all boxes lie between 0 and 1, so they seem to be fractions of the image, not "
            f"pixels: {_FIX.format('fractions')}",
        )
    elif _are_percentages(far, sizes):
        report.add(
            "data set whose coordinates are all between 0 and 100, in larger images",
            severity="warning",
            action=f"read as pixels; if they are percentages, {_FIX.format('percentages')}",
            where=where,
            what="in",
        )
    elif are_corners(boxes, sizes[:, ::-1], least_fitting=0.95):
        report.add(
            "data set whose boxes stick out of most images",
            severity="warning",
            action=f"read as (x, y, width, height); if they are corners (x1, y1, x2, y2), {_FIX.format('corners')}",
            where=where,
            what="in",
        )


def _are_percentages(far: np.ndarray, sizes: np.ndarray) -> bool:
    return bool(
        len(far) >= FEWEST_PERCENTAGES and far.max() <= 100 and (far.max(axis=0) > 80).all() and sizes.min() >= 200
    )


def are_corners(boxes: np.ndarray, sizes: np.ndarray, *, least_fitting: float = MOST) -> bool:
    """Return whether boxes that should be (x, y, w, h) look like (x1, y1, x2, y2): most stick out, and would fit in so.

    Args:
        boxes: float64 [A, 4], pixels; NaN where there is none.
        sizes: int64 [A, 2], (h, w) of their images, (0, 0) where unknown.
        least_fitting: part of the boxes that have to fit in as corners.
    """
    is_known = np.isfinite(boxes).all(axis=1) & (sizes > 0).all(axis=1)
    boxes, limits = boxes[is_known], sizes[is_known][:, ::-1] + 1  # (w, h), and a pixel for rounding
    if len(boxes) < FEWEST:
        return False
    with np.errstate(over="ignore"):
        sticks_out = (boxes[:, :2] + boxes[:, 2:] > limits).any(axis=1)
    fits = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes[:, 2:] <= limits).all(axis=1)
    return bool((sticks_out & fits).mean() > MOST and fits.mean() > least_fitting)
