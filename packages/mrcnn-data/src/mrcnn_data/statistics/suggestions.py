"""Canvases and anchors that suit a dataset, and how well they do. Sizes are (h, w), pixels of the resized images.

Legend: I images, n objects, A anchors of one position.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_data.loading.buckets import Canvas, aspect_class, assign_canvases

CANVAS_MULTIPLE = 32  # the coarsest stride that features are added up at
LEVELS = 5  # P2 to P6, each with anchors of twice the edge of the level before
COMMON_ANCHORS = (32.0, 64.0, 128.0, 256.0, 512.0)  # of the feature pyramid paper (Lin et al. 2017), for 800 px
COMMON_RATIOS = (0.5, 1.0, 2.0)  # height / width
# An edge below twice the finest stride, 4 px, would leave objects between two positions.
_FIRST_EDGES = (8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
_MOST_OBJECTS = 20_000  # more than these, evenly spread, change the third digit


class Anchors(NamedTuple):
    """Anchors, and how they fit the objects' shapes, each object laid over the centre of its best anchor.

    Attributes:
        sizes: square root of the area on each level, pixels.
        ratios: height / width.
        mean_iou: over objects; `share_matched`: of objects with an IoU of 0.7 and more.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    mean_iou: float
    share_matched: float


def suggest_canvases(sizes: np.ndarray, *, aspect_classes: int) -> list[Canvas]:
    """Find few canvases that hold all images with little padding.

    From one canvas for each size, the two whose union costs the fewest pixels become one, again and again. Both
    orientations of a shape count as one, as they do in a training step.

    Args:
        sizes: int [I, 2], at least one.
        aspect_classes: how many shapes at most.
    Returns:
        Multiples of 32, both orientations where both occur, smallest first.
    """
    rounded = -(-np.asarray(sizes) // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
    shapes = Counter((min(size), max(size)) for size in rounded.tolist())
    while len(shapes) > aspect_classes:
        one, other = min(itertools.combinations(sorted(shapes), 2), key=lambda pair: _cost(shapes, *pair))
        count = shapes.pop(one) + shapes.pop(other)
        shapes[_union(one, other)] += count
    both = sorted({canvas for short, long in shapes for canvas in ((short, long), (long, short))}, key=_area_then_shape)
    used = np.unique(assign_canvases(rounded, both))
    return [both[number] for number in used]


def _union(one: Canvas, other: Canvas) -> Canvas:
    return max(one[0], other[0]), max(one[1], other[1])


def _cost(shapes: Counter[Canvas], one: Canvas, other: Canvas) -> int:
    """Pixels of padding that a union adds."""
    area = math.prod(_union(one, other))
    return shapes[one] * (area - math.prod(one)) + shapes[other] * (area - math.prod(other))


def _area_then_shape(canvas: Canvas) -> tuple[int, Canvas, Canvas]:
    return math.prod(canvas), aspect_class(canvas), canvas


def padding_share(sizes: np.ndarray, canvases: Sequence[Canvas]) -> float:
    """Share of all pixels of the canvases that are padding: int [I, 2] images, each on the smallest that holds it.

    Raises:
        DatasetError: a size fits none.
    """
    pixels = np.prod(np.asarray(canvases)[assign_canvases(sizes, canvases)], axis=1).sum()
    return 1.0 - float(np.prod(sizes, axis=1).sum() / pixels)


def suggest_anchors(box_sizes: np.ndarray) -> Anchors:
    """Find the anchors of five levels and three ratios that fit the shapes of objects best.

    Edges double from level to level; tried are first edges from 8 px up. Ratios are the common ones, or the medians of
    the flattest, the middle and the slimmest third of the objects.

    Args:
        box_sizes: float [n, 2], at least one, of positive height and width.
    """
    found = np.quantile(box_sizes[:, 0] / box_sizes[:, 1], [1 / 6, 1 / 2, 5 / 6])
    own_ratios = tuple(float(f"{ratio:.2g}") for ratio in found)
    ratios = [COMMON_RATIOS] + ([own_ratios] if len(set(own_ratios)) == 3 else [])
    tried = [
        fit_of_anchors(box_sizes, sizes=[first * 2**level for level in range(LEVELS)], ratios=triple)
        for first, triple in itertools.product(_FIRST_EDGES, ratios)
    ]
    return max(tried, key=lambda anchors: anchors.mean_iou)


def fit_of_anchors(box_sizes: np.ndarray, *, sizes: Sequence[float], ratios: Sequence[float]) -> Anchors:
    """Measure how anchors fit objects of these sizes, float [n, 2]."""
    chosen = box_sizes[:: -(-len(box_sizes) // _MOST_OBJECTS)]
    edges, slimness = map(np.ravel, np.meshgrid(sizes, np.sqrt(ratios)))
    anchors = np.stack([edges * slimness, edges / slimness], axis=1)  # [A, 2]
    overlap = np.minimum(chosen[:, None], anchors).prod(axis=2)  # [n, A]
    iou = overlap / (chosen.prod(axis=1)[:, None] + anchors.prod(axis=1) - overlap)
    best = iou.max(axis=1)
    return Anchors(tuple(sizes), tuple(ratios), float(best.mean()), float((best >= 0.7).mean()))
