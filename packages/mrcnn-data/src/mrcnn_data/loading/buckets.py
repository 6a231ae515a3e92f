"""Resized sizes and the short list of canvases they are padded to. Sizes are (h, w)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mrcnn_data.errors import DatasetError

Canvas = tuple[int, int]

# Cameras make 4:3 and 3:2; in COCO these two hold most images. Microscopes and crops are square. What is longer goes to
# the canvas of the longest edge. Padding costs more than time: group norm sees it, so a network trained on crops that
# fill their canvas finds less in images that do not (nuclei, mostly 256 x 256, in 256 x 352: box AP 0.33, not 0.42).
_COMMON_ASPECTS = (1, 4 / 3, 3 / 2)


def resized_sizes(sizes: np.ndarray, *, short_edge: float | np.ndarray, max_size: float | np.ndarray) -> np.ndarray:
    """Scale (h, w), int [..., 2], so that the short edge is `short_edge` and the long one at most `max_size`: int64."""
    sizes = np.asarray(sizes, np.float64)
    scale = np.minimum(short_edge / sizes.min(axis=-1), max_size / sizes.max(axis=-1))
    return np.maximum(np.floor(sizes * scale[..., None] + 0.5).astype(np.int64), 1)


def default_buckets(short_edge: int, max_size: int, *, multiple: int = 32) -> tuple[Canvas, ...]:
    """List canvases that hold every image resized with these limits, landscape and portrait of each aspect class.

    Args:
        short_edge: pixels; of several (multi-scale training), the largest.
        max_size: limit of the long edge, pixels.
        multiple: canvases are multiples of it (the coarsest feature stride).
    """
    short_edge = min(short_edge, max_size)
    long_edges = {_round_up(min(short_edge * aspect, max_size), multiple) for aspect in _COMMON_ASPECTS}
    long_edges.add(_round_up(max_size, multiple))
    short = _round_up(short_edge, multiple)
    canvases: list[Canvas] = []
    for long in sorted(long_edges):
        canvases.append((short, long))
        if long != short:
            canvases.append((long, short))
    return tuple(canvases)


def aspect_class(canvas: Canvas) -> tuple[int, int]:
    """Canvases that differ only by orientation share a class: (short edge, long edge)."""
    return min(canvas), max(canvas)


def assign_canvases(sizes: np.ndarray, canvases: Sequence[Canvas]) -> np.ndarray:
    """Find the smallest canvas that holds each size: int [n, 2] -> int64 [n] index of the canvas.

    Raises:
        DatasetError: a size fits none; names the first.
    """
    by_area = sorted(range(len(canvases)), key=lambda index: (math.prod(canvases[index]), index))
    assigned = np.full(len(sizes), -1, np.int64)
    for index in reversed(by_area):
        assigned[(sizes <= np.asarray(canvases[index])).all(axis=1)] = index
    if (assigned < 0).any():
        height, width = sizes[np.flatnonzero(assigned < 0)[0]]
        raise DatasetError(
            f"buckets={[list(canvas) for canvas in canvases]}: none holds an image resized to {height} x {width} "
            "(height x width)"
        )
    return assigned


def _round_up(value: float, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
