"""Buckets: the few shapes that resized images are padded to, so that batches have few static shapes.

All sizes are (h, w).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mrcnn_data.errors import DatasetError

Bucket = tuple[int, int]

# Cameras make 4:3 and 3:2; in COCO, most images have one of these two. Microscope images and crops are square. A longer
# image goes to the bucket of the longest edge. Padding costs more than time: group norm sees it, so a network that was
# trained on crops that fill their bucket finds less in images that do not (nuclei, mostly 256 x 256, in 256 x 352:
# box AP 0.33, not 0.42).
_COMMON_ASPECTS = (1, 4 / 3, 3 / 2)


def default_buckets(short_edge: int, max_size: int, *, multiple: int = 32) -> tuple[Bucket, ...]:
    """List buckets that hold every image resized with these limits: landscape and portrait of each aspect class.

    >>> default_buckets(800, 1333)[:3]
    ((800, 800), (800, 1088), (1088, 800))

    Args:
        short_edge: pixels; of several (multi-scale training), the largest.
        max_size: limit of the long edge, pixels.
        multiple: every edge is a multiple of it (the coarsest feature stride).
    """
    short_edge = min(short_edge, max_size)
    long_edges = {_round_up(min(short_edge * aspect, max_size), multiple) for aspect in _COMMON_ASPECTS}
    long_edges.add(_round_up(max_size, multiple))
    short = _round_up(short_edge, multiple)
    buckets: list[Bucket] = []
    for long in sorted(long_edges):
        buckets.append((short, long))
        if long != short:
            buckets.append((long, short))
    return tuple(buckets)


def aspect_class(bucket: Bucket) -> tuple[int, int]:
    """Return (short edge, long edge): buckets that differ only in orientation are of one class.

    >>> aspect_class((1088, 800))
    (800, 1088)
    """
    return min(bucket), max(bucket)


def assign_buckets(sizes: np.ndarray, buckets: Sequence[Bucket]) -> np.ndarray:
    """Find the smallest bucket that holds each size: int [n, 2] -> int64 [n] index into `buckets`.

    Raises:
        DatasetError: a size fits no bucket; names the first.
    """
    by_area = sorted(range(len(buckets)), key=lambda index: (math.prod(buckets[index]), index))
    assigned = np.full(len(sizes), -1, np.int64)
    for index in reversed(by_area):
        assigned[(sizes <= np.asarray(buckets[index])).all(axis=1)] = index
    if (assigned < 0).any():
        height, width = sizes[np.flatnonzero(assigned < 0)[0]]
        raise DatasetError(
            f"buckets={[list(bucket) for bucket in buckets]}: none holds an image resized to {height} x {width} "
            "(height x width)"
        )
    return assigned


def _round_up(value: float, multiple: int) -> int:
    return math.ceil(value / multiple) * multiple
