"""A COCO instances file as columns. Segmentations stay undecoded JSON until an image is used.

A file whose entries have the types that COCO gives them is decoded into typed structs, some hundred annotations at a
time while the rest of the file is still being read. One odd entry sends its whole list through a slower reader that
takes entries one by one, repairs what it can and reports what it cannot.
Legend: I images, A annotations.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import operator
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from mrcnn_data.annotation_text import AnnotationText
from mrcnn_data.columns import Columns, Id, RawSegmentations, compact_ids, ids_of
from mrcnn_data.errors import DatasetError
from mrcnn_data.report import Report
from mrcnn_data.segmentation import strict_json

STOPS_TRAINING = "nothing trains before it is mended"

Flag = int | bool | float | None | UnsetType


# A tuple takes 170 bytes where a list takes 210; what has not four values is a case for the slower reader.
_Box = tuple[float | None, float | None, float | None, float | None]


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str
    height: float | None = None
    width: float | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: Id
    category_id: int
    id: Id | None = None
    bbox: _Box | None = None
    segmentation: msgspec.Raw = msgspec.Raw()
    area: float | UnsetType | None = UNSET
    iscrowd: Flag = UNSET
    ignore: Flag = UNSET


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _FileAround(msgspec.Struct):
    """What stands around the annotations."""

    images: list[_Image]
    annotations: msgspec.Raw
    categories: list[_Category]


class _RawFile(msgspec.Struct):
    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


class _RawSegmentation(msgspec.Struct):
    segmentation: msgspec.Raw = msgspec.Raw()


_Entry = TypeVar("_Entry", _Image, _Annotation, _Category)


class FileContent(NamedTuple):
    """What a file holds: its columns, and what is odd in it."""

    columns: Columns
    report: Report


class _Fields:
    """The fields of all annotations, a list each.

    Structs live for a few hundred annotations only, which stay in the processor's cache: 1.5 s and 400 MB less for
    train2017 than all structs at once.
    """

    def __init__(self) -> None:
        self.ids: list[Id | None] = []
        self.image_ids: list[Id] = []
        self.category_ids: list[int] = []
        self.areas: list[float | UnsetType | None] = []
        self.is_crowd: list[Flag] = []
        self.is_ignored: list[Flag] = []
        self.segmentations: list[msgspec.Raw] = []
        self._boxes: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, annotations: list[_Annotation]) -> None:
        """`map` goes through them many times faster than a loop."""
        self.ids += map(operator.attrgetter("id"), annotations)
        self.image_ids += map(operator.attrgetter("image_id"), annotations)
        self.category_ids += map(operator.attrgetter("category_id"), annotations)
        self.areas += map(operator.attrgetter("area"), annotations)
        self.is_crowd += map(operator.attrgetter("iscrowd"), annotations)
        self.is_ignored += map(operator.attrgetter("ignore"), annotations)
        self.segmentations += map(operator.attrgetter("segmentation"), annotations)
        self._boxes.append(_boxes(list(map(operator.attrgetter("bbox"), annotations))))

    def boxes(self) -> tuple[np.ndarray, np.ndarray]:
        """As of `_boxes`."""
        boxes, has_bbox = zip(*self._boxes, strict=True)
        return np.concatenate(boxes), np.concatenate(has_bbox)


class _Entries(NamedTuple):
    images: list[_Image]
    annotations: _Fields
    categories: list[_Category]


def read_annotations(path: Path, *, data: bytes | AnnotationText | None = None) -> FileContent:
    """Read a COCO instances file.

    Entries that cannot be used (of unknown or repeated ids) are left out, and stand in the report as errors.

    Args:
        data: the content of the file, where it has been read already, or is being read.
    Raises:
        DatasetError: the file is missing, not JSON or not COCO, or has no usable image or category.
    """
    data = AnnotationText(path) if data is None else data
    report = Report()
    with no_collections():
        file = _decode(path, data, report)
        categories = _usable_categories(path, file.categories, report)
        images = _usable_images(path, file.images, report)
        return FileContent(_columns(path, images, categories, file.annotations, report), report)


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Millions of new objects and none of them garbage: the collector would go through them again and again."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def read_file(path: Path) -> bytes:
    """Read an annotation file.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the annotation file: {error.strerror}") from None


