"""Where a point of the source image lands in the batch image (turn, flip, scale, crop), and the way back.

Coordinates are continuous: pixel i spans [i, i+1). A flip is x' = W - x, and no map needs a half-pixel term.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


def resized_sizes(sizes: np.ndarray, *, short_edge: float | np.ndarray, max_size: float | np.ndarray) -> np.ndarray:
    """Scale (h, w), int [..., 2], so that the short edge is `short_edge` and the long one at most `max_size`: int64.

    >>> resized_sizes(np.array([[480, 640], [300, 900]]), short_edge=800, max_size=1333).tolist()
    [[800, 1067], [444, 1333]]
    """
    sizes = np.asarray(sizes, np.float64)
    scale = np.minimum(short_edge / sizes.min(axis=-1), max_size / sizes.max(axis=-1))
    return np.maximum(np.floor(sizes * scale[..., None] + 0.5).astype(np.int64), 1)


class Axes(NamedTuple):
    """A map of points: (x, y) of the source, `swapped` to (y, x) or not, times `scale`, plus `offset`."""

    swapped: bool
    scale: tuple[float, float]
    offset: tuple[float, float]


class Geometry(NamedTuple):
    """What is done to an image, in this order: transpose, flips, resize, crop. Sizes are (h, w).

    A quarter turn is a transpose and a flip. `crop_origin` (x, y) is the point of the resized image where the output
    begins; it is negative if the resized image begins inside the output. The output is cut at `output_size`.
    """

    source_size: tuple[int, int]
    transpose: bool
    flip_x: bool
    flip_y: bool
    resized_size: tuple[int, int]
    crop_origin: tuple[int, int]
    output_size: tuple[int, int]

    @property
    def is_cropped(self) -> bool:
        return self.output_size != self.resized_size or self.crop_origin != (0, 0)

    @property
    def reach(self) -> tuple[int, int, int, int]:
        """The part (x1, y1, x2, y2) of the output that the image covers; empty if x2 <= x1 or y2 <= y1."""
        (x, y), (height, width) = self.crop_origin, self.output_size
        resized_height, resized_width = self.resized_size
        return max(-x, 0), max(-y, 0), min(width, resized_width - x), min(height, resized_height - y)

    @property
    def turned_size(self) -> tuple[int, int]:
        return self.source_size[::-1] if self.transpose else self.source_size

    @property
    def axes(self) -> Axes:
        """The map of points as one multiplication and one addition."""
        turned_height, turned_width = self.turned_size
        x_scale, y_scale = self.resized_size[1] / turned_width, self.resized_size[0] / turned_height
        x_offset, y_offset = -float(self.crop_origin[0]), -float(self.crop_origin[1])
        if self.flip_x:
            x_scale, x_offset = -x_scale, x_offset + self.resized_size[1]
        if self.flip_y:
            y_scale, y_offset = -y_scale, y_offset + self.resized_size[0]
        return Axes(self.transpose, (x_scale, y_scale), (x_offset, y_offset))

    def points(self, source: np.ndarray) -> np.ndarray:
        """Map points (x, y) [..., 2] of the source image to the output, float64."""
        swapped, scale, offset = self.axes
        return np.asarray((source[..., ::-1] if swapped else source) * scale + offset, np.float64)

    def source_points(self, output: np.ndarray) -> np.ndarray:
        """Map points (x, y) [..., 2] of the output back to the source image, float64."""
        swapped, scale, offset = self.axes
        points = (output - np.array(offset)) / scale
        return points[..., ::-1] if swapped else points

    def boxes(self, source: np.ndarray) -> np.ndarray:
        """Map boxes (x1, y1, x2, y2) [..., 4], not clipped, float64.

        >>> flip = Geometry((480, 640), False, True, False, (480, 640), (0, 0), (480, 640))
        >>> flip.boxes(np.array([0, 0, 100, 100])).tolist()
        [540.0, 0.0, 640.0, 100.0]
        """
        corners = self.points(np.asarray(source, np.float64).reshape(*source.shape[:-1], 2, 2))
        return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)

    def write_image(self, source: np.ndarray, out: np.ndarray) -> None:
        """Turn, flip, resize (bilinear) and crop `source` uint8 [h, w, 3] into `out` uint8 [output h, output w, 3].

        Pixels of `out` that the image does not cover stay as they are.
        """
        image = cv2.transpose(source) if self.transpose else source
        if self.flip_x or self.flip_y:
            image = cv2.flip(image, -1 if self.flip_x and self.flip_y else int(self.flip_x))
        resized_height, resized_width = self.resized_size
        if not self.is_cropped and image.shape[:2] != self.resized_size:
            cv2.resize(image, (resized_width, resized_height), dst=out, interpolation=cv2.INTER_LINEAR)
            return
        if image.shape[:2] != self.resized_size:
            image = cv2.resize(image, (resized_width, resized_height), interpolation=cv2.INTER_LINEAR)
        x, y = self.crop_origin
        x1, y1, x2, y2 = self.reach
        out[y1:y2, x1:x2] = image[y + y1 : y + y2, x + x1 : x + x2]


def resize_only(source_size: tuple[int, int], resized_size: tuple[int, int]) -> Geometry:
    """Make the geometry of evaluation: no turn, no flip, no crop."""
    return Geometry(source_size, False, False, False, resized_size, (0, 0), resized_size)
