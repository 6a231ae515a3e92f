"""A COCO instances file and its image folder: checked columns, segmentations decoded when an image is used.

Legend: I images, A usable annotations, n annotations of one image, k crowds of one image.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrcnn_data.annotations import Columns, Id, RawSegmentations, read_annotations
from mrcnn_data.errors import DatasetError
from mrcnn_data.images import load_image
from mrcnn_data.masks import full_mask, segmentation_box
from mrcnn_data.report import Report
from mrcnn_data.segmentation import FAULT_ACTIONS, Segmentation, decode_segmentation

# A box that says less than half of what its segmentation says was probably not made for it.
MIN_BOX_AGREEMENT = 0.5


class Instances(NamedTuple):
    """The objects of one image, source pixels.

    `boxes` float32 [n, 4], clipped to the image; `classes` int32 [n]; `segmentations` n, None = box only;
    `annotation_ids` n, as in the file; `crowd_boxes` float32 [k, 4]: regions (`iscrowd` or `ignore`), never
    objects; background too, unless the trainer leaves them out (`model.crowd_overlap_threshold` below 1).
    """

    boxes: np.ndarray
    classes: np.ndarray
    segmentations: list[Segmentation | None]
    annotation_ids: list[Id | None]
    crowd_boxes: np.ndarray


class CocoDataset:
    """Images with their usable annotations.

    Attributes:
        annotation_path, image_dir: where they lie.
        image_ids: as in the file, in its order.
        file_names: relative to `image_dir`.
        image_sizes: int64 [I, 2] (h, w), pixels as stored.
        category_ids: sorted; contiguous class c is `category_ids[c - 1]`.
        class_names: likewise, `class_names[c - 1]`.
        opening_report: the part of `report` that is known from opening, without decoding segmentations.
    """

    def __init__(
        self, columns: Columns, *, annotation_path: Path, image_dir: Path, missing_files: Sequence[Id] = ()
    ) -> None:
        self.annotation_path = annotation_path
        self.image_dir = image_dir
        self.image_ids = columns.image_ids
        self.file_names = columns.file_names
        self.category_ids = columns.category_ids
        self.class_names = columns.class_names
        self.opening_report = Report()
        self.opening_report.add(
            "image file missing",
            severity="dropped",
            action="skipped: another takes its place in training, and evaluation finds nothing in it",
            where=missing_files,
            what="image",
        )
        self.image_sizes = _complete_image_sizes(columns, image_dir, self.opening_report)

        boxes, usable = _check_boxes(columns, self.image_sizes, self.opening_report)
        kept = np.flatnonzero(usable)
        kept = kept[np.argsort(columns.image_index[kept], kind="stable")]  # [A], by image
        self._boxes = boxes[kept].astype(np.float32)
        self._classes = columns.classes[kept]
        self._is_region = (columns.is_crowd | columns.is_ignored)[kept]
        self._annotation_ids = [columns.annotation_ids[index] for index in kept]
        self._segmentations = RawSegmentations([columns.segmentations[index] for index in kept])
        self._offsets = np.searchsorted(columns.image_index[kept], np.arange(len(self.image_ids) + 1))  # [I+1]
        _note_oddities(columns, self._offsets, self.opening_report)

    @classmethod
    def open(
        cls, annotations: str | os.PathLike[str], images: str | os.PathLike[str], *, on_error: str = "raise"
    ) -> CocoDataset:
        """Read an instances file and check that every image file is there.

        Args:
            on_error: "raise", or "skip": missing image files are reported and left to the loader's `on_error`.
        Raises:
            DatasetError: anything that makes the data unusable, in one line.
        """
        annotation_path, image_dir = Path(annotations), Path(images)
        columns = read_annotations(annotation_path)
        if not image_dir.is_dir():
            raise DatasetError(f"{image_dir}: the image folder does not exist (for {annotation_path})")
        missing = _missing_files(columns, image_dir)
        if missing and on_error == "raise":
            index = missing[0]
            raise DatasetError(
                f"{image_dir / columns.file_names[index]}: the file of image {columns.image_ids[index]!r} is missing"
                + (f", and {len(missing) - 1} more" if len(missing) > 1 else "")
                + f" (listed in {annotation_path})"
            )
        return cls(
            columns,
            annotation_path=annotation_path,
            image_dir=image_dir,
            missing_files=[columns.image_ids[index] for index in missing],
        )

    @classmethod
    def from_root(cls, root: str | os.PathLike[str], split: str, *, on_error: str = "raise") -> CocoDataset:
        """Open ROOT/annotations/instances_SPLIT.json with the images of ROOT/SPLIT/."""
        folder = Path(root)
        if not folder.is_dir():
            raise DatasetError(f"{folder}: the data root does not exist")
        annotation_path = folder / "annotations" / f"instances_{split}.json"
        if not annotation_path.is_file():
            splits = sorted(
                path.stem.removeprefix("instances_") for path in folder.glob("annotations/instances_*.json")
            )
            raise DatasetError(
                f"{annotation_path}: split {split!r} does not exist"
                + (f"; {folder} has {', '.join(splits)}" if splits else "")
            )
        return cls.open(annotation_path, folder / split, on_error=on_error)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """With background."""
        return len(self.category_ids) + 1

    def image_path(self, index: int) -> Path:
        return self.image_dir / self.file_names[index]

    def read_image(self, index: int) -> np.ndarray:
        """Read image number `index`, checked against the annotated size: uint8 [h, w, 3] RGB."""
        height, width = self.image_sizes[index]
        return load_image(self.image_path(index), expected_size=(int(height), int(width)))

    def instances(self, index: int) -> Instances:
        """Decode the objects of image number `index`."""
        height, width = map(int, self.image_sizes[index])
        rows = np.arange(self._offsets[index], self._offsets[index + 1])
        objects = rows[~self._is_region[rows]]
        return Instances(
            boxes=self._boxes[objects],
            classes=self._classes[objects],
            segmentations=[
                decode_segmentation(self._segmentations[row], height=height, width=width).segmentation
                for row in objects
            ],
            annotation_ids=[self._annotation_ids[row] for row in objects],
            crowd_boxes=self._boxes[rows[self._is_region[rows]]],
        )

    def num_objects(self) -> np.ndarray:
        """Count the objects (not crowds) of every image: int64 [I]."""
        totals = np.concatenate([[0], np.cumsum(~self._is_region)])
        return np.asarray(totals[self._offsets[1:]] - totals[self._offsets[:-1]])

    def classes_of_objects(self) -> tuple[np.ndarray, np.ndarray]:
        """List the objects (not crowds): int64 [A] number of the image, int32 [A] class."""
        images = np.repeat(np.arange(len(self)), np.diff(self._offsets))  # of all annotations
        return images[~self._is_region], self._classes[~self._is_region]

    @functools.cached_property
    def report(self) -> Report:
        """What was dropped, repaired or looks odd. The first access decodes every segmentation once."""
        report = copy.deepcopy(self.opening_report)
        for index in range(len(self)):
            height, width = map(int, self.image_sizes[index])
            for row in range(self._offsets[index], self._offsets[index + 1]):
                if not self._is_region[row]:
                    self._report_segmentation(row, height=height, width=width, report=report)
        return report

    def _report_segmentation(self, row: int, *, height: int, width: int, report: Report) -> None:
        decoded = decode_segmentation(self._segmentations[row], height=height, width=width)
        where = [self._annotation_ids[row]]
        for fault in decoded.faults:
            action = FAULT_ACTIONS[fault]
            severity = "dropped" if action == "part dropped" else "repaired"
            report.add(fault, severity=severity, action=action, where=where)
        if decoded.segmentation is None:
            return
        box = segmentation_box(decoded.segmentation, height=height, width=width)
        if box is None or _iou(box, self._boxes[row]) < MIN_BOX_AGREEMENT:
            report.add(
                "box and segmentation overlap by less than half",
                severity="note",
                action="used as they are",
                where=where,
            )


def instance_masks(dataset: CocoDataset, image_index: int) -> np.ndarray:
    """Rasterise the objects of an image over the whole image, for pictures.

    Returns:
        uint8 [n, h, w] of 0 and 1, in the order of `dataset.instances(image_index)`; all 0 for a box-only object.
    """
    height, width = map(int, dataset.image_sizes[image_index])
    segmentations = dataset.instances(image_index).segmentations
    masks = np.zeros((len(segmentations), height, width), np.uint8)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if segmentation is not None:
            mask[...] = full_mask(segmentation, height=height, width=width)
    return masks


def _missing_files(columns: Columns, image_dir: Path) -> list[int]:
    """Indices of images without a file, from one listing per folder: 118 k stats take seconds on a network disk."""
    names_in: dict[Path, set[str]] = {}
    missing = []
    for index, file_name in enumerate(columns.file_names):
        path = image_dir / file_name
        if path.parent not in names_in:
            names_in[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in names_in[path.parent]:
            missing.append(index)
    return missing


def _complete_image_sizes(columns: Columns, image_dir: Path, report: Report) -> np.ndarray:
    sizes = columns.image_sizes.copy()  # [I, 2]
    for index in np.flatnonzero((sizes <= 0).any(axis=1)):
        sizes[index] = load_image(image_dir / columns.file_names[index]).shape[:2]
        report.add(
            "image without width or height",
            severity="repaired",
            action="read from the image file",
            where=[columns.image_ids[index]],
            what="image",
        )
    return sizes


def _check_boxes(columns: Columns, image_sizes: np.ndarray, report: Report) -> tuple[np.ndarray, np.ndarray]:
    """Clip, derive or refuse every box.

    Returns:
        boxes: float64 [annotations, 4] (x1, y1, x2, y2), source pixels.
        usable: bool [annotations].
    """
    ids = columns.annotation_ids
    sizes = image_sizes[columns.image_index]  # [annotations, 2]
    origin, extent = columns.boxes_xywh[:, :2], columns.boxes_xywh[:, 2:]
    with np.errstate(over="ignore"):  # becomes infinite, which is refused below
        boxes = np.concatenate([origin, origin + extent], axis=1)
    is_given = columns.has_bbox & np.isfinite(boxes).all(axis=1)
    for index in np.flatnonzero(~is_given):
        box = _box_of_segmentation(columns.segmentations[index], sizes[index])
        if box is not None:
            boxes[index] = box
        kind = "bbox is not four finite numbers" if columns.has_bbox[index] else "bbox missing"
        report.add(
            kind,
            severity="repaired" if box is not None else "dropped",
            action="taken from the segmentation, or dropped without one",
            where=[ids[index]],
        )
    is_known = np.isfinite(boxes).all(axis=1)
    boxes[~is_known] = 0
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    limits = sizes[:, [1, 0, 1, 0]].astype(np.float64)
    clipped = np.clip(boxes, 0, limits)
    is_inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    sticks_out = (np.abs(clipped - boxes) > 1.0).any(axis=1)  # up to a pixel is rounding: COCO's own boxes do it
    for kind, severity, action, which in (
        ("box of zero or negative size", "dropped", "object dropped", is_known & ~has_area),
        ("box outside the image", "dropped", "object dropped", has_area & ~is_inside),
        ("box sticks out of the image", "repaired", "clipped to the image", is_inside & sticks_out & has_area),
    ):
        report.add(kind, severity=severity, action=action, where=[ids[index] for index in np.flatnonzero(which)])
    return clipped, is_known & has_area & is_inside


def _box_of_segmentation(raw: bytes, size: np.ndarray) -> np.ndarray | None:
    height, width = map(int, size)
    segmentation = decode_segmentation(raw, height=height, width=width).segmentation
    return None if segmentation is None else segmentation_box(segmentation, height=height, width=width)


def _note_oddities(columns: Columns, offsets: np.ndarray, report: Report) -> None:
    ids = columns.annotation_ids
    seen: set[Id | None] = set()
    repeated = []
    for annotation_id in ids:
        if annotation_id is not None and annotation_id in seen:
            repeated.append(annotation_id)
        seen.add(annotation_id)
    as_region = "never an object; background unless model.crowd_overlap_threshold is below 1"
    crowds = [ids[index] for index in np.flatnonzero(columns.is_crowd)]
    ignored = [ids[index] for index in np.flatnonzero(columns.is_ignored & ~columns.is_crowd)]
    report.add("iscrowd", severity="note", action=as_region, where=crowds)
    report.add("ignore", severity="note", action=as_region, where=ignored)
    report.add("annotation id occurs again", severity="note", action="kept; the id is only a label", where=repeated)
    empty = [columns.image_ids[index] for index in np.flatnonzero(np.diff(offsets) == 0)]
    report.add("image without annotations", severity="note", action="trains as background", where=empty, what="image")


def _iou(box: np.ndarray, other: np.ndarray) -> float:
    size = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    overlap = float(np.prod(np.maximum(size, 0)))
    total = float(np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2])) - overlap
    return overlap / max(total, 1e-9)
