"""Check the columns of a file against its images, to make a `CocoDataset`. Legend: I images, A annotations."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrcnn_data.annotations.boxes import check_boxes
from mrcnn_data.annotations.columns import (
    Columns,
    ConcatenatedSegmentations,
    Id,
    Segmentations,
    compact_ids,
    ids_of,
)
from mrcnn_data.annotations.image_files import SKIPPED, complete_image_sizes, missing_files
from mrcnn_data.annotations.report import Report
from mrcnn_data.errors import DatasetError
from mrcnn_data.masks.segmentation import rle_size

PathLike = str | os.PathLike[str]

# COCO 2014 has two splits that share the images of a third.
_IMAGE_FOLDERS = {"minival2014": "val2014", "valminusminival2014": "val2014"}
_AS_REGION = "background unless model.crowd_overlap_threshold is below 1"


class Source(NamedTuple):
    """An annotation file, and the folder that its file names are relative to."""

    annotation_path: Path
    image_dir: Path


class Annotations(NamedTuple):
    """Checked annotations of all images, sorted by image.

    Attributes:
        offsets: int64 [I + 1]: the rows of image i are offsets[i] to offsets[i + 1].
        ids: A, as in the file.
        boxes: float32 [A, 4] (x1, y1, x2, y2), clipped to the image.
        boxes_xywh: float64 [A, 4] (x, y, w, h), as in the file or derived, not clipped.
        areas: float64 [A], as in the file, NaN where missing.
        classes: int32 [A].
        is_object, is_region: bool [A]; an annotation that is neither is not used.
        is_crowd, is_ignored: bool [A]: the flags of the file.
        segmentations: A.
    """

    offsets: np.ndarray
    ids: np.ndarray | list[Id | None]
    boxes: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    is_object: np.ndarray
    is_region: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    segmentations: Segmentations


class Opened(NamedTuple):
    """One annotation file, or several as one; attributes as in `CocoDataset`.

    `source_offsets` has the number of the first image of each source.
    """

    sources: tuple[Source, ...]
    source_offsets: np.ndarray
    image_ids: list[Id]
    file_names: list[str]
    image_sizes: np.ndarray
    categories: dict[int, str]
    annotations: Annotations
    report: Report


def find_split(root: PathLike, split: str) -> Source:
    """Find annotation file and image folder of ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/.

    Raises:
        DatasetError: the root or the split does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: the data root does not exist")
    annotation_path = folder / "annotations" / f"instances_{split}.json"
    if not annotation_path.is_file():
        splits = sorted(path.stem.removeprefix("instances_") for path in folder.glob("annotations/instances_*.json"))
        raise DatasetError(
            f"{annotation_path}: split {split!r} does not exist"
            + (f"; {folder} has {', '.join(splits)}" if splits else "")
        )
    image_dir = folder / split
    if not image_dir.is_dir() and split in _IMAGE_FOLDERS:
        image_dir = folder / _IMAGE_FOLDERS[split]
    return Source(annotation_path, image_dir)


def open_columns(columns: Columns, report: Report, source: Source, *, on_error: str, allow_errors: bool) -> Opened:
    """Check the columns of a file against its images; see `CocoDataset.open`."""
    if not source.image_dir.is_dir():
        raise DatasetError(f"{source.image_dir}: the image folder does not exist (for {source.annotation_path})")
    _report_missing_files(columns, source, report, on_error=on_error)
    if not allow_errors:
        report.raise_errors()
    sizes, is_known = complete_image_sizes(
        columns, source.image_dir, report, on_error="skip" if allow_errors else on_error
    )
    return _opened(columns, report, source, sizes, is_known)


def open_without_images(
    columns: Columns, report: Report, path: Path, image_sizes: Mapping[Any, tuple[int, int]]
) -> Opened:
    """Check the columns of a file alone; see `CocoDataset.without_images`."""
    report.raise_errors()
    sizes = columns.image_sizes.copy()
    for index, image_id in enumerate(columns.image_ids):
        # The reader may have turned an id that is text into a number.
        sizes[index] = image_sizes.get(image_id, image_sizes.get(str(image_id), sizes[index]))
    sizes[(sizes <= 0).any(axis=1)] = 0
    for index in np.flatnonzero((sizes == 0).any(axis=1)).tolist():
        sizes[index] = _size_by_masks(columns, index, path)
    return _opened(columns, report, Source(path, Path()), sizes, np.ones(len(sizes), bool))


def _size_by_masks(columns: Columns, index: int, path: Path) -> tuple[int, int]:
    """Return the (h, w) of an image from its first RLE; (0, 0) if no annotation has a mask.

    Raises:
        DatasetError: the image has only polygons, which do not contain its size.
    """
    raws = [columns.segmentations[row] for row in range(columns.offsets[index], columns.offsets[index + 1])]
    for raw in raws:
        size = rle_size(raw)
        if size is not None:
            return size
    if any(raw[:1] == b"[" and raw.strip(b"[] \n\t\r") for raw in raws):
        raise DatasetError(f"{path}: image {columns.image_ids[index]!r} has no width and height, which polygons need")
    return 0, 0


