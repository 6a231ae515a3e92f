"""Polygons whose points or outlines are so many or so long that rasterising them would take minutes.

Legend: V vertices of one part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MANY_POINTS = 10_000  # of one part; more are simplified
MANY_PARTS = 2_000  # of one object; more are kept as pixels
MOVES_AT_MOST = 0.1  # pixels
_CELL = 0.07  # pixels: its diagonal is shorter than `MOVES_AT_MOST`
_TANGLED = 100  # times width + height of the box; fillPoly's time grows with the square of the crossings


def simplified(vertices: np.ndarray) -> np.ndarray:
    """Leave out points of a closed polygon so that its outline moves by less than `MOVES_AT_MOST`.

    Points on a straight line between their neighbours are left out, then points near the one before them. The time is
    proportional to the number of points.

    Args:
        vertices: float64 [V, 2], pixels.
    Returns:
        A part of them, at least 3.
    """
    kept = vertices[(vertices != np.roll(vertices, 1, axis=0)).any(axis=1)]
    before, after = kept - np.roll(kept, 1, axis=0), np.roll(kept, -1, axis=0) - kept  # [V, 2]
    cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    kept = kept[(cross != 0) | ((before * after).sum(axis=1) < 0)]
    cells = np.floor(kept / _CELL)
    is_new = (cells != np.roll(cells, 1, axis=0)).any(axis=1)
    is_new[:1] = True
    return kept[is_new] if is_new.sum() >= 3 else vertices[:: len(vertices) // 3][:3]


def outline_length(vertices: np.ndarray) -> float:
    """Return the length of a closed polygon, along x plus along y, in pixels."""
    return float(np.abs(vertices - np.roll(vertices, 1, axis=0)).sum())


def is_too_long(parts: Sequence[np.ndarray], *, height: int, width: int) -> bool:
    """Return whether the outlines of an object are longer than those of all pixels of its image, and some more.

    Such an object is a scribble; time and memory of pycocotools grow with the length.
    """
    longest = 4.0 * height * width + 1000.0 * (height + width)
    # An edge is at most as long as ten images on either side, along x and y, so that few points need no sum.
    if sum(map(len, parts)) * 20.0 * 2 * max(height, width) <= longest:
        return False
    return sum(map(outline_length, parts)) > longest


def is_tangled(vertices: np.ndarray) -> bool:
    """Return whether an outline goes to and fro so much that it is kept as pixels and not as a polygon."""
    if len(vertices) < _TANGLED:  # an edge is at most as long as width + height
        return False
    return outline_length(vertices) > _TANGLED * float((vertices.max(axis=0) - vertices.min(axis=0)).sum())
