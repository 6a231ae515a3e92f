"""The ground truth of an evaluation: a COCO instances file as checked columns, renumbered from 1.

Legend: I images, K categories, G annotations.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from pycocotools import mask as mask_utils

from mrcnn_eval.scoring.segmentation import Segmentation, SegmentationError, check_segmentation, to_rle

logger = logging.getLogger(__name__)


class GroundTruthError(ValueError):
    """A ground truth that cannot be scored against; one line that names file and entry."""


class GroundTruth(NamedTuple):
    """Annotations in the order of the file; images and categories sorted by id, as pycocotools orders them.

    Attributes:
        image_ids: I ids as in the file, sorted.
        image_sizes: int64 [I, 2] (h, w) pixels, (0, 0) where the file does not say.
        file_names: I names below the image folder, None where the file does not say.
        category_ids: K ids as in the file, sorted.
        category_names: K names, made unique by their ids where two categories share one.
        image_indices: int64 [G], index into `image_ids`.
        category_indices: int64 [G], index into `category_ids`.
        boxes: float64 [G, 4] (x, y, w, h), pixels of the image.
        areas: float64 [G], pixels, as in the file; where missing, the mask's, or else the box's.
        crowd: bool [G].
        ignored: bool [G], the file's `ignore`.
        segmentations: G checked polygons or RLEs, None for an object with a box only.
    """

    image_ids: tuple[Any, ...]
    image_sizes: np.ndarray
    file_names: tuple[str | None, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    image_indices: np.ndarray
    category_indices: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    segmentations: list[Segmentation | None]


def load_ground_truth(
    annotations: str | Path | Mapping[str, Any], *, image_sizes: Mapping[Any, tuple[int, int]] | None = None
) -> GroundTruth:
    """Read and check a COCO instances file.

    What mrcnn_data trains on can be scored on: the same faults are repaired, counted and logged. Annotation ids are
    only read for messages: id 0 and ids used twice, which pycocotools scores wrongly, do no harm.

    Args:
        annotations: path of the file, or its content.
        image_sizes: (h, w) by image id, over those of the file (whose width and height some tools leave out).

    Returns:
        The checked columns. A file without annotations gives columns of length 0.

    Raises:
        GroundTruthError: naming the file and the entry.
    """
    source, content = _read(annotations)
    images = _entries(content, "images", source)
    categories = sorted(_entries(content, "categories", source), key=lambda entry: _category_id(entry, source))
    image_ids = _sorted_image_ids(images, source)
    sizes = {entry["id"]: _image_size(entry) for entry in images} | dict(image_sizes or {})
    file_names = {entry["id"]: entry.get("file_name") for entry in images}
    return _columns(
        _entries(content, "annotations", source),
        image_ids=image_ids,
        image_sizes=np.asarray([sizes[image_id] for image_id in image_ids], np.int64).reshape(-1, 2),
        file_names=tuple(file_names[image_id] for image_id in image_ids),
        category_ids=_unique([int(entry["id"]) for entry in categories], "category id", source),
        category_names=_unique_names(categories),
        source=source,
    )


def _read(annotations: str | Path | Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if isinstance(annotations, Mapping):
        return "annotations", annotations
    try:
        content = _decode(Path(annotations).read_bytes())
    except OSError as error:
        raise GroundTruthError(f"{annotations}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise GroundTruthError(f"{annotations}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise GroundTruthError(f"{annotations}: not a COCO instances file: expected an object, found a list")
    return str(annotations), content


def _decode(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return json.loads(text)  # slow, but takes NaN, a byte order mark and UTF-16


def _entries(content: Mapping[str, Any], key: str, source: str) -> list[dict[str, Any]]:
    entries = content.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise GroundTruthError(f"{source}: not a COCO instances file: no list of objects under {key!r}")
    return entries


def _sorted_image_ids(images: list[dict[str, Any]], source: str) -> tuple[Any, ...]:
    for position, entry in enumerate(images):
        if not isinstance(entry.get("id"), (int, float, str)):
            raise GroundTruthError(f"{source}: image {position} of the list has no id")
    ids = sorted((entry["id"] for entry in images), key=lambda image_id: (isinstance(image_id, str), image_id))
    return _unique(ids, "image id", source)


def _unique(ids: list[Any], what: str, source: str) -> tuple[Any, ...]:
    for before, after in itertools.pairwise(ids):
        if before == after:
            raise GroundTruthError(f"{source}: {what} {after!r} is used twice")
    return tuple(ids)


def _category_id(entry: dict[str, Any], source: str) -> int:
    category_id = entry.get("id")
    if not isinstance(category_id, (int, float)) or category_id != int(category_id):
        raise GroundTruthError(
            f"{source}: category {entry.get('name')!r} has the id {category_id!r}, not a whole number"
        )
    return int(category_id)


def _unique_names(categories: list[dict[str, Any]]) -> tuple[str, ...]:
    names = [str(entry.get("name", entry["id"])) for entry in categories]
    return tuple(
        name if names.count(name) == 1 else f"{name} (id {entry['id']})"
        for name, entry in zip(names, categories, strict=True)
    )


def _image_size(entry: dict[str, Any]) -> tuple[int, int]:
    height, width = entry.get("height"), entry.get("width")
    if isinstance(height, (int, float)) and isinstance(width, (int, float)) and height > 0 and width > 0:
        return int(height), int(width)
    return 0, 0  # some tools write -1 or nothing


def _columns(
    entries: list[dict[str, Any]],
    *,
    image_ids: tuple[Any, ...],
    image_sizes: np.ndarray,
    file_names: tuple[str | None, ...],
    category_ids: tuple[int, ...],
    category_names: tuple[str, ...],
    source: str,
) -> GroundTruth:
    image_index = {image_id: index for index, image_id in enumerate(image_ids)}
    category_index = {category_id: index for index, category_id in enumerate(category_ids)}
    sizes = [(int(h), int(w)) for h, w in image_sizes]
    faults = _Faults(source)
    rows = []
    segmentations: list[Segmentation | None] = []
    for position, entry in enumerate(entries):
        name = f"annotation {entry.get('id', f'number {position}')}"
        image = _lookup(image_index, entry, "image_id", f"{source}: {name}")
        category = _lookup(category_index, entry, "category_id", f"{source}: {name}")
        size = sizes[image]
        if size == (0, 0) and isinstance(entry.get("segmentation"), list):
            raise GroundTruthError(f"{source}: image {image_ids[image]!r} has no width and height, which polygons need")
        segmentation = _segmentation(entry, size, name, faults)
        box = _box(entry, segmentation, size)
        if box is None:
            faults.add("have neither a box nor a mask that can be used, and do not count", name)
            continue
        area = _area(entry, segmentation, box, size)
        rows.append((image, category, *box, area, bool(entry.get("iscrowd")), bool(entry.get("ignore"))))
        segmentations.append(segmentation)
    faults.log()
    table = np.asarray(rows, np.float64).reshape(-1, 9)  # [G, 9]
    return GroundTruth(
        image_ids=image_ids,
        image_sizes=image_sizes,
        file_names=file_names,
        category_ids=category_ids,
        category_names=category_names,
        image_indices=table[:, 0].astype(np.int64),
        category_indices=table[:, 1].astype(np.int64),
        boxes=table[:, 2:6],
        areas=table[:, 6],
        crowd=table[:, 7].astype(bool),
        ignored=table[:, 8].astype(bool),
        segmentations=segmentations,
    )


def _lookup(index: dict[Any, int], entry: dict[str, Any], key: str, owner: str) -> int:
    try:
        return index[entry[key]]
    except KeyError:
        if key not in entry:
            raise GroundTruthError(f"{owner}: has no {key}") from None
        raise GroundTruthError(f"{owner}: {key} {entry[key]!r} is not in the file") from None
    except TypeError:
        raise GroundTruthError(f"{owner}: {key} {entry[key]!r} is not an id") from None


class _Faults:
    """Counts annotations by what is wrong with them, for one log line each."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._names: dict[str, list[str]] = defaultdict(list)

    def add(self, fault: str, name: str) -> None:
        self._names[fault].append(name)

    def log(self) -> None:
        for fault, names in self._names.items():
            logger.warning("%s: %d annotations %s (first: %s)", self._source, len(names), fault, names[0])


def _segmentation(entry: dict[str, Any], size: tuple[int, int], name: str, faults: _Faults) -> Segmentation | None:
    try:
        segmentation, num_dropped = check_segmentation(entry.get("segmentation"), size=size)
    except SegmentationError as error:
        faults.add("have no usable mask; for mask AP their boxes are regions to ignore", f"{name}, {error}")
        return None
    if num_dropped:
        faults.add("have polygons with fewer than 3 points or absurd coordinates, ignored", name)
    return segmentation


def _box(entry: dict[str, Any], segmentation: Segmentation | None, size: tuple[int, int]) -> tuple[float, ...] | None:
    box = entry.get("bbox")
    if isinstance(box, (list, tuple)) and len(box) == 4 and all(_is_finite(value) for value in box):
        return tuple(box)
    if segmentation is None:
        return None
    return tuple(float(value) for value in mask_utils.toBbox(to_rle(segmentation, size=size)))


def _area(
    entry: dict[str, Any], segmentation: Segmentation | None, box: tuple[float, ...], size: tuple[int, int]
) -> float:
    area = entry.get("area")
    if area is not None and _is_finite(area):
        return float(area)
    return box[2] * box[3] if segmentation is None else float(mask_utils.area(to_rle(segmentation, size=size)))


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
