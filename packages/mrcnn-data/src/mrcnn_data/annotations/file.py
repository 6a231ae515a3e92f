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
import operator
import re
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from mrcnn_data.annotations.columns import Columns, Id, RawSegmentations, compact_ids, ids_of
from mrcnn_data.annotations.report import Report
from mrcnn_data.annotations.text import AnnotationText
from mrcnn_data.errors import DatasetError
from mrcnn_data.masks.segmentation import strict_json

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


class _Fields(NamedTuple):
    """The fields of annotations.

    Decoded in pieces, structs live for a few hundred annotations only, which stay in the processor's cache: train2017
    takes 1.0 GB, where all its structs at once took 1.3 GB.
    """

    ids: np.ndarray | list[Id | None]  # as of `compact_ids`, like the next two
    image_ids: np.ndarray | list[Id | None]
    category_ids: np.ndarray | list[Id | None]
    boxes: np.ndarray
    has_bbox: np.ndarray
    areas: np.ndarray
    has_area: np.ndarray
    is_crowd: np.ndarray
    lacks_is_crowd: np.ndarray
    is_ignored: np.ndarray
    segmentations: list[msgspec.Raw]


def _fields(annotations: list[_Annotation]) -> _Fields:
    boxes, has_bbox = _boxes(_field(annotations, "bbox"))
    areas, has_area = _areas(_field(annotations, "area"))
    is_crowd, lacks_is_crowd = _flags(_field(annotations, "iscrowd"))
    return _Fields(
        ids=compact_ids(_field(annotations, "id")),
        image_ids=compact_ids(_field(annotations, "image_id")),
        category_ids=compact_ids(_field(annotations, "category_id")),
        boxes=boxes,
        has_bbox=has_bbox,
        areas=areas,
        has_area=has_area,
        is_crowd=is_crowd,
        lacks_is_crowd=lacks_is_crowd,
        is_ignored=_flags(_field(annotations, "ignore"))[0],
        segmentations=_field(annotations, "segmentation"),
    )


def _field(annotations: list[_Annotation], name: str) -> list[Any]:
    return list(map(operator.attrgetter(name), annotations))


def _joined(pieces: list[_Fields]) -> _Fields:
    return _Fields(*map(_joined_field, zip(*pieces, strict=True)))


def _joined_field(pieces: tuple[Any, ...]) -> Any:
    if all(isinstance(piece, np.ndarray) for piece in pieces):
        return np.concatenate(pieces)
    return list(
        itertools.chain.from_iterable(piece.tolist() if isinstance(piece, np.ndarray) else piece for piece in pieces)
    )


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


def encode_content(content: Mapping[str, Any]) -> bytes:
    """Encode a COCO dict as JSON, which the reader takes: NumPy values and bytes of run lengths included.

    Raises:
        DatasetError: it holds something that JSON cannot.
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
    """Millions of new objects and none of them garbage: the collector would go through them again and again."""
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()


def _decode(path: Path, data: bytes | AnnotationText, report: Report) -> _Entries:
    if isinstance(data, bytes):
        return _decode_whole(path, data, report)
    try:
        return _decode_in_pieces(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, _NoPiecesError):
        pass  # what is wrong, if anything, shows in the whole
    return _decode_whole(path, data.whole(), report)


def _decode_whole(path: Path, data: bytes | memoryview, report: Report) -> _Entries:
    try:
        try:
            return _decode_entries(path, data, report)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if isinstance(error, msgspec.ValidationError):
                raise
            return _decode_entries(path, strict_json(data), report)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DatasetError(f"{path} is not a COCO instances file: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from None


class _NoPiecesError(Exception):
    """A file that is laid out in another way than COCO's: it is decoded in one go."""


_PIECE = 1 << 19  # bytes; smaller and larger ones took longer
_OPENING = re.compile(rb'"annotations"\s*:\s*(?=\[)')
_NEXT = re.compile(rb"\}\s*(?=,\s*\{)")
_CLOSING = re.compile(rb'\}\s*(?=\]\s*(?:,\s*"(?:images|categories|info|licenses|type)"\s*:|\}\s*\Z))')
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
    pieces: list[_Fields] = []

    def decode_to(stop: int) -> None:
        with text.as_list(start, stop) as piece:
            pieces.append(_fields(decoder.decode(piece)))

    start = opening.end()
    while following := text.search(_NEXT, start + _PIECE):
        try:
            decode_to(following.end())
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:
            # The end of the list is before it (to look for that in each piece takes 0.4 s), or the guess was wrong:
            # what is left of the list becomes one piece.
            break
        start = following.end()
    closing = _CLOSING.search(text.whole(), start)
    if not closing:
        raise _NoPiecesError
    decode_to(closing.end())
    start = closing.end()
    whole = text.whole()
    around = msgspec.json.decode(b"".join((whole[: opening.end()], _PLACE, whole[start + 1 :])), type=_FileAround)
    if bytes(around.annotations) != _PLACE:
        raise _NoPiecesError
    return _Entries(around.images, _joined(pieces), around.categories)


