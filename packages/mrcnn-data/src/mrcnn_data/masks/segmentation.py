"""One `segmentation` field: bytes of JSON in, checked polygons or run lengths out.

pycocotools checks only the first part of a list, allocates memory by the perimeter and trusts run lengths. Other input
may crash it, so it is called on checked parts only. Legend: V vertices of one part.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_data.json_file import lenient_decode
from mrcnn_data.masks.run_lengths import decode_counts, is_filling, whole_numbers
from mrcnn_data.masks.simplifying import (
    MANY_PARTS,
    MANY_POINTS,
    is_tangled,
    is_too_long,
    simplified,
)

# Beyond this many image sizes a coordinate is a mistake (pixels of another image, overflow), not an object that
# sticks out. A rasteriser's cost grows with the perimeter, so such a part must never reach one.
MAX_IMAGE_SIZES_AWAY = 10.0
_MERGED_AT_ONCE = 64  # parts


class Polygons(NamedTuple):
    """The union of closed polygons, each filled even-odd. `parts`: float64 [V, 2] (x, y), source pixels, continuous."""

    parts: tuple[np.ndarray, ...]


class RunLengths(NamedTuple):
    """COCO run lengths: `counts` int64, column by column, beginning with zeros; they sum to height * width."""

    height: int
    width: int
    counts: np.ndarray


Segmentation = Polygons | RunLengths


class Decoded(NamedTuple):
    """`segmentation` is None if no part is usable; `faults` are the kinds of faults that were found."""

    segmentation: Segmentation | None
    faults: tuple[str, ...]


BOX_ONLY = "box only: trains and scores the box; for masks the box is a region to ignore"
_PART_DROPPED = "part dropped"
_OUTSIDE = "polygon part outside the image"
_NO_NUMBER = "polygon part with a coordinate that is not a finite number"
_TEXT = "coordinate written as text"
_ODD_COUNTS = "RLE size or counts that are not integers"
_WRAPPED_COUNTS = "RLE text that was escaped or encoded once more"
_BAD_RLE = "RLE that cannot be decoded"
_NO_PIXEL = "polygon without any pixel in the image"
_MANY_POINTS = f"polygon part with more than {MANY_POINTS} points"
_TOO_LONG = "polygon whose outline is longer than those of all pixels of its image"

# Kinds of faults, and what training does about them: severity (see `mrcnn_data.report`) and action.
FAULTS = {
    "segmentation missing": ("note", BOX_ONLY),
    "segmentation empty": ("repaired", BOX_ONLY),
    "segmentation that cannot be decoded": ("repaired", BOX_ONLY),
    "segmentation of unknown kind": ("repaired", BOX_ONLY),
    "RLE of another size than the image": ("repaired", BOX_ONLY),
    _BAD_RLE: ("repaired", BOX_ONLY),
    "RLE without any pixel": ("repaired", BOX_ONLY),
    "no polygon part is usable": ("repaired", BOX_ONLY),
    "polygon lies outside the image": ("repaired", BOX_ONLY),
    _NO_PIXEL: ("repaired", BOX_ONLY),
    _TOO_LONG: ("repaired", BOX_ONLY),
    "flat polygon": ("repaired", "read as one part"),
    _TEXT: ("repaired", "read as the number"),
    _ODD_COUNTS: ("repaired", "read as whole numbers"),
    _WRAPPED_COUNTS: ("repaired", "backslashes halved, b'...' or base64 undone"),
    _MANY_POINTS: ("repaired", "simplified; the outline moves by less than a tenth of a pixel"),
    "polygon part with fewer than 6 numbers": ("dropped", _PART_DROPPED),
    "polygon part with an odd count of numbers": ("dropped", _PART_DROPPED),
    _NO_NUMBER: ("dropped", _PART_DROPPED),
    "polygon part more than 10 image sizes away": ("dropped", _PART_DROPPED),
    "polygon part without area": ("dropped", _PART_DROPPED),
    _OUTSIDE: ("dropped", _PART_DROPPED),
}


def decode_segmentation(raw: bytes, *, height: int, width: int) -> Decoded:
    """Read and check one segmentation: polygons, compressed or uncompressed RLE.

    Args:
        raw: the JSON text of the field; empty where it is missing.
        height, width: of the image as stored, pixels.
    Returns:
        What can be rasterised safely, and the faults by kind (keys of `FAULTS`).
    """
    if not raw:
        return Decoded(None, ("segmentation missing",))
    try:
        value = lenient_decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):  # bytes that are not text
        return Decoded(None, ("segmentation that cannot be decoded",))
    if value is None:
        return Decoded(None, ("segmentation missing",))
    if not value and value is not False and value != 0:
        return Decoded(None, ("segmentation empty",))
    if isinstance(value, dict):
        return _decode_rle(value, height=height, width=width)
    if isinstance(value, list):
        return _decode_polygons(value, height=height, width=width)
    return Decoded(None, ("segmentation of unknown kind",))


def _decode_polygons(value: list[Any], *, height: int, width: int) -> Decoded:
    faults: list[str] = []
    if not any(isinstance(part, list) for part in value):
        faults.append("flat polygon")
        value = [value]
    usable = []
    is_seen = False  # whether a part surely has pixels
    for part in value:
        checked = _check_part(part, height=height, width=width)
        faults += checked.faults
        if checked.vertices is not None:
            usable.append(checked.vertices)
            is_seen |= checked.has_pixels
    if usable:
        polygons = Polygons(tuple(usable))
        if is_too_long(usable, height=height, width=width):
            return Decoded(None, (*faults, _TOO_LONG))
        if len(usable) > MANY_PARTS or any(map(is_tangled, usable)):
            return _as_pixels(polygons, faults, height=height, width=width)
        if is_seen or coco_mask.area(polygon_rle(polygons, height=height, width=width)):
            return Decoded(polygons, tuple(faults))
        return Decoded(None, (*faults, _NO_PIXEL))
    others = tuple(fault for fault in faults if fault != _OUTSIDE)
    is_outside = len(others) < len(faults)
    return Decoded(None, (*others, "polygon lies outside the image" if is_outside else "no polygon part is usable"))


def _as_pixels(polygons: Polygons, faults: list[str], *, height: int, width: int) -> Decoded:
    """Return polygons that would take long to crop as run lengths of the same pixels."""
    counts = polygon_rle(polygons, height=height, width=width)["counts"].decode("ascii")
    runs, _ = decode_counts(counts, total=height * width)
    if runs is None or runs[1::2].sum() == 0:
        return Decoded(None, (*faults, _NO_PIXEL))
    return Decoded(RunLengths(height, width, runs), tuple(faults))


def polygon_rle(polygons: Polygons, *, height: int, width: int) -> dict[str, Any]:
    """Rasterise checked polygons over their image: pycocotools' RLE, with counts as bytes."""
    rles = coco_mask.frPyObjects([part.ravel().tolist() for part in polygons.parts], height, width)
    while len(rles) > _MERGED_AT_ONCE:  # one by one into a growing whole, thousands would take minutes
        starts = range(0, len(rles), _MERGED_AT_ONCE)
        rles = [coco_mask.merge(rles[start : start + _MERGED_AT_ONCE]) for start in starts]
    return dict(rles[0] if len(rles) == 1 else coco_mask.merge(rles))


