"""Buckets and anchors that suit a dataset, and how well. Sizes are (h, w) in pixels of the resized images.

Legend: I images, n objects, A anchors of one position.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_data.images.geometry import resized_sizes
from mrcnn_data.loading.buckets import Bucket, aspect_class, assign_buckets, default_buckets
from mrcnn_data.statistics.counting import Statistics

BUCKET_MULTIPLE = 32  # coarsest stride at which the feature pyramid adds up levels
LEVELS = 5  # P2 to P6, each with anchors of twice the edge of the level before
COMMON_ANCHORS = (32.0, 64.0, 128.0, 256.0, 512.0)  # of the feature pyramid paper (Lin et al. 2017), for 800 px
COMMON_RATIOS = (0.5, 1.0, 2.0)  # height / width
# With an edge below twice the finest stride (4 px), objects could lie between two anchors.
_FIRST_EDGES = (8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
_MOST_OBJECTS = 20_000  # a sample of more, evenly spread, changes only the third digit


class Anchors(NamedTuple):
    """Anchors, and how well they fit the objects' shapes, with each object centred on its best anchor.

    Attributes:
        sizes: square root of the area on each level, pixels.
        ratios: height / width.
        mean_iou: mean over the objects.
        share_matched: share of the objects with an IoU of at least 0.7.
    """

    sizes: tuple[float, ...]
    ratios: tuple[float, ...]
    mean_iou: float
    share_matched: float


class Suggestions(NamedTuple):
    """What suits the images of a dataset, resized to `short_edge` and at most `max_size`.

    Attributes:
        buckets: few, with little padding.
        padding, common_padding: share of the pixels that is padding, with `buckets` and with `default_buckets`.
        anchors, common_anchors: suggested anchors and the common ones, with their fit; None without objects.
    """

    short_edge: int
    max_size: int
    buckets: list[Bucket]
    padding: float
    common_padding: float
    anchors: Anchors | None
    common_anchors: Anchors | None


def suggestions_for(statistics: Statistics, *, short_edge: int, max_size: int, aspect_classes: int = 3) -> Suggestions:
    """Find buckets and anchors that suit a dataset, and compare them with the common ones."""
    sizes = resized_sizes(statistics.image_sizes, short_edge=short_edge, max_size=max_size)
    buckets = suggest_buckets(sizes, aspect_classes=aspect_classes)
    boxes = statistics.resized_box_sizes(short_edge=short_edge, max_size=max_size)
    return Suggestions(
        short_edge,
        max_size,
        buckets,
        padding=padding_share(sizes, buckets),
        common_padding=padding_share(sizes, default_buckets(short_edge, max_size)),
        anchors=suggest_anchors(boxes) if len(boxes) else None,
        common_anchors=fit_of_anchors(boxes, sizes=COMMON_ANCHORS, ratios=COMMON_RATIOS) if len(boxes) else None,
    )


def suggest_buckets(sizes: np.ndarray, *, aspect_classes: int) -> list[Bucket]:
    """Find a few buckets that hold all images with little padding.

    Start with one bucket for each size; then, again and again, replace two buckets by their union, choosing the pair
    that adds the fewest pixels. Both orientations of a shape count as one, as they do in a training step.

    Args:
        sizes: int [I, 2], at least one.
        aspect_classes: largest number of shapes.
    Returns:
        Multiples of 32, smallest first; both orientations of a shape if both occur.
    """
    rounded = -(-np.asarray(sizes) // BUCKET_MULTIPLE) * BUCKET_MULTIPLE
    shapes = Counter((min(size), max(size)) for size in rounded.tolist())
    while len(shapes) > aspect_classes:
        one, other = min(itertools.combinations(sorted(shapes), 2), key=lambda pair: _cost(shapes, *pair))
        count = shapes.pop(one) + shapes.pop(other)
        shapes[_union(one, other)] += count
    both = sorted({bucket for short, long in shapes for bucket in ((short, long), (long, short))}, key=_area_then_shape)
    used = np.unique(assign_buckets(rounded, both))
    return [both[number] for number in used]


def _union(one: Bucket, other: Bucket) -> Bucket:
    return max(one[0], other[0]), max(one[1], other[1])


def _cost(shapes: Counter[Bucket], one: Bucket, other: Bucket) -> int:
    """Return how many pixels of padding a union adds."""
    area = math.prod(_union(one, other))
    return shapes[one] * (area - math.prod(one)) + shapes[other] * (area - math.prod(other))


def _area_then_shape(bucket: Bucket) -> tuple[int, Bucket, Bucket]:
    return math.prod(bucket), aspect_class(bucket), bucket


def padding_share(sizes: np.ndarray, buckets: Sequence[Bucket]) -> float:
    """Return the share of pixels that is padding when images of sizes int [I, 2] lie in their smallest buckets.

    Raises:
        DatasetError: a size fits no bucket.
    """
    pixels = np.prod(np.asarray(buckets)[assign_buckets(sizes, buckets)], axis=1).sum()
    return 1.0 - float(np.prod(sizes, axis=1).sum() / pixels)


def suggest_anchors(box_sizes: np.ndarray) -> Anchors:
    """Find the anchors of five levels and three ratios that fit the shapes of objects best.

    Edges double from level to level, starting with an edge of 8 px or more. The ratios are the common ones, or the
    medians of the flattest, the middle and the slimmest third of the objects, if these fit better.

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
    best = best_anchor_ious(box_sizes, sizes=sizes, ratios=ratios)
    return Anchors(tuple(sizes), tuple(ratios), float(best.mean()), float((best >= 0.7).mean()))


def best_anchor_ious(box_sizes: np.ndarray, *, sizes: Sequence[float], ratios: Sequence[float]) -> np.ndarray:
    """Return the IoU of objects with the anchor that fits best, if both have the same centre.

    Args:
        box_sizes: float [n, 2] (h, w), at least one; of very many, a sample is taken.
        sizes: square roots of the anchors' areas, pixels.
        ratios: height / width.
    Returns:
        float64, one for each object of the sample.
    """
    chosen = box_sizes[:: -(-len(box_sizes) // _MOST_OBJECTS)]
    edges, slimness = map(np.ravel, np.meshgrid(sizes, np.sqrt(ratios)))
    anchors = np.stack([edges * slimness, edges / slimness], axis=1)  # [A, 2]
    overlap = np.minimum(chosen[:, None], anchors).prod(axis=2)  # [n, A]
    iou = overlap / (chosen.prod(axis=1)[:, None] + anchors.prod(axis=1) - overlap)
    return np.asarray(iou.max(axis=1))
