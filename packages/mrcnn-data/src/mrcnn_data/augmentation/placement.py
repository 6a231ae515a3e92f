"""The objects of a batch image, in its pixels. Legend: n objects."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrcnn_data.annotations.dataset import Instances
from mrcnn_data.images.geometry import Geometry
from mrcnn_data.masks.rasterising import visible_box
from mrcnn_data.masks.segmentation import Segmentation

# After resize and crop: an object thinner than a pixel shows nothing to learn from.
MIN_EDGE = 1.0


class PlacedObjects(NamedTuple):
    """The objects of one output image.

    Attributes:
        boxes: float64 [n, 4] of the visible part, in pixels of the output; without area if nothing is visible.
        classes: int32 [n].
        segmentations: n, in pixels of the image where each was drawn; None for an object without a mask.
        geometries: n, from the image of each segmentation to the output.
    """

    boxes: np.ndarray
    classes: np.ndarray
    segmentations: list[Segmentation | None]
    geometries: list[Geometry]

    @property
    def is_visible(self) -> np.ndarray:
        """Whether each object is at least a pixel wide and high: bool [n]."""
        return np.asarray((self.boxes[:, 2:] - self.boxes[:, :2] >= MIN_EDGE).all(axis=1))

    def take(self, chosen: np.ndarray) -> PlacedObjects:
        """Return the objects with these numbers, in this order."""
        return PlacedObjects(
            self.boxes[chosen],
            self.classes[chosen],
            [self.segmentations[number] for number in chosen],
            [self.geometries[number] for number in chosen],
        )

    def followed_by(self, others: PlacedObjects) -> PlacedObjects:
        return PlacedObjects(
            np.concatenate([self.boxes, others.boxes]),
            np.concatenate([self.classes, others.classes]),
            self.segmentations + others.segmentations,
            self.geometries + others.geometries,
        )


def place(instances: Instances, geometry: Geometry) -> PlacedObjects:
    """Map the objects of a source image to the output.

    If a crop cuts an object, its box becomes that of the visible part of the mask.
    """
    whole = geometry.boxes(instances.boxes)  # [n, 4]
    boxes = clip_boxes(whole, geometry.reach)
    if geometry.is_cropped:
        is_cut = (np.abs(whole - boxes) > 1e-3).any(axis=1)
        is_left = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        for number in np.flatnonzero(is_cut & is_left):
            segmentation = instances.segmentations[number]
            if segmentation is not None:
                visible = visible_box(segmentation, geometry)
                boxes[number] = 0 if visible is None else clip_boxes(visible, geometry.reach)
    return PlacedObjects(boxes, instances.classes, list(instances.segmentations), [geometry] * len(boxes))


def clip_boxes(boxes: np.ndarray, limits: tuple[int, int, int, int]) -> np.ndarray:
    """Clip boxes [..., 4] to one (x1, y1, x2, y2)."""
    x1, y1, x2, y2 = limits
    return np.clip(boxes, (x1, y1, x1, y1), (x2, y2, x2, y2))
