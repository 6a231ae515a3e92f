"""The columns of an annotation file, in memory or in a mapped cache. Legend: I images, A annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

Id = int | str


class Segmentations(Protocol):
    """Undecoded segmentations of all annotations; all threads may read them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> bytes:
        """Return the JSON text of one, empty where the file has none."""


class RawSegmentations:
    """Segmentations as views of the text of an annotation file, which stays in memory."""

    def __init__(self, raws: list[msgspec.Raw]) -> None:
        self.raws = raws

    def __len__(self) -> int:
        return len(self.raws)

    def __getitem__(self, index: int) -> bytes:
        return bytes(self.raws[index])


class ConcatenatedSegmentations:
    """The segmentations of several files, one after the other."""

    def __init__(self, parts: Sequence[Segmentations]) -> None:
        self._parts = list(parts)
        self._first = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> bytes:
        part = int(np.searchsorted(self._first, index, side="right")) - 1
        return self._parts[part][int(index - self._first[part])]


class Columns(NamedTuple):
    """The content of a file, with only ids and types checked; annotations by image, in file order within an image.

    Attributes:
        image_ids, file_names: I.
        image_sizes: int64 [I, 2] (h, w), 0 where missing or not positive.
        category_ids: sorted; `class_names` likewise.
        offsets: int64 [I + 1]: annotations offsets[i] to offsets[i + 1] are of image i.
        annotation_ids: A; int64 array, or a list if some are text, missing or beyond 64 bits.
        classes: int32 [A], contiguous from 1.
        boxes_xywh: float64 [A, 4], NaN where missing or not a number.
        areas: float64 [A], as in the file, NaN where missing or not a number.
        has_bbox, is_crowd, is_ignored: bool [A].
        segmentations: A.
    """

    image_ids: list[Id]
    file_names: list[str]
    image_sizes: np.ndarray
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    offsets: np.ndarray
    annotation_ids: np.ndarray | list[Id | None]
    classes: np.ndarray
    boxes_xywh: np.ndarray
    areas: np.ndarray
    has_bbox: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    segmentations: Segmentations

    @property
    def image_index(self) -> np.ndarray:
        """Number of the image of each annotation, int64 [A]."""
        return np.repeat(np.arange(len(self.image_ids)), np.diff(self.offsets))

    def ids_where(self, mask: np.ndarray) -> list[Id | None]:
        """Return the ids of the annotations that a bool [A] selects."""
        return ids_of(self.annotation_ids, np.flatnonzero(mask))


def ids_of(annotation_ids: np.ndarray | list[Id | None], rows: np.ndarray) -> list[Id | None]:
    """Return the ids of some annotations as Python objects, None where the file has none."""
    if isinstance(annotation_ids, np.ndarray):
        return list(annotation_ids[rows].tolist())
    return [annotation_ids[row] for row in rows]


def compact_ids(ids: Sequence[Id | None]) -> np.ndarray | list[Id | None]:
    """Return an int64 array if all ids are numbers (8 bytes each instead of 36, and processes can share it)."""
    if set(map(type, ids)) <= {int}:
        try:
            return np.array(ids, np.int64)
        except OverflowError:
            pass
    return list(ids)