class _Part(NamedTuple):
    """A polygon part: `vertices` float64 [V, 2] or None, what is wrong, and whether it surely has pixels."""

    vertices: np.ndarray | None
    faults: tuple[str, ...] = ()
    has_pixels: bool = False


def _check_part(part: Any, *, height: int, width: int) -> _Part:
    if not isinstance(part, list) or len(part) < 6:
        return _Part(None, ("polygon part with fewer than 6 numbers",))
    if len(part) % 2:
        return _Part(None, ("polygon part with an odd count of numbers",))
    try:
        vertices = np.array(part, np.float64).reshape(-1, 2)  # null becomes NaN, "5" becomes 5
    except (TypeError, ValueError, OverflowError):
        return _Part(None, (_NO_NUMBER,))
    (x1, y1, x2, y2), is_odd = _extremes(part, vertices)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):  # a NaN anywhere comes through
        return _Part(None, (_NO_NUMBER,))
    if max(-x1, -y1, x2, y2) > MAX_IMAGE_SIZES_AWAY * max(height, width):
        return _Part(None, ("polygon part more than 10 image sizes away",))
    twice_area = _twice_area(vertices)
    if not _has_area(twice_area, vertices, max(x2 - x1, y2 - y1)) and _is_collinear(vertices):
        return _Part(None, ("polygon part without area",))
    if not (x1 < width and y1 < height and x2 > 0 and y2 > 0):
        return _Part(None, (_OUTSIDE,))
    faults: tuple[str, ...] = (_TEXT,) if is_odd and any(isinstance(value, str) for value in part) else ()
    num_points = len(vertices)
    if num_points > MANY_POINTS:
        vertices, faults = simplified(vertices), (*faults, _MANY_POINTS)
    is_inside = x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height
    # Thinner ones may lie between the centres of pixels, and outlines drawn twice cancel out: these are rasterised.
    is_wide = twice_area > 2 * (x2 - x1 + y2 - y1 + 2)
    if faults or is_odd or not (is_inside and is_wide):
        return _Part(vertices, faults)
    xs = part[::2]
    is_drawn_once = xs.count(xs[0]) == 1 or len(set(zip(xs, part[1::2], strict=True))) >= num_points - 1
    return _Part(vertices, has_pixels=is_drawn_once)


