"""A COCO instances file as columns. Segmentations stay undecoded JSON until an image is used.

Legend: I images, A annotations.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mrcnn_data.annotations.categories import report_repeated, usable_categories
from mrcnn_data.annotations.columns import Columns, Id, RawSegmentations, ids_of
from mrcnn_data.annotations.decoding import Entries, decode
from mrcnn_data.annotations.entries import CategoryEntry, Fields, ImageEntry
from mrcnn_data.annotations.ids import as_numbers, places_of, repeated
from mrcnn_data.annotations.text import AnnotationText
from mrcnn_data.errors import DatasetError
from mrcnn_data.report import STOPS_TRAINING, Report

NO_FILE_NAME = "image without a file_name"
REPEATED_ANNOTATION_ID = "annotation id that occurs twice"


class Places(NamedTuple):
    """Positions of the columns' images, categories and annotations (int64 [A]) in the lists of the file."""

    images: Sequence[int]
    categories: Sequence[int]
    annotations: np.ndarray


class FileContent(NamedTuple):
    """The content of a file: columns, what is odd in it, and positions in the file (None if read from the cache)."""

    columns: Columns
    report: Report
    places: Places | None = None


def read_annotations(
    path: Path, *, data: bytes | AnnotationText | None = None, for_training: bool = True
) -> FileContent:
    """Read a COCO instances file.

    Entries that cannot be used (with unknown or repeated ids) are left out and reported as errors.

    Args:
        data: the content of the file, if it has been read already or is being read.
        for_training: False for scoring, which needs neither images, nor file names, nor unique annotation ids.
    Raises:
        DatasetError: the file is missing, not JSON or not COCO, or (for training) has no usable image or category.
    """
    data = AnnotationText(path) if data is None else data
    report = Report()
    with no_collections():
        entries = decode(path, data, report)
        categories = usable_categories(path, entries.categories, report, may_be_empty=not for_training)
        images = _usable_images(path, entries.images, report, for_training=for_training)
        columns, order = _columns(
            path, list(images.values()), list(categories.values()), entries.annotations, report, unique=for_training
        )
        return FileContent(columns, report, _places(entries, images, categories, order))


def encode_content(content: Mapping[str, Any]) -> bytes:
    """Encode a COCO dict as JSON for the reader. It may contain NumPy values, and run lengths as bytes.

    Raises:
        DatasetError: it contains a value that JSON cannot express.
    """
    annotations = content.get("annotations")
    if isinstance(annotations, list):
        content = {**content, "annotations": [_with_text_counts(entry) for entry in annotations]}
    try:
        return msgspec.json.encode(content, enc_hook=_from_numpy)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DatasetError(f"annotations in memory cannot be read: {error}") from None


def _with_text_counts(entry: Any) -> Any:
    """Return an annotation with the counts of its RLE as text: pycocotools gives bytes."""
    segmentation = entry.get("segmentation") if isinstance(entry, Mapping) else None
    if not isinstance(segmentation, Mapping) or not isinstance(segmentation.get("counts"), bytes):
        return entry
    return {**entry, "segmentation": {**segmentation, "counts": segmentation["counts"].decode("ascii", "replace")}}


def _from_numpy(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not a JSON type")


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Switch off the garbage collector, which would search millions of new objects again and again."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def _usable_images(
    path: Path, images: list[ImageEntry], report: Report, *, for_training: bool
) -> dict[int, ImageEntry]:
    """Return the usable images by their positions in `images`, with ids of one type and slashes in file names."""
    if not images and for_training:
        report.raise_first_error()
        raise DatasetError(f"{path}: the list of images is empty")
    ids, changed = as_numbers([image.id for image in images])
    for number in changed:
        images[number].id = ids[number]
    report.add(
        "number written as text",
        severity="repaired",
        action="read as the number",
        where=[ids[number] for number in changed],
        what="image",
    )
    _report_two_types(path, ids, report)
    _mend_backslashes(images, report)
    nameless = {number for number, image in enumerate(images) if not image.file_name} if for_training else set()
    if nameless:
        where = [ids[number] for number in sorted(nameless)]
        message = f"{path}: image {where[0]!r} has no file_name"
        report.add(NO_FILE_NAME, severity="error", action=STOPS_TRAINING, where=where, what="image", message=message)
    named = [number for number in range(len(images)) if number not in nameless]
    again = report_repeated(path, "image", [ids[number] for number in named], report)
    usable = {number: images[number] for place, number in enumerate(named) if place not in again}
    if not usable and for_training:
        report.raise_first_error()
    return usable


def _report_two_types(path: Path, ids: Sequence[Id], report: Report) -> None:
    texts = [item for item in ids if isinstance(item, str)]
    if 0 < len(texts) < len(ids):
        number = next(item for item in ids if not isinstance(item, str))
        report.add(
            "image id of another type than the others",
            severity="error",
            action=STOPS_TRAINING,
            where=texts,
            what="image",
            message=f"{path}: some image ids are text ({texts[0]!r}) and some are numbers ({number}): use one type, "
            "also in the image_id of the annotations",
        )


def _mend_backslashes(images: list[ImageEntry], report: Report) -> None:
    with_backslash = [image for image in images if image.file_name and "\\" in image.file_name]
    for image in with_backslash:
        assert image.file_name is not None
        image.file_name = image.file_name.replace("\\", "/")
    report.add(
        "file_name with backslashes",
        severity="repaired",
        action="read as slashes",
        where=[image.id for image in with_backslash],
        what="image",
    )


