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
    Id,
    Segmentations,
)
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.files import found_elsewhere, leads_out, missing_files
from mrcnn_data.images.reading import load_image
from mrcnn_data.masks.segmentation import rle_size
from mrcnn_data.report import STOPS_TRAINING, Report

PathLike = str | os.PathLike[str]

BESIDE_IMAGES = "_annotations.coco.json"  # name of the annotation file in the image folder, of Roboflow
# COCO 2014 has two splits that share the images of a third.
_IMAGE_FOLDERS = {"minival2014": "val2014", "valminusminival2014": "val2014"}
# What on_error="skip" does with an image whose file cannot be used.
SKIPPED = "skipped: another takes its place in training, and evaluation finds nothing in it"
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
    """Find annotation file and image folder of a split.

    ROOT/annotations/instances_SPLIT.json with ROOT/SPLIT/, as COCO has it, or ROOT/SPLIT/_annotations.coco.json beside
    the images, as Roboflow exports it.

    Raises:
        DatasetError: the root or the split does not exist, or it has both files.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: the data root does not exist")
    annotation_path = folder / "annotations" / f"instances_{split}.json"
    beside_images = folder / split / BESIDE_IMAGES
    if annotation_path.is_file() and beside_images.is_file():
        raise DatasetError(
            f"split {split!r} has two annotation files, {annotation_path} and {beside_images}: remove one, or name the "
            "file and its image folder"
        )
    if beside_images.is_file():
        return Source(beside_images, beside_images.parent)
    if not annotation_path.is_file():
        splits = _splits_of(folder)
        raise DatasetError(
            f"{annotation_path}: split {split!r} does not exist"
            + (f"; {folder} has {', '.join(splits)}" if splits else f", nor does {beside_images}")
        )
    image_dir = folder / split
    if not image_dir.is_dir() and split in _IMAGE_FOLDERS:
        image_dir = folder / _IMAGE_FOLDERS[split]
    return Source(annotation_path, image_dir)


def _splits_of(root: Path) -> list[str]:
    """Return the names of the splits in a root that exists."""
    named = [path.stem.removeprefix("instances_") for path in root.glob("annotations/instances_*.json")]
    return sorted({*named, *(path.parent.name for path in root.glob(f"*/{BESIDE_IMAGES}"))})


def open_columns(columns: Columns, report: Report, source: Source, *, on_error: str, allow_errors: bool) -> Opened:
    """Check the columns of a file against its images; see `CocoDataset.open`."""
    if not source.image_dir.is_dir():
        raise DatasetError(f"{source.image_dir}: the image folder does not exist (for {source.annotation_path})")
    _report_names_outside(columns, source, report)
    _report_missing_files(columns, source, report, on_error=on_error)
    if not allow_errors:
        report.raise_errors()
    sizes, is_known = _complete_image_sizes(
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
    missing = [
        index
        for index in missing_files(columns.file_names, source.image_dir)
        if not leads_out(columns.file_names[index])  # reported already
    ]
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
        message=f"{path}: the file of image {image_id!r} is missing (listed in {source.annotation_path})"
        + _where_found([columns.file_names[index] for index in missing], source.image_dir),
    )


def _where_found(missing: Sequence[str], image_dir: Path) -> str:
    found = found_elsewhere(missing, image_dir)
    if found is None:
        return ""
    what = f"all {len(found.names)} missing files are" if len(found.names) > 1 else "it is"
    example = f"{missing[0]} as {found.names[missing[0]]}"
    return f"; {what} there {found.how} ({example}): `mrcnn-data check ROOT SPLIT --fix OUT.json` writes their names"


def _report_names_outside(columns: Columns, source: Source, report: Report) -> None:
    outside = [index for index, name in enumerate(columns.file_names) if leads_out(name)]
    if outside:
        name, image_id = columns.file_names[outside[0]], columns.image_ids[outside[0]]
        report.add(
            "file_name that leads out of the image folder",
            severity="error",
            action=STOPS_TRAINING,
            where=[columns.image_ids[index] for index in outside],
            what="image",
            message=f"{source.annotation_path}: the file_name {name!r} of image {image_id!r} leads out of "
            f"{source.image_dir}: write names relative to a folder that has all images, and give that folder"
            + _where_found([columns.file_names[index] for index in outside], source.image_dir),
        )


def _complete_image_sizes(
    columns: Columns, image_dir: Path, report: Report, *, on_error: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read missing sizes from the image files.

    Args:
        on_error: "raise", or "skip": an image without a size whose file cannot be read has no usable objects.
    Returns:
        int64 [I, 2] (h, w), at least 1; bool [I], whether the size is known.
    Raises:
        DatasetError: the file of an image without a size cannot be read.
    """
    if (columns.image_sizes > 0).all():
        return columns.image_sizes, np.ones(len(columns.image_ids), bool)
    sizes = columns.image_sizes.copy()  # [I, 2]
    is_known = np.ones(len(sizes), bool)
    incomplete = np.flatnonzero((sizes <= 0).any(axis=1))
    for index in incomplete:
        try:
            sizes[index] = load_image(image_dir / columns.file_names[index]).shape[:2]
        except DatasetError:
            if on_error == "raise":
                raise
            sizes[index], is_known[index] = 1, False
    read = [columns.image_ids[index] for index in incomplete if is_known[index]]
    unread = [columns.image_ids[index] for index in incomplete if not is_known[index]]
    report.add(
        "image without width or height",
        severity="repaired",
        action="read from the image file",
        where=read,
        what="image",
    )
    report.add(
        "image without width or height, and no file to read them from",
        severity="dropped",
        action="skipped",
        where=unread,
        what="image",
    )
    return sizes, is_known


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