def _decode(path: Path, data: bytes | AnnotationText, report: Report) -> _Entries:
    if isinstance(data, AnnotationText):
        try:
            return _decode_in_pieces(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _NoPiecesError):
            data = data.whole()  # type: ignore[assignment]
    try:
        try:
            return _decode_entries(path, data, report)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, msgspec.ValidationError):
                raise
            # What Python's json module reads and msgspec does not: NaN, Infinity, a byte order mark, UTF-16.
            data = bytes(data)
            text = strict_json(data.decode(json.detect_encoding(data)).encode())
            return _decode_entries(path, text, report)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DatasetError(f"{path} is not a COCO instances file: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from None


class _NoPiecesError(Exception):
    """A file that is laid out in another way than COCO's: it is decoded in one go."""


_PIECE = 1 << 19  # bytes; smaller and larger ones took longer
_OPENING = re.compile(rb'"annotations"\s*:\s*(?=\[)')
_NEXT = re.compile(rb"\}\s*(?=,\s*\{)")
_CLOSING = re.compile(rb'\}\s*(?=\]\s*(?:,\s*"(?:images|categories|info|licenses)"|\}\s*\Z))')
_PLACE = b'["decoded in pieces"]'


def _decode_in_pieces(text: AnnotationText) -> _Entries:
    """Decode annotations from comma to comma.

    Where to cut is only guessed, but no wrong guess passes: of JSON `[A, B]` is a list where `[A]` and `[B]` are, and
    the file holds that list as its annotations where, with `_PLACE` instead of it, it holds `_PLACE`.

    Raises:
        _NoPiecesError, or msgspec's errors: the file is another one, or a guess was wrong.
    """
    opening = text.search(_OPENING, 0)
    if not opening:
        raise _NoPiecesError
    decoder = msgspec.json.Decoder(list[_Annotation])
    fields = _Fields()
    start = opening.end()
    closing = None
    while not closing:
        following = text.search(_NEXT, start + _PIECE)
        closing = _CLOSING.search(text.view, start, following.end() if following else len(text.view))
        last = closing or following
        if not last:
            raise _NoPiecesError
        with text.as_list(start, last.end()) as piece:
            fields.add(decoder.decode(piece))
        start = last.end()
    whole = text.whole()
    around = msgspec.json.decode(b"".join((whole[: opening.end()], _PLACE, whole[start + 1 :])), type=_FileAround)
    if bytes(around.annotations) != _PLACE:
        raise _NoPiecesError
    return _Entries(around.images, fields, around.categories)


def _decode_entries(path: Path, text: bytes, report: Report) -> _Entries:
    fields = _Fields()
    try:
        file = msgspec.json.decode(text, type=_File)
    except msgspec.ValidationError:
        lists = msgspec.json.decode(text, type=_RawFile)
    else:
        fields.add(file.annotations)
        return _Entries(file.images, fields, file.categories)
    images = _entries(path, "image", lists.images, _Image, _repaired_image, report)
    fields.add(_entries(path, "annotation", lists.annotations, _Annotation, _repaired_annotation, report))
    categories = _entries(path, "category", lists.categories, _Category, _repaired_category, report)
    return _Entries(images, fields, categories)


def _entries(
    path: Path, what: str, raws: list[msgspec.Raw], kind: type[_Entry], repair: Any, report: Report
) -> list[_Entry]:
    decoder = msgspec.json.Decoder(kind)
    entries = []
    for position, raw in enumerate(raws):
        try:
            entries.append(decoder.decode(raw))
        except msgspec.ValidationError as error:
            entry = repair(raw, report, position)
            if entry is None:
                _report_unreadable(path, what, position, error, report)
            else:
                entries.append(entry)
    return entries


def _report_unreadable(path: Path, what: str, position: int, error: Exception, report: Report) -> None:
    where = f"{_PLURALS[what]}[{position}]"
    reason = str(error).replace("`$.", "`").replace(" - at `$`", "")
    report.add(
        f"{what} entry that cannot be read",
        severity="error",
        action=STOPS_TRAINING,
        where=[position],
        what=f"{what} number",
        message=f"{path} is not a COCO instances file: {reason} in {where}",
    )


_PLURALS = {"image": "images", "annotation": "annotations", "category": "categories"}


def _repaired_image(raw: msgspec.Raw, report: Report, position: int) -> _Image | None:
    fields = msgspec.json.decode(raw)
    image_id = _as_id(fields.get("id")) if isinstance(fields, dict) else None
    if image_id is None or not isinstance(fields.get("file_name"), str):
        return None
    edges = [_as_number(fields.get(edge)) for edge in ("height", "width")]
    return _Image(id=image_id, file_name=fields["file_name"], height=edges[0], width=edges[1])


def _repaired_category(raw: msgspec.Raw, report: Report, position: int) -> _Category | None:
    fields = msgspec.json.decode(raw)
    category_id = _as_id(fields.get("id")) if isinstance(fields, dict) else None
    if not isinstance(category_id, int):
        return None
    name = fields.get("name")
    if not isinstance(name, (str, int, float)):
        report.add(
            "category without a name",
            severity="repaired",
            action="its id is its name",
            where=[category_id],
            what="category",
        )
        name = category_id
    return _Category(id=category_id, name=str(name))


def _repaired_annotation(raw: msgspec.Raw, report: Report, position: int) -> _Annotation | None:
    fields = msgspec.json.decode(raw)
    if not isinstance(fields, dict):
        return None
    image_id, category_id = _as_id(fields.get("image_id")), _as_id(fields.get("category_id"))
    if image_id is None or not isinstance(category_id, int):
        return None
    annotation_id = _as_id(fields.get("id"))
    where = [f"number {position}" if annotation_id is None else annotation_id]
    flags = {}
    for name in ("iscrowd", "ignore"):
        value = fields.get(name, UNSET)
        flags[name] = _as_flag(value)
        if not isinstance(value, (int, float, type(None), UnsetType)):
            report.add(
                f"{name} is not 0 or 1", severity="repaired", action=f"read as {int(bool(flags[name]))}", where=where
            )
    area = fields.get("area", UNSET)
    return _Annotation(
        image_id=image_id,
        category_id=category_id,
        id=annotation_id,
        bbox=_as_box(fields.get("bbox")),
        segmentation=msgspec.json.decode(raw, type=_RawSegmentation).segmentation,
        area=area if area is None or area is UNSET else _as_number(area, otherwise=-1.0),
        iscrowd=flags["iscrowd"],
        ignore=flags["ignore"],
    )


def _as_id(value: Any) -> Id | None:
    """1.0 is 1; anything but whole numbers and text is no id."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, (int, str)) else None


def _as_number(value: Any, *, otherwise: float | None = None) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else otherwise


def _as_box(value: Any) -> _Box | None:
    """A list of another length is no box at all; what is no list, or no number in it, is None."""
    if value is None or (isinstance(value, list) and len(value) != 4):
        return None
    numbers = [_as_number(number) for number in value] if isinstance(value, list) else [None] * 4
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _as_flag(value: Any) -> Flag:
    if isinstance(value, str):
        return value.strip().lower() in ("1", "true", "yes")
    return value if isinstance(value, (int, float, type(None), UnsetType)) else 0


def _usable_categories(path: Path, categories: list[_Category], report: Report) -> list[_Category]:
    if not categories:
        _raise_first_error(report)
        raise DatasetError(f"{path}: the list of categories is empty")
    unique = _without_repeated_ids(path, "category", categories, report)
    return sorted(unique, key=lambda category: category.id)


def _usable_images(path: Path, images: list[_Image], report: Report) -> list[_Image]:
    if not images:
        _raise_first_error(report)
        raise DatasetError(f"{path}: the list of images is empty")
    nameless = [image.id for image in images if not image.file_name]
    report.add(
        "image with an empty file_name",
        severity="error",
        action=STOPS_TRAINING,
        where=nameless,
        what="image",
        message=f"{path}: image {nameless[0]!r} has an empty file_name" if nameless else "",
    )
    with_backslash = [image for image in images if "\\" in image.file_name]
    for image in with_backslash:
        image.file_name = image.file_name.replace("\\", "/")
    report.add(
        "file_name with backslashes",
        severity="repaired",
        action="read as slashes",
        where=[image.id for image in with_backslash],
        what="image",
    )
    usable = _without_repeated_ids(path, "image", [image for image in images if image.file_name], report)
    if not usable:
        _raise_first_error(report)
    return usable


def _raise_first_error(report: Report) -> None:
    errors = report.by_severity("error")
    if errors:
        raise DatasetError(errors[0].message)


def _without_repeated_ids(path: Path, what: str, entries: list[Any], report: Report) -> list[Any]:
    seen: set[Hashable] = set()
    kept, repeated = [], []
    for entry in entries:
        if entry.id in seen:
            repeated.append(entry.id)
        else:
            seen.add(entry.id)
            kept.append(entry)
    report.add(
        f"{what} id that occurs twice",
        severity="error",
        action=STOPS_TRAINING,
        where=repeated,
        what=what,
        message=f"{path}: {what} id {repeated[0]!r} occurs twice" if repeated else "",
    )
    return kept


def _columns(
    path: Path,
    images: list[_Image],
    categories: list[_Category],
    annotations: _Fields,
    report: Report,
) -> Columns:
    """Make columns of the fields: `map` and `fromiter` go through 860 k annotations in a tenth of a second."""
    boxes, has_bbox = annotations.boxes()
    index_of_image = {image.id: index for index, image in enumerate(images)}
    class_of = {category.id: index for index, category in enumerate(categories, start=1)}
    ids, image_ids, category_ids = annotations.ids, annotations.image_ids, annotations.category_ids
    image_index = np.fromiter(map(index_of_image.get, image_ids, itertools.repeat(-1)), np.int64, len(ids))
    classes = np.fromiter(map(class_of.get, category_ids, itertools.repeat(0)), np.int32, len(ids))
    _report_unknown_images(path, ids, image_ids, np.flatnonzero(image_index < 0), report)
    _report_unknown_categories(path, ids, category_ids, np.flatnonzero(classes == 0), list(class_of), report)
    order = np.flatnonzero((image_index >= 0) & (classes > 0))
    order = order[np.argsort(image_index[order], kind="stable")]
    compact = compact_ids(ids)
    by_place = np.sort(order)
    usable_ids = compact[by_place] if isinstance(compact, np.ndarray) else ids_of(compact, by_place)
    _report_annotation_ids(path, usable_ids, report)
    return Columns(
        image_ids=[image.id for image in images],
        file_names=[image.file_name for image in images],
        image_sizes=np.array([[_edge(image.height), _edge(image.width)] for image in images], np.int64).reshape(-1, 2),
        category_ids=tuple(category.id for category in categories),
        class_names=tuple(category.name for category in categories),
        offsets=np.searchsorted(image_index[order], np.arange(len(images) + 1)),
        annotation_ids=compact[order] if isinstance(compact, np.ndarray) else ids_of(compact, order),
        classes=classes[order],
        boxes_xywh=boxes[order],
        areas=_areas(annotations.areas, ids, report)[order],
        has_bbox=has_bbox[order],
        is_crowd=_flags(annotations.is_crowd, ids, report)[order],
        is_ignored=_flags(annotations.is_ignored, ids, None)[order],
        segmentations=RawSegmentations(list(map(annotations.segmentations.__getitem__, order.tolist()))),
    )


def _report_unknown_images(
    path: Path, ids: list[Id | None], image_ids: list[Id], rows: np.ndarray, report: Report
) -> None:
    if not len(rows):
        return
    report.add(
        "annotation of an unknown image",
        severity="error",
        action=STOPS_TRAINING,
        where=[ids[row] for row in rows],
        message=f"{path}: annotation {ids[rows[0]]!r} belongs to image {image_ids[rows[0]]!r}, "
        "which is not in the list of images",
    )


def _report_unknown_categories(
    path: Path, ids: list[Id | None], category_ids: list[int], rows: np.ndarray, known: list[int], report: Report
) -> None:
    if not len(rows):
        return
    report.add(
        "annotation of an unknown category",
        severity="error",
        action=STOPS_TRAINING,
        where=[ids[row] for row in rows],
        message=f"{path}: annotation {ids[rows[0]]!r} has category {category_ids[rows[0]]}, "
        f"which is not in the list of categories ({_shortened(known)})",
    )


def _report_annotation_ids(path: Path, ids: np.ndarray | list[Id | None], report: Report) -> None:
    if isinstance(ids, np.ndarray):
        if not (np.diff(np.sort(ids)) == 0).any():
            return
        ids = ids.tolist()
    missing = [number for number, annotation_id in enumerate(ids) if annotation_id is None]
    report.add("annotation without an id", severity="note", action="it is only a label", where=missing, what="number")
    seen: set[Id] = set()
    repeated = []
    for annotation_id in ids:
        if annotation_id is None:
            continue
        if annotation_id in seen:
            repeated.append(annotation_id)
        seen.add(annotation_id)
    report.add(
        "annotation id that occurs twice",
        severity="error",
        action=f"{STOPS_TRAINING}: scorers match objects by id",
        where=repeated,
        message=f"{path}: annotation id {repeated[0]!r} occurs twice" if repeated else "",
    )


def _boxes(boxes: list[_Box | None]) -> tuple[np.ndarray, np.ndarray]:
    """float64 [A, 4], NaN where there is no number; bool [A], whether there is a box."""
    has_bbox = np.ones(len(boxes), bool)
    given: list[Any] = boxes
    if None in boxes:
        has_bbox = np.fromiter((box is not None for box in boxes), bool, len(boxes))
        given = [box for box in boxes if box is not None]
    numbers: Any = itertools.chain.from_iterable(given)
    values = np.full((len(boxes), 4), np.nan)
    try:
        values[has_bbox] = np.fromiter(numbers, np.float64, 4 * len(given)).reshape(-1, 4)
    except TypeError:  # None somewhere: NumPy makes NaN of it, but by way of objects
        values[has_bbox] = np.array(given, np.float64).reshape(-1, 4)
    return values, has_bbox


def _areas(areas: list[float | UnsetType | None], ids: list[Id | None], report: Report) -> np.ndarray:
    """float64 [A], NaN where missing or no number."""
    if set(map(type, areas)) <= {float}:
        is_given = np.ones(len(areas), bool)
        values = np.fromiter(areas, np.float64, len(areas))  # type: ignore[arg-type]
    else:
        is_given = np.array([isinstance(area, float) for area in areas], bool)
        values = np.full(len(areas), np.nan)
        values[is_given] = np.array([area for area in areas if isinstance(area, float)], np.float64)
    report.add(
        "area missing",
        severity="note",
        action="evaluation takes the mask's, or else the box's; training needs none",
        where=[ids[row] for row in np.flatnonzero(~is_given)],
    )
    report.add(
        "area is not a number of at least 0",
        severity="repaired",
        action="used in evaluation only",
        where=[ids[row] for row in np.flatnonzero(is_given & ~(values >= 0))],
    )
    return values


def _flags(values: list[Flag], ids: list[Id | None], report: Report | None) -> np.ndarray:
    """bool [A]; None and UNSET are False, and reported where `report` is given."""
    kinds = set(map(type, values))
    if kinds == {UnsetType} and report is None:
        return np.zeros(len(values), bool)
    if kinds <= {int}:
        return np.fromiter(values, np.int64, len(values)) != 0
    if report is not None:
        missing = [ids[row] for row, value in enumerate(values) if value is None or value is UNSET]
        report.add("iscrowd missing", severity="note", action="read as 0", where=missing)
    return np.fromiter((value is not UNSET and bool(value) for value in values), bool, len(values))


def _edge(value: float | None) -> int:
    return int(value) if value is not None and 0 < value < 2**31 else 0


def _shortened(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return f"{shown}, ... {ids[-1]}" if len(ids) > 8 else shown