def _columns(
    path: Path,
    images: list[ImageEntry],
    categories: list[CategoryEntry],
    annotations: Fields,
    report: Report,
    *,
    unique: bool,
) -> tuple[Columns, np.ndarray]:
    """Return the columns, and each row's position in `annotations`; `unique`: repeated annotation ids are errors."""
    image_ids = [image.id for image in images]
    image_index, mended = places_of(image_ids, annotations.image_ids)
    category_ids = [category.id for category in categories]
    classes = (places_of(category_ids, annotations.category_ids)[0] + 1).astype(np.int32)
    ids = annotations.ids
    _report_image_ids(path, annotations, np.flatnonzero(image_index < 0), mended, report)
    _report_unknown_categories(path, annotations, np.flatnonzero(classes == 0), category_ids, report)
    order = np.flatnonzero((image_index >= 0) & (classes > 0))
    order = order[np.argsort(image_index[order], kind="stable")]
    if unique:
        _report_annotation_ids(path, _selected(ids, np.sort(order)), report)
    _report_fields(annotations, report)
    columns = Columns(
        image_ids=image_ids,
        file_names=[image.file_name or "" for image in images],
        image_sizes=np.array([[_edge(image.height), _edge(image.width)] for image in images], np.int64).reshape(-1, 2),
        category_ids=tuple(category_ids),
        class_names=tuple(category.name for category in categories),
        offsets=np.searchsorted(image_index[order], np.arange(len(images) + 1)),
        annotation_ids=_selected(ids, order),
        classes=classes[order],
        boxes_xywh=annotations.boxes[order],
        areas=annotations.areas[order],
        has_bbox=annotations.has_bbox[order],
        is_crowd=annotations.is_crowd[order],
        is_ignored=annotations.is_ignored[order],
        segmentations=RawSegmentations(list(map(annotations.segmentations.__getitem__, order.tolist()))),
    )
    return columns, order


def _selected(ids: np.ndarray | list[Id | None], rows: np.ndarray) -> np.ndarray | list[Id | None]:
    return ids[rows] if isinstance(ids, np.ndarray) else ids_of(ids, rows)


def _places(entries: Entries, images: dict[int, Any], categories: dict[int, Any], order: np.ndarray) -> Places:
    annotations = entries.annotation_places
    return Places(
        images=[entries.image_places[number] for number in images],
        categories=[entries.category_places[number] for number in categories],
        annotations=order if isinstance(annotations, range) else np.asarray(annotations, np.int64)[order],
    )


def _report_image_ids(path: Path, annotations: Fields, unknown: np.ndarray, mended: np.ndarray, report: Report) -> None:
    report.add(
        "image_id of another type than the image's id",
        severity="repaired",
        action="read as the same number",
        where=ids_of(annotations.ids, mended),
    )
    if not len(unknown):
        return
    where = ids_of(annotations.ids, unknown)
    image_ids = ids_of(annotations.image_ids, unknown[:1])
    report.add(
        "annotation of an unknown image",
        severity="error",
        action=STOPS_TRAINING,
        where=where,
        message=f"{path}: annotation {where[0]!r} belongs to image {image_ids[0]!r}, "
        "which is not in the list of images",
    )


def _report_unknown_categories(
    path: Path, annotations: Fields, rows: np.ndarray, known: list[int], report: Report
) -> None:
    if not len(rows):
        return
    where = ids_of(annotations.ids, rows)
    category_ids = ids_of(annotations.category_ids, rows[:1])
    report.add(
        "annotation of an unknown category",
        severity="error",
        action=STOPS_TRAINING,
        where=where,
        message=f"{path}: annotation {where[0]!r} has category {category_ids[0]}, "
        f"which is not in the list of categories ({_shortened(known)})",
    )


def _report_fields(annotations: Fields, report: Report) -> None:
    for kind, severity, action, which in (
        ("area missing", "note", "scored with the mask's area, or else the box's", ~annotations.has_area),
        (
            "area is not a positive number",
            "repaired",
            "scored with the mask's area, or else the box's",
            annotations.has_area & ~is_area(annotations.areas),
        ),
        ("iscrowd missing", "note", "read as 0", annotations.lacks_is_crowd),
    ):
        report.add(kind, severity=severity, action=action, where=ids_of(annotations.ids, np.flatnonzero(which)))


def is_area(areas: np.ndarray | float) -> np.ndarray:
    """Return which areas can be used: those that are positive and finite, bool."""
    return np.asarray((areas > 0) & (areas < np.inf))


def _report_annotation_ids(path: Path, ids: np.ndarray | list[Id | None], report: Report) -> None:
    if isinstance(ids, np.ndarray) and not (np.diff(np.sort(ids)) == 0).any():
        return
    ids = ids_of(ids, np.arange(len(ids)))
    missing = [number for number, annotation_id in enumerate(ids) if annotation_id is None]
    report.add(
        "annotation without an id", severity="note", action="used: the id is only a label", where=missing, what="number"
    )
    places = repeated(ids)
    report.add(
        REPEATED_ANNOTATION_ID,
        severity="error",
        action=f"{STOPS_TRAINING}: scorers match objects by id",
        where=[ids[place] for place in places],
        message=f"{path}: annotation id {ids[places[0]]!r} occurs twice" if places else "",
    )


def _edge(value: float | None) -> int:
    return int(value) if value is not None and 0 < value < 2**31 else 0


def _shortened(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return f"{shown}, ... {ids[-1]}" if len(ids) > 8 else shown