def _decode_entries(path: Path, text: bytes | memoryview, report: Report) -> _Entries:
    try:
        file = msgspec.json.decode(text, type=_File)
        return _Entries(file.images, _fields(file.annotations), file.categories)
    except msgspec.ValidationError:
        lists = msgspec.json.decode(text, type=_RawFile)
    return _Entries(
        _entries(path, "image", lists.images, _Image, _repaired_image, report),
        _fields(_entries(path, "annotation", lists.annotations, _Annotation, _repaired_annotation, report)),
        _entries(path, "category", lists.categories, _Category, _repaired_category, report),
    )


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
    image_index = _places([image.id for image in images], annotations.image_ids)
    known_categories = [category.id for category in categories]
    classes = (_places(known_categories, annotations.category_ids) + 1).astype(np.int32)
    _report_unknown_images(path, annotations, np.flatnonzero(image_index < 0), report)
    _report_unknown_categories(path, annotations, np.flatnonzero(classes == 0), known_categories, report)
    order = np.flatnonzero((image_index >= 0) & (classes > 0))
    order = order[np.argsort(image_index[order], kind="stable")]
    ids = annotations.ids
    by_place = np.sort(order)
    _report_annotation_ids(path, ids[by_place] if isinstance(ids, np.ndarray) else ids_of(ids, by_place), report)
    _report_areas(annotations, report)
    lacking = ids_of(ids, np.flatnonzero(annotations.lacks_is_crowd))
    report.add("iscrowd missing", severity="note", action="read as 0", where=lacking)
    return Columns(
        image_ids=[image.id for image in images],
        file_names=[image.file_name for image in images],
        image_sizes=np.array([[_edge(image.height), _edge(image.width)] for image in images], np.int64).reshape(-1, 2),
        category_ids=tuple(category.id for category in categories),
        class_names=tuple(category.name for category in categories),
        offsets=np.searchsorted(image_index[order], np.arange(len(images) + 1)),
        annotation_ids=ids[order] if isinstance(ids, np.ndarray) else ids_of(ids, order),
        classes=classes[order],
        boxes_xywh=annotations.boxes[order],
        areas=annotations.areas[order],
        has_bbox=annotations.has_bbox[order],
        is_crowd=annotations.is_crowd[order],
        is_ignored=annotations.is_ignored[order],
        segmentations=RawSegmentations(list(map(annotations.segmentations.__getitem__, order.tolist()))),
    )


def _places(known: list[Any], wanted: np.ndarray | list[Id | None]) -> np.ndarray:
    """int64 [A]: where in `known` each of `wanted` is, -1 where it is not."""
    numbers = compact_ids(known)
    if isinstance(numbers, np.ndarray) and isinstance(wanted, np.ndarray):
        order = np.argsort(numbers)
        nearest = np.searchsorted(numbers, wanted, sorter=order)
        places = order[np.minimum(nearest, len(order) - 1)]
        return np.where(numbers[places] == wanted, places, -1)
    place_of = {entry_id: place for place, entry_id in enumerate(known)}
    wanted = ids_of(wanted, np.arange(len(wanted)))
    return np.fromiter(map(place_of.get, wanted, itertools.repeat(-1)), np.int64, len(wanted))


def _report_unknown_images(path: Path, annotations: _Fields, rows: np.ndarray, report: Report) -> None:
    if not len(rows):
        return
    where = ids_of(annotations.ids, rows)
    image_ids = ids_of(annotations.image_ids, rows[:1])
    report.add(
        "annotation of an unknown image",
        severity="error",
        action=STOPS_TRAINING,
        where=where,
        message=f"{path}: annotation {where[0]!r} belongs to image {image_ids[0]!r}, "
        "which is not in the list of images",
    )


def _report_unknown_categories(
    path: Path, annotations: _Fields, rows: np.ndarray, known: list[int], report: Report
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


def _report_areas(annotations: _Fields, report: Report) -> None:
    has_area = annotations.has_area
    report.add(
        "area missing",
        severity="note",
        action="evaluation takes the mask's, or else the box's; training needs none",
        where=ids_of(annotations.ids, np.flatnonzero(~has_area)),
    )
    report.add(
        "area is not a number of at least 0",
        severity="repaired",
        action="used in evaluation only",
        where=ids_of(annotations.ids, np.flatnonzero(has_area & ~(annotations.areas >= 0))),
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


def _areas(areas: list[float | UnsetType | None]) -> tuple[np.ndarray, np.ndarray]:
    """float64 [A], NaN where missing or no number; bool [A], whether there is one."""
    if set(map(type, areas)) <= {float}:
        return np.array(areas, np.float64), np.ones(len(areas), bool)
    is_given = np.array([isinstance(area, float) for area in areas], bool)
    values = np.full(len(areas), np.nan)
    values[is_given] = np.array([area for area in areas if isinstance(area, float)], np.float64)
    return values, is_given


def _flags(values: list[Flag]) -> tuple[np.ndarray, np.ndarray]:
    """bool [A], None and UNSET are False; bool [A], where these are."""
    kinds = set(map(type, values))
    if kinds == {UnsetType}:
        return np.zeros(len(values), bool), np.ones(len(values), bool)
    if kinds <= {int}:
        return np.array(values, np.int64) != 0, np.zeros(len(values), bool)
    is_missing = np.fromiter((value is None or value is UNSET for value in values), bool, len(values))
    return np.fromiter((value is not UNSET and bool(value) for value in values), bool, len(values)), is_missing


def _edge(value: float | None) -> int:
    return int(value) if value is not None and 0 < value < 2**31 else 0


def _shortened(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return f"{shown}, ... {ids[-1]}" if len(ids) > 8 else shown
