"""Bitmaps to COCO boxes and segmentations that rasterise to exactly the same pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

# A step along a pixel border, by direction: right, down, left, up. The pixel of the mask lies to the right of the step.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def pixel_bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box (x1, y1, x2, y2) of the pixels of a mask [h, w] that has at least one.

    >>> pixel_bounds(np.array([[0, 0, 0], [0, 1, 1]]))
    (1, 1, 3, 2)
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def coco_box(mask: np.ndarray) -> list[int]:
    """Return the same box as COCO has it: [x, y, width, height]."""
    x1, y1, x2, y2 = pixel_bounds(mask)
    return [x1, y1, x2 - x1, y2 - y1]


def has_hole(mask: np.ndarray) -> bool:
    """Return whether the mask encloses background, which COCO polygons cannot express."""
    outside = np.pad(mask, 1) == 0
    # Tracing treats the mask as 4-connected, so background is 8-connected: a gap at a corner is a way out.
    return bool(cv2.connectedComponents(outside.astype(np.uint8), connectivity=8)[0] > 2)


def trace_polygons(mask: np.ndarray) -> list[list[int]]:
    """Follow the pixel borders of a mask that has no hole.

    >>> trace_polygons(np.array([[0, 1, 1], [0, 1, 1]], bool))
    [[3, 0, 3, 2, 1, 2, 1, 0]]

    Args:
        mask: bool [h, w].
    Returns:
        One closed polygon [x, y, x, y, ...] for each 4-connected part; only its corners.
    """
    padded = np.pad(mask, 1).astype(bool)
    # For each direction the pixel corners (x, y) where a border step begins.
    inside = padded[1:-1, 1:-1]
    above, below = padded[:-2, 1:-1], padded[2:, 1:-1]
    left, right = padded[1:-1, :-2], padded[1:-1, 2:]
    starts: list[set[tuple[int, int]]] = [
        _corners(inside & ~above, 0, 0),
        _corners(inside & ~right, 1, 0),
        _corners(inside & ~below, 1, 1),
        _corners(inside & ~left, 0, 1),
    ]
    polygons = []
    while starts[0]:
        polygons.append(_follow(starts, min(starts[0])))
    return polygons


def encode_compressed(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask as compressed RLE, as in COCO result files."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode()}


def encode_uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask as uncompressed RLE, as in COCO crowds: run lengths down the columns, first the zeros."""
    values = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [2]])  # the 2 closes the last run
    changes = np.flatnonzero(np.diff(values))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], changes])).tolist()}


def _corners(border: np.ndarray, dx: int, dy: int) -> set[tuple[int, int]]:
    rows, columns = np.nonzero(border)
    return set(zip((columns + dx).tolist(), (rows + dy).tolist(), strict=True))


def _follow(starts: list[set[tuple[int, int]]], first: tuple[int, int]) -> list[int]:
    """Walk along the border from the rightward step at `first` back to it, and remove each step from `starts`."""
    polygon: list[int] = []
    x, y = first
    direction = 0
    while True:
        x, y = x + _STEPS[direction][0], y + _STEPS[direction][1]
        # Try the right turn first: if two pixels touch at a corner, stay with the same pixel, so that parts stay apart.
        turns = ((direction + 1) % 4, direction, (direction + 3) % 4)
        turned = next(one for one in turns if (x, y) in starts[one])
        starts[turned].remove((x, y))
        if turned != direction:
            polygon += [x, y]
        # Being at the corner again is not enough: a border that touches itself passes it twice.
        if (x, y) == first and turned == 0:
            return polygon
        direction = turned
