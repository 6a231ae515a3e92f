"""Paste objects of another image over a training image (Ghiasi et al. 2021, "Simple Copy-Paste", without blending).

Masks, boxes and pixels stay consistent: the pixels that a pasted object covers are removed from the masks below it, and
the boxes of these masks shrink to what is left. Legend: h x w the output image, n objects.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from mrcnn_data.annotations.dataset import Instances
from mrcnn_data.augmentation.placement import PlacedObjects, place
from mrcnn_data.images.geometry import Geometry
from mrcnn_data.masks.rasterising import crop_mask, mask_to_runs
from mrcnn_data.masks.segmentation import Segmentation
from mrcnn_data.masks.tracing import pixel_bounds


class Window(NamedTuple):
    """The smallest window of whole pixels of the output image that contains a box."""

    x: int
    y: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        return image[self.y : self.y + self.height, self.x : self.x + self.width]


def shifted_into(geometry: Geometry, size: tuple[int, int], rng: np.random.Generator) -> Geometry:
    """Place a resized image at random in an output image of size (h, w); if it is larger, crop it at random."""
    resized_height, resized_width = geometry.resized_size
    along_x, along_y = rng.random(2)
    origin = (_origin(resized_width - size[1], along_x), _origin(resized_height - size[0], along_y))
    return geometry._replace(crop_origin=origin, output_size=size)


def _origin(excess: int, share: float) -> int:
    return int(math.copysign(int(share * (abs(excess) + 1)), excess))


def paste_objects(
    image: np.ndarray,
    objects: PlacedObjects,
    *,
    pixels: np.ndarray,
    instances: Instances,
    geometry: Geometry,
    rng: np.random.Generator,
) -> PlacedObjects:
    """Paste a random choice of another image's objects, at least one; only objects with a mask are pasted.

    Args:
        image: uint8 [h, w, 3], changed in place.
        objects: the objects of `image`.
        pixels, instances: the other image and its objects, untransformed.
        geometry: from the other image into `image`.
    Returns:
        The visible part of `objects`, then the pasted ones. An object without a mask does not change, unless its whole
        box is covered.
    """
    candidates = place(instances, geometry)
    has_mask = np.array([segmentation is not None for segmentation in candidates.segmentations], bool)
    visible = np.flatnonzero(candidates.is_visible & has_mask)
    if not visible.size:
        return objects
    chosen = rng.choice(visible, int(rng.integers(1, visible.size + 1)), replace=False)
    pasted = candidates.take(np.sort(chosen))
    covered = np.zeros(image.shape[:2], np.uint8)  # 1 where a pasted object is
    for box, segmentation in zip(pasted.boxes, pasted.segmentations, strict=True):
        window = _window(box)
        window.of(covered)[...] |= _bitmap(segmentation, geometry, window)
    layer = np.empty_like(image)
    geometry.write_image(pixels, layer)
    cv2.copyTo(layer, covered, dst=image)
    return uncovered(objects, covered).followed_by(pasted)


def uncovered(objects: PlacedObjects, covered: np.ndarray) -> PlacedObjects:
    """Remove the pixels where `covered`, uint8 [h, w], is 1 from masks and boxes."""
    boxes = objects.boxes.copy()
    segmentations, geometries = list(objects.segmentations), list(objects.geometries)
    for number in np.flatnonzero(objects.is_visible):
        box, segmentation, window = boxes[number], segmentations[number], _window(boxes[number])
        hidden = window.of(covered)
        if not hidden.any():
            continue
        if segmentation is None:
            boxes[number] = 0 if hidden.all() else box
            continue
        whole = _bitmap(segmentation, geometries[number], window)
        left = whole & (1 - hidden)
        if not (whole & hidden).any():
            continue
        if not left.any():
            boxes[number] = 0
            continue
        boxes[number] = _shrunk(box, whole, left, window)
        segmentations[number] = mask_to_runs(left)
        size = (window.height, window.width)
        geometries[number] = Geometry(size, False, False, False, size, (-window.x, -window.y), covered.shape[:2])
    return PlacedObjects(boxes, objects.classes, segmentations, geometries)


def _window(box: np.ndarray) -> Window:
    x1, y1 = np.floor(box[:2]).astype(int).tolist()
    x2, y2 = np.ceil(box[2:]).astype(int).tolist()
    return Window(x1, y1, y2 - y1, x2 - x1)


def _bitmap(segmentation: Segmentation | None, geometry: Geometry, window: Window) -> np.ndarray:
    """Rasterise in pixels of the output: uint8 [window height, window width], 1 if at least half a pixel is covered."""
    assert segmentation is not None
    mask = np.zeros((window.height, window.width), np.uint8)
    box = np.array([window.x, window.y, window.x + window.width, window.y + window.height], np.float64)
    crop_mask(segmentation, box, geometry, mask)
    return mask


def _shrunk(box: np.ndarray, whole: np.ndarray, left: np.ndarray, window: Window) -> np.ndarray:
    """Move only those sides of the box that lost pixels; the others keep their exact position."""
    before, after = _bounds(whole, window), _bounds(left, window)
    return np.where(before == after, box, after)


def _bounds(mask: np.ndarray, window: Window) -> np.ndarray:
    return np.array(pixel_bounds(mask), np.float64) + np.array([window.x, window.y, window.x, window.y])