def _opened(columns: Columns, report: Report, source: Source, image_sizes: np.ndarray, is_known: np.ndarray) -> Opened:
    boxes = check_boxes(columns, image_sizes, report)
    usable = boxes.usable if is_known.all() else boxes.usable & is_known[columns.image_index]
    is_region = columns.is_crowd | columns.is_ignored
    _note_oddities(columns, usable, report)
    return Opened(
        sources=(source,),
        source_offsets=np.zeros(1, np.int64),
        image_ids=columns.image_ids,
        file_names=columns.file_names,
        image_sizes=image_sizes,
        categories=dict(zip(columns.category_ids, columns.class_names, strict=True)),
        annotations=Annotations(
            offsets=columns.offsets,
            ids=columns.annotation_ids,
            boxes=boxes.clipped,
            boxes_xywh=boxes.xywh,
            areas=columns.areas,
            classes=columns.classes,
            is_object=usable & ~is_region,
            is_region=usable & is_region,
            is_crowd=columns.is_crowd,
            is_ignored=columns.is_ignored,
            segmentations=columns.segmentations,
        ),
        report=report,
    )


def _report_missing_files(columns: Columns, source: Source, report: Report, *, on_error: str) -> None:
    missing = missing_files(columns.file_names, source.image_dir)
    if not missing:
        return
    path, image_id = source.image_dir / columns.file_names[missing[0]], columns.image_ids[missing[0]]
    is_error = on_error == "raise"
    report.add(
        "image file missing",
        severity="error" if is_error else "dropped",
        action="training refuses the dataset, unless data.on_error=skip" if is_error else SKIPPED,
        where=[columns.image_ids[index] for index in missing],
        what="image",
        message=f"{path}: the file of image {image_id!r} is missing (listed in {source.annotation_path})",
    )


def _note_oddities(columns: Columns, usable: np.ndarray, report: Report) -> None:
    crowds = columns.ids_where(columns.is_crowd)
    ignored = columns.ids_where(columns.is_ignored & ~columns.is_crowd)
    action = f"never trained as an object ({_AS_REGION}); detections on it are not counted"
    report.add("iscrowd", severity="note", action=action, where=crowds)
    action = f"never trained as an object ({_AS_REGION}); scored as an object only without honor_ignore"
    report.add("ignore", severity="note", action=action, where=ignored)
    totals = np.concatenate([[0], np.cumsum(usable)])
    empty = np.flatnonzero(np.diff(totals[columns.offsets]) == 0)
    report.add(
        "image without annotations",
        severity="note",
        action="trained on as background",
        where=[columns.image_ids[index] for index in empty],
        what="image",
    )
    if len(set(columns.file_names)) < len(columns.file_names):
        seen: set[str] = set()
        again = [name for name in columns.file_names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        report.add("image file listed twice", severity="note", action="trained on twice", where=again, what="file")


def concatenated(parts: Sequence[Opened]) -> Opened:
    """Put several files one after the other, with the classes of all of them.

    Raises:
        DatasetError: a category id or a name means different classes in two of them.
    """
    if len(parts) == 1:
        return parts[0]
    categories: dict[int, str] = {}
    report = Report()
    for part in parts:
        _add_categories(categories, part)
        report.merge(part.report, source=part.sources[0].annotation_path.name)
    return Opened(
        sources=tuple(source for part in parts for source in part.sources),
        source_offsets=np.cumsum([0, *(len(part.image_ids) for part in parts[:-1])]),
        image_ids=[image_id for part in parts for image_id in part.image_ids],
        file_names=[name for part in parts for name in part.file_names],
        image_sizes=np.concatenate([part.image_sizes for part in parts]),
        categories=categories,
        annotations=_concatenated_tables(parts, categories),
        report=report,
    )


def _concatenated_tables(parts: Sequence[Opened], categories: dict[int, str]) -> Annotations:
    tables = [part.annotations for part in parts]
    class_of = {category_id: number for number, category_id in enumerate(sorted(categories), start=1)}
    firsts = np.cumsum([0, *(len(table.classes) for table in tables)])
    names = ("boxes", "boxes_xywh", "areas", "is_object", "is_region", "is_crowd", "is_ignored")
    return Annotations(
        offsets=np.concatenate([[0], *(t.offsets[1:] + first for t, first in zip(tables, firsts, strict=False))]),
        ids=compact_ids([item for table in tables for item in ids_of(table.ids, np.arange(len(table.classes)))]),
        classes=np.concatenate([_renumbered(part, class_of) for part in parts]),
        segmentations=ConcatenatedSegmentations([table.segmentations for table in tables]),
        **{name: np.concatenate([getattr(table, name) for table in tables]) for name in names},
    )


def _add_categories(categories: dict[int, str], part: Opened) -> None:
    ids = {name: category_id for category_id, name in categories.items()}
    path = part.sources[0].annotation_path
    for category_id, name in part.categories.items():
        if categories.get(category_id, name) != name:
            raise DatasetError(
                f"{path}: category {category_id} is {name!r} here, but {categories[category_id]!r} in the files before"
            )
        if ids.get(name, category_id) != category_id:
            raise DatasetError(
                f"{path}: category {name!r} has the id {category_id} here, but {ids[name]} in the files before"
            )
        categories[category_id] = name


def _renumbered(part: Opened, class_of: dict[int, int]) -> np.ndarray:
    """Return the classes of a part in the numbering of the whole: int32 [A of the part]."""
    table = np.array([0, *(class_of[category_id] for category_id in sorted(part.categories))], np.int32)
    return np.asarray(table[part.annotations.classes])