def _extremes(part: list[Any], vertices: np.ndarray) -> tuple[tuple[float, float, float, float], bool]:
    """Return x1, y1, x2, y2, and whether the list holds something that is not a number.

    Reading the list takes half the time of reading the array, because there are few numbers.
    """
    try:
        if math.isfinite(sum(part)):
            xs, ys = part[::2], part[1::2]
            return (min(xs), min(ys), max(xs), max(ys)), False
    except (TypeError, OverflowError):  # text or null among the numbers: `vertices` has them as numbers
        pass
    (x1, y1), (x2, y2) = vertices.min(axis=0).tolist(), vertices.max(axis=0).tolist()
    return (x1, y1, x2, y2), True


def _twice_area(vertices: np.ndarray) -> float:
    """Return twice the shoelace area, which is 0 for a figure eight."""
    x, y = vertices[:, 0], vertices[:, 1]
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]) + x[-1] * y[0] - x[0] * y[-1]))


def _has_area(twice_area: float, vertices: np.ndarray, extent: float) -> bool:
    """Return whether the area is clearly above rounding and `_is_collinear`'s limit: most parts need no other check.

    `extent`: at least the width and the height.
    """
    return twice_area > 1e-8 * len(vertices) * extent**2 + 1e-2


def _is_collinear(vertices: np.ndarray) -> bool:
    """Return whether all vertices lie on a line; the shoelace area is also 0 for a figure eight, which has pixels."""
    away = vertices - vertices[0]  # [V, 2]
    farthest = away[np.argmax((away**2).sum(axis=1))]
    cross = away[:, 0] * farthest[1] - away[:, 1] * farthest[0]
    return bool(np.abs(cross).max() <= 1e-9 * (farthest**2).sum())


def _decode_rle(value: dict[str, Any], *, height: int, width: int) -> Decoded:
    size, counts = whole_numbers(value.get("size")), value.get("counts")
    if size is None or size.tolist() != [height, width]:
        return Decoded(None, ("RLE of another size than the image",))
    fault = None
    if isinstance(counts, str):
        runs, is_as_written = decode_counts(counts, total=height * width)
        fault = None if is_as_written else _WRAPPED_COUNTS
        numbers = value["size"]
    else:
        runs = whole_numbers(counts)
        numbers = [*value["size"], *(counts or ())] if runs is not None else []
    if runs is None or not is_filling(runs, total=height * width):
        return Decoded(None, (_BAD_RLE,))
    if runs[1::2].sum() == 0:
        return Decoded(None, ("RLE without any pixel",))
    if not set(map(type, numbers)) <= {int}:
        fault = _ODD_COUNTS
    return Decoded(RunLengths(height, width, runs), () if fault is None else (fault,))


def rle_size(raw: bytes) -> tuple[int, int] | None:
    """Return the (h, w) in an undecoded segmentation; None if it is not an RLE with a size."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    size = whole_numbers(value.get("size")) if isinstance(value, dict) else None
    return (int(size[0]), int(size[1])) if size is not None and size.size == 2 and size.min() > 0 else None


def to_coco(segmentation: Segmentation) -> list[list[float]] | dict[str, Any]:
    """Return a segmentation as COCO files hold it: polygons, or an RLE with a list of counts."""
    if isinstance(segmentation, Polygons):
        return [part.ravel().tolist() for part in segmentation.parts]
    return {"size": [segmentation.height, segmentation.width], "counts": segmentation.counts.tolist()}
