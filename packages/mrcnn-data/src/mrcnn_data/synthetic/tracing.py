"""Bitmaps to COCO segmentations that rasterise to exactly the same pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

# A step along a pixel border, by direction: right, down, left, up. The pixel of the mask lies to its right.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))


def has_hole(mask: np.ndarray) -> bool:
    """Whether background is enclosed: COCO polygons cannot say so."""
    outside = np.pad(mask, 1) == 0
    # The mask is 4-connected where traced, so background that touches at a corner only is enclosed unless 8-connected.
    return bool(cv2.connectedComponents(outside.astype(np.uint8), connectivity=8)[0] > 2)


def trace_polygons(mask: np.ndarray) -> list[list[int]]:
    """Follow the pixel borders of a mask without holes.

    Args:
        mask: bool [h, w].
    Returns:
        One closed polygon [x, y, x, y, ...] for each 4-connected part, corners only.
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
    """RLE as COCO result files have it."""
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode()}


def encode_uncompressed(mask: np.ndarray) -> dict[str, Any]:
    """RLE as COCO crowds have it: run lengths down the columns, beginning with zeros."""
    values = np.concatenate([[0], mask.ravel(order="F").astype(np.int8), [2]])  # the 2 closes the last run
    changes = np.flatnonzero(np.diff(values))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], changes])).tolist()}


def _corners(border: np.ndarray, dx: int, dy: int) -> set[tuple[int, int]]:
    rows, columns = np.nonzero(border)
    return set(zip((columns + dx).tolist(), (rows + dy).tolist(), strict=True))


def _follow(starts: list[set[tuple[int, int]]], first: tuple[int, int]) -> list[int]:
    """Walk along the border from the step rightward at `first` back to it, taking each step out of `starts`."""
    polygon: list[int] = []
    x, y = first
    direction = 0
    while True:
        x, y = x + _STEPS[direction][0], y + _STEPS[direction][1]
        # Right turn first: where two pixels touch at a corner, stay with the same pixel, so that parts stay apart.
        turns = ((direction + 1) % 4, direction, (direction + 3) % 4)
        turned = next(one for one in turns if (x, y) in starts[one])
        starts[turned].remove((x, y))
        if turned != direction:
            polygon += [x, y]
        # The corner alone is not the end: a border that touches itself passes it twice.
        if (x, y) == first and turned == 0:
            return polygon
        direction = turned
