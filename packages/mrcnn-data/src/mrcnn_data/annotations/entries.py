"""Entries of a COCO file as typed structs, and the fields of its annotations as columns. Legend: A annotations."""

from __future__ import annotations

import itertools
import operator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from mrcnn_data.annotations.columns import Id, compact_ids

Flag = int | bool | float | None | UnsetType

# A tuple takes 170 bytes, a list 210. A box of another length is left to the slower reader.
Box = tuple[float | None, float | None, float | None, float | None]


class ImageEntry(msgspec.Struct, gc=False):
    id: Id
    file_name: str | None = None
    height: float | None = None
    width: float | None = None


class CategoryEntry(msgspec.Struct, gc=False):
    id: int
    name: str


class AnnotationEntry(msgspec.Struct, gc=False):
    image_id: Id
    category_id: int
    id: Id | None = None
    bbox: Box | None = None
    segmentation: msgspec.Raw = msgspec.Raw()
    area: float | UnsetType | None = UNSET
    iscrowd: Flag = UNSET
    ignore: Flag = UNSET


class Fields(NamedTuple):
    """The fields of annotations.

    Attributes:
        ids, image_ids, category_ids: A, from `compact_ids`.
        boxes: float64 [A, 4] as in the file, NaN where there is no number.
        areas: float64 [A], likewise.
        has_bbox, has_area: bool [A], whether the file has the field.
        is_crowd, lacks_is_crowd, is_ignored: bool [A].
        segmentations: A, undecoded.
    """

    ids: np.ndarray | list[Id | None]
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


def fields_of(annotations: list[AnnotationEntry]) -> Fields:
    """Turn structs into columns."""
    boxes, has_bbox = _boxes(_field(annotations, "bbox"))
    areas, has_area = _areas(_field(annotations, "area"))
    is_crowd, lacks_is_crowd = _flags(_field(annotations, "iscrowd"))
    return Fields(
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


def joined_fields(pieces: list[Fields]) -> Fields:
    """Join the columns of consecutive parts of the list of annotations."""
    return Fields(*map(_joined_field, zip(*pieces, strict=True)))


def _joined_field(pieces: tuple[Any, ...]) -> Any:
    if all(isinstance(piece, np.ndarray) for piece in pieces):
        return np.concatenate(pieces)
    return list(
        itertools.chain.from_iterable(piece.tolist() if isinstance(piece, np.ndarray) else piece for piece in pieces)
    )


def _field(annotations: list[AnnotationEntry], name: str) -> list[Any]:
    return list(map(operator.attrgetter(name), annotations))


def _boxes(boxes: list[Box | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes, float64 [A, 4], NaN where there is no number; and which annotations have a box, bool [A]."""
    has_bbox = np.ones(len(boxes), bool)
    given: list[Any] = boxes
    if None in boxes:
        has_bbox = np.fromiter((box is not None for box in boxes), bool, len(boxes))
        given = [box for box in boxes if box is not None]
    numbers: Any = itertools.chain.from_iterable(given)
    values = np.full((len(boxes), 4), np.nan)
    try:
        values[has_bbox] = np.fromiter(numbers, np.float64, 4 * len(given)).reshape(-1, 4)
    except TypeError:  # a None: NumPy converts it to NaN, but slowly
        values[has_bbox] = np.array(given, np.float64).reshape(-1, 4)
    return values, has_bbox


def _areas(areas: list[float | UnsetType | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return areas, float64 [A], NaN where there is no number; and which annotations have one, bool [A]."""
    if set(map(type, areas)) <= {float}:
        return np.array(areas, np.float64), np.ones(len(areas), bool)
    is_given = np.array([isinstance(area, float) for area in areas], bool)
    values = np.full(len(areas), np.nan)
    values[is_given] = np.array([area for area in areas if isinstance(area, float)], np.float64)
    return values, is_given


def _flags(values: list[Flag]) -> tuple[np.ndarray, np.ndarray]:
    """Return flags, bool [A], False for None and UNSET; and which are None or UNSET, bool [A]."""
    kinds = set(map(type, values))
    if kinds == {UnsetType}:
        return np.zeros(len(values), bool), np.ones(len(values), bool)
    if kinds <= {int}:
        return np.array(values, bool), np.zeros(len(values), bool)
    is_missing = np.fromiter((value is None or value is UNSET for value in values), bool, len(values))
    return np.fromiter((value is not UNSET and bool(value) for value in values), bool, len(values)), is_missing
