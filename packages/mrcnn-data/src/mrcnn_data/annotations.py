"""A COCO instances file as columns. Segmentations stay undecoded JSON until an image is used.

Typed reading with `segmentation` as raw bytes takes 3.5 s and 1.0 GB for train2017 (600 MB), where pycocotools takes
26 s and 3.7 GB (BUILD-FACTS.md). Legend: I images, A annotations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from mrcnn_data.errors import DatasetError
from mrcnn_data.segmentation import strict_json

Id = int | str


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
    bbox: list[float | None] | None = None
    segmentation: msgspec.Raw = msgspec.Raw()
    iscrowd: int | bool | float | None = 0
    ignore: int | bool | float | None = 0


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class RawSegmentations:
    """Undecoded segmentations of all annotations in one buffer, shared read-only by all threads."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._text = b"".join(pieces)
        self._offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)])  # [A+1]

    def __getitem__(self, index: int) -> bytes:
        return self._text[self._offsets[index] : self._offsets[index + 1]]


class Columns(NamedTuple):
    """The file as it is, checked for shape only; annotations in file order.

    `image_sizes` int64 [I, 2] (h, w), 0 where missing or not positive; `image_index` int64 [A]; `classes` int32 [A]
    contiguous from 1; `boxes_xywh` float64 [A, 4], NaN where missing; `has_bbox`, `is_crowd`, `is_ignored` bool [A].
    """

    image_ids: list[Id]
    file_names: list[str]
    image_sizes: np.ndarray
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    annotation_ids: list[Id | None]
    image_index: np.ndarray
    classes: np.ndarray
    boxes_xywh: np.ndarray
    has_bbox: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    segmentations: list[bytes]


def read_annotations(path: Path) -> Columns:
    """Read a COCO instances file.

    Raises:
        DatasetError: the file is missing, not JSON, not COCO, or contradicts itself (duplicate or unknown ids).
    """
    file = _decode(path)
    if not file.images:
        raise DatasetError(f"{path}: the list of images is empty")
    categories = sorted(file.categories, key=lambda category: category.id)
    category_ids = [category.id for category in categories]
    if not categories:
        raise DatasetError(f"{path}: the list of categories is empty")
    _refuse_duplicates(path, "category", category_ids)
    image_ids = [image.id for image in file.images]
    _refuse_duplicates(path, "image", image_ids)
    nameless = next((image.id for image in file.images if not image.file_name), None)
    if nameless is not None:
        raise DatasetError(f"{path}: image {nameless!r} has an empty file_name")

    annotations = file.annotations
    index_of_image = {image_id: index for index, image_id in enumerate(image_ids)}
    class_of = {category_id: index for index, category_id in enumerate(category_ids, start=1)}
    for annotation in annotations:
        if annotation.image_id not in index_of_image:
            raise DatasetError(
                f"{path}: annotation {annotation.id!r} belongs to image {annotation.image_id!r}, "
                "which is not in the list of images"
            )
        if annotation.category_id not in class_of:
            raise DatasetError(
                f"{path}: annotation {annotation.id!r} has category {annotation.category_id}, "
                f"which is not in the list of categories ({_shortened(category_ids)})"
            )
    has_bbox = [annotation.bbox is not None and len(annotation.bbox) == 4 for annotation in annotations]
    no_box = [None] * 4
    return Columns(
        image_ids=image_ids,
        file_names=[image.file_name for image in file.images],
        image_sizes=np.array([[_edge(image.height), _edge(image.width)] for image in file.images], np.int64),
        category_ids=tuple(category_ids),
        class_names=tuple(category.name for category in categories),
        annotation_ids=[annotation.id for annotation in annotations],
        image_index=np.array([index_of_image[annotation.image_id] for annotation in annotations], np.int64),
        classes=np.array([class_of[annotation.category_id] for annotation in annotations], np.int32),
        boxes_xywh=np.array(
            [annotation.bbox if good else no_box for annotation, good in zip(annotations, has_bbox, strict=True)],
            np.float64,
        ).reshape(-1, 4),
        has_bbox=np.array(has_bbox, bool),
        is_crowd=np.array([bool(annotation.iscrowd) for annotation in annotations], bool),
        is_ignored=np.array([bool(annotation.ignore) for annotation in annotations], bool),
        segmentations=[bytes(annotation.segmentation) for annotation in annotations],
    )


def _decode(path: Path) -> _File:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the annotation file: {error.strerror}") from None
    try:
        return _decode_text(data)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DatasetError(f"{path} is not a COCO instances file: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from None


def _decode_text(data: bytes) -> _File:
    decoder = msgspec.json.Decoder(_File)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Slow path, for what Python's json module reads and msgspec does not: NaN, Infinity, a byte order mark, UTF-16.
        text = data.decode(json.detect_encoding(data))
        return decoder.decode(strict_json(text.encode()))


def _edge(value: float | None) -> int:
    return int(value) if value is not None and 0 < value < 2**31 else 0


def _refuse_duplicates(path: Path, what: str, ids: list[int] | list[Id]) -> None:
    seen: set[Id] = set()
    for item in ids:
        if item in seen:
            raise DatasetError(f"{path}: {what} id {item!r} occurs twice")
        seen.add(item)


def _shortened(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:8]))
    return f"{shown}, ... {ids[-1]}" if len(ids) > 8 else shown
