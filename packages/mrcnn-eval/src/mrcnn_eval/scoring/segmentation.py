"""Masks of results, checked; masks of results and of ground truth as RLE or bitmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import hotcoco.mask as hotcoco_mask
import numpy as np
from pycocotools import mask as mask_utils

from mrcnn_data.masks import decode_counts

Polygons: TypeAlias = list[list[float]]  # [[x1, y1, x2, y2, ...], ...], pixels of the image
Rle: TypeAlias = dict[str, Any]  # {"size": [h, w], "counts": compressed str or bytes}
Segmentation: TypeAlias = Polygons | Rle

MAX_PIXELS = 1 << 32  # of an image; pycocotools counts them in 32 bits
COUNTS_CHARACTERS = bytes(range(48, 112))  # the alphabet of COCO's compressed counts: 6 bits each, from "0"


class SegmentationError(ValueError):
    """A mask that cannot be scored; the caller adds which result it is."""


def check_compressed_rle(rle: Any, *, size: tuple[int, int]) -> Rle:
    """Check the mask of a result and return it with its counts as str.

    Raises:
        SegmentationError: anything but a compressed RLE of the image's size, (h, w) or (0, 0) where unknown.
    """
    if not isinstance(rle, dict) or isinstance(rle.get("counts"), list):
        raise SegmentationError("the mask of a result must be an RLE with compressed counts (pycocotools.mask.encode)")
    rle_size = _rle_size(rle, size=size)
    counts = counts_text(rle.get("counts"))
    # Two backslashes are valid counts, but more often one that was escaped twice: another mask, silently.
    if "\\\\" in counts and not decode_counts(counts, total=rle_size[0] * rle_size[1])[1]:
        raise SegmentationError("RLE counts have doubled backslashes: encode them as JSON only once")
    return {"size": rle_size, "counts": counts}


def _rle_size(rle: dict[str, Any], *, size: tuple[int, int]) -> list[int]:
    rle_size = rle.get("size")
    if not (
        isinstance(rle_size, (list, tuple))
        and len(rle_size) == 2
        and all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in rle_size)
    ):
        raise SegmentationError(f"RLE size must be [height, width], not {rle_size!r}")
    if min(rle_size) < 1 or int(rle_size[0]) * int(rle_size[1]) > MAX_PIXELS:
        raise SegmentationError(f"RLE size {list(rle_size)} is not that of an image, [height, width] in pixels")
    if size != (0, 0) and tuple(rle_size) != size:
        raise SegmentationError(f"RLE size {list(rle_size)} differs from the image's [height, width] {list(size)}")
    return [int(n) for n in rle_size]


def counts_text(counts: Any) -> str:
    """Return compressed RLE counts as str, from str or bytes.

    Raises:
        SegmentationError: another type, nothing, or a character that compressed counts never hold.
    """
    if not isinstance(counts, (str, bytes)):
        raise SegmentationError(f"RLE counts must be a compressed string, not {type(counts).__name__}")
    if not counts:
        raise SegmentationError("RLE counts are empty: an empty mask still has one count, the number of its pixels")
    raw = counts if isinstance(counts, bytes) else counts.encode("utf-8")
    if raw.translate(None, COUNTS_CHARACTERS):
        raise SegmentationError("RLE counts hold characters that compressed COCO counts never do")
    return raw.decode("ascii")


def mask_areas(rles: Sequence[Rle]) -> np.ndarray:
    """Return the pixels that each compressed RLE covers, float64 [n].

    Raises:
        SegmentationError: counts that decode to a negative run, or that cover more than the image.
    """
    try:
        # pycocotools' own area() fails on more than 255 RLEs with NumPy 2, and does not see negative runs.
        areas = np.asarray(hotcoco_mask.area(list(rles)), np.float64).reshape(-1)
    except ValueError as error:
        raise SegmentationError(f"RLE counts are damaged: {error}") from error
    if (areas > np.array([rle["size"] for rle in rles], np.float64).reshape(-1, 2).prod(axis=1)).any():
        raise SegmentationError("RLE counts are damaged: they cover more than the image")
    return areas


def to_rle(segmentation: Segmentation, *, size: tuple[int, int]) -> Rle:
    """Return a checked segmentation as compressed RLE on an image of (h, w) `size` pixels."""
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
    return segmentation


def to_mask(segmentation: Segmentation, *, size: tuple[int, int]) -> np.ndarray:
    """Return a checked segmentation as a bitmap, uint8 [h, w], 0 or 1."""
    return mask_utils.decode(to_rle(segmentation, size=size))


def box_polygon(box: np.ndarray, *, size: tuple[int, int]) -> Polygons:
    """Return the rectangle of `box` (x, y, w, h) as a polygon, the part inside an image of (h, w) `size` pixels.

    The time and memory of rasterising grow with the perimeter, and a box in a file may have any size.
    """
    x, y, w, h = (float(value) for value in box)
    (x1, x2), (y1, y2) = np.clip([x, x + w], 0, size[1]).tolist(), np.clip([y, y + h], 0, size[0]).tolist()
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]
