"""Segmentations to bitmaps: full-size for pictures and scoring, box-cropped for training; their boxes and areas.

Legend: M edge of a box-cropped mask, V vertices of one polygon part.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_data.images.geometry import Axes, Geometry
from mrcnn_data.masks.segmentation import MAX_IMAGE_SIZES_AWAY, Polygons, RunLengths, Segmentation, polygon_rle, to_coco

MASK_SIZE = 112  # M: four times the 28 of the mask head, so that a jittered RoI still finds detail

# Box-cropped masks are sampled 2 x 2 per cell: with 4 x 4 the area is off by 0.1 % instead of 0.6 %, and fillPoly
# takes 160 us instead of 30.
_SUPERSAMPLING = 2
_SHIFT = 6  # fillPoly's fractional bits: vertices exact to 1/64 of a sample
_HAIR = 1e-6  # pixels; far above float64's error at coordinates of ten images
_MAX_COORDINATE = 2**30  # in fillPoly's units: keeps int32; polygons are at most 10 images large


def full_mask(segmentation: Segmentation, *, height: int, width: int) -> np.ndarray:
    """Rasterise an instance over its whole image as pycocotools does: uint8 [height, width] of 0 and 1."""
    if isinstance(segmentation, RunLengths):
        return _runs_to_mask(segmentation)
    return np.asarray(coco_mask.decode(polygon_rle(segmentation, height=height, width=width)))


def compressed_rle(segmentation: Segmentation, *, height: int, width: int) -> dict[str, Any]:
    """Encode an instance as COCO's compressed RLE, of the pixels of `full_mask`; `counts` is a str."""
    if isinstance(segmentation, RunLengths):
        rle = coco_mask.frPyObjects(to_coco(segmentation), height, width)
    else:
        rle = polygon_rle(segmentation, height=height, width=width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _runs_to_mask(runs: RunLengths) -> np.ndarray:
    values = np.arange(runs.counts.size, dtype=np.int64).astype(np.uint8) & 1
    return np.repeat(values, runs.counts).reshape(runs.width, runs.height).T


def mask_to_runs(mask: np.ndarray) -> RunLengths:
    """Encode a bitmap uint8 [h, w] of 0 and 1, as `_runs_to_mask` decodes it."""
    height, width = mask.shape
    pixels = mask.ravel(order="F")
    borders = np.flatnonzero(np.diff(pixels, prepend=0))  # where a run begins that is not the first
    return RunLengths(height, width, np.diff(borders, prepend=0, append=pixels.size))


def crop_mask(segmentation: Segmentation, box: np.ndarray, geometry: Geometry, out: np.ndarray) -> bool:
    """Rasterise the part of an instance that lies in `box`, the box stretched to the h x w cells of `out`.

    Args:
        segmentation: in the source image.
        box: float [4], pixels of the output image, of positive size.
        geometry: source image to output image.
        out: uint8 [h, w], for a batch [M, M], set to 0 or 1; a cell is 1 where at least half of it is covered.
    Returns:
        Whether any cell is 1.
    """
    if isinstance(segmentation, Polygons):
        _crop_polygons(segmentation, box, geometry, out)
    else:
        _crop_run_lengths(segmentation, box, geometry, out)
    return cv2.countNonZero(out) > 0


def _crop_polygons(polygons: Polygons, box: np.ndarray, geometry: Geometry, out: np.ndarray) -> None:
    height, width = out.shape[0] * _SUPERSAMPLING, out.shape[1] * _SUPERSAMPLING
    swapped, scale, offset = _to_fixed_point(geometry, box, height=height, width=width)
    farthest = MAX_IMAGE_SIZES_AWAY * max(geometry.source_size)
    is_far = max(map(abs, scale)) * farthest + max(map(abs, offset)) > _MAX_COORDINATE
    for number, part in enumerate(polygons.parts):  # one by one: their union; a single call would cancel overlaps
        vertices = (part[:, ::-1] if swapped else part) * scale + offset
        if is_far:
            vertices = np.clip(vertices, -_MAX_COORDINATE, _MAX_COORDINATE)
        contour = [np.rint(vertices).astype(np.int32)]
        samples = np.zeros((height, width), np.uint8)
        # fillPoly also fills the samples its outline passes through, which are half inside on average: count them half.
        cv2.fillPoly(samples, contour, 120, shift=_SHIFT)
        cv2.polylines(samples, contour, True, 60, shift=_SHIFT)
        coverage = cv2.resize(samples, out.shape[::-1], interpolation=cv2.INTER_AREA)
        if number == 0:
            cv2.threshold(coverage, 59, 1, cv2.THRESH_BINARY, dst=out)
        else:
            out |= coverage >= 60


def _to_fixed_point(geometry: Geometry, box: np.ndarray, *, height: int, width: int) -> Axes:
    """From the source image to fillPoly's units, of the grid of samples (integers are sample centres) over a box."""
    x1, y1, x2, y2 = box.tolist()
    x_scale, y_scale = width / (x2 - x1), height / (y2 - y1)  # samples per output pixel
    swapped, scale, offset = geometry.axes
    unit = 1 << _SHIFT
    return Axes(
        swapped,
        (scale[0] * x_scale * unit, scale[1] * y_scale * unit),
        (((offset[0] - x1) * x_scale - 0.5) * unit, ((offset[1] - y1) * y_scale - 0.5) * unit),
    )


def _crop_run_lengths(runs: RunLengths, box: np.ndarray, geometry: Geometry, out: np.ndarray) -> None:
    height, width = out.shape[0] * _SUPERSAMPLING, out.shape[1] * _SUPERSAMPLING
    edge = max(height, width)
    steps = np.stack([(np.arange(edge) + 0.5) / width, (np.arange(edge) + 0.5) / height], axis=1)
    centres = box[:2] + steps * (box[2:] - box[:2])  # [edge, 2] along x and along y, output pixels
    # The map keeps axes apart, so source columns and rows of the sampling grid are two vectors.
    source = np.floor(geometry.source_points(centres)).astype(np.int64)
    # Output x runs along source columns, or along source rows where the axes are swapped.
    along_columns, along_rows = (height, width) if geometry.transpose else (width, height)
    columns, rows = source[:along_columns, 0], source[:along_rows, 1]
    mask = np.pad(_runs_to_mask(runs), 1)  # what lies outside is 0
    samples = mask[:, np.clip(columns + 1, 0, runs.width + 1)][np.clip(rows + 1, 0, runs.height + 1)]
    if geometry.transpose:
        samples = samples.T  # [height, width]
    cells = samples.reshape(out.shape[0], _SUPERSAMPLING, out.shape[1], _SUPERSAMPLING).sum(axis=(1, 3))
    out[...] = cells * 2 >= _SUPERSAMPLING**2


def paste_masks(masks: np.ndarray, boxes: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Undo the cropping of a batch's masks, for libraries that want bitmaps of the whole image, and for pictures.

    Args:
        masks: uint8 [n, M, M], each filling its box.
        boxes: float32 [n, 4], pixels of an image of this height and width.
    Returns:
        uint8 [n, height, width]; a pixel has the value of the cell that its centre lies in, 0 outside the box.
    """
    out = np.zeros((len(masks), height, width), np.uint8)
    for whole, mask, (x1, y1, x2, y2) in zip(out, masks, boxes.astype(np.float64).tolist(), strict=True):
        columns, xs = _cells(x1, x2, limit=width, num_cells=mask.shape[1])
        rows, ys = _cells(y1, y2, limit=height, num_cells=mask.shape[0])
        whole[ys, xs] = mask[rows[:, None], columns]
    return out


def _cells(low: float, high: float, *, limit: int, num_cells: int) -> tuple[np.ndarray, slice]:
    """Return the pixels whose centres lie between `low` and `high`, as a slice, and the cell of each."""
    first, end = max(math.ceil(low - 0.5), 0), min(math.ceil(high - 0.5), limit)
    if end <= first:
        return np.zeros(0, np.int64), slice(0, 0)
    centres = np.arange(first, end) + 0.5
    cells = np.floor((centres - low) * (num_cells / (high - low))).astype(np.int64)
    return np.minimum(cells, num_cells - 1), slice(first, end)


def visible_box(segmentation: Segmentation, geometry: Geometry) -> np.ndarray | None:
    """Find the bounding box of the part of an instance that the crop leaves.

    Returns:
        float64 [4], pixels of the output image, or None where nothing is left.
    """
    if isinstance(segmentation, RunLengths):
        return _visible_box_of_runs(segmentation, geometry)
    height, width = geometry.output_size
    boxes = [_visible_box_of_part(geometry.points(part), height=height, width=width) for part in segmentation.parts]
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    stacked = np.stack(found)
    return np.concatenate([stacked[:, :2].min(axis=0), stacked[:, 2:].max(axis=0)])


def segmentation_box(segmentation: Segmentation, *, height: int, width: int) -> np.ndarray | None:
    """Find the bounding box of an instance inside its image: float64 [4], source pixels, or None."""
    if isinstance(segmentation, Polygons):
        vertices = segmentation.parts[0] if len(segmentation.parts) == 1 else np.concatenate(segmentation.parts)
        x1, y1 = np.minimum.reduce(vertices).tolist()
        x2, y2 = np.maximum.reduce(vertices).tolist()
        if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:  # the usual case, in half the time
            return np.array([x1, y1, x2, y2])
    size = (height, width)
    return visible_box(segmentation, Geometry(size, False, False, False, size, (0, 0), size))


def segmentation_area(segmentation: Segmentation) -> float:
    """Add up the pixels of run lengths, or the areas of polygon parts, with overlaps and parts outside the image."""
    if isinstance(segmentation, RunLengths):
        return float(segmentation.counts[1::2].sum())
    return sum(map(_polygon_area, segmentation.parts))


def pixel_area(segmentation: Segmentation, *, height: int, width: int) -> int:
    """Count the pixels of an instance inside its image, those of `full_mask`."""
    return int(coco_mask.area(compressed_rle(segmentation, height=height, width=width)))


def _polygon_area(part: np.ndarray) -> float:
    x, y = (part - part[0]).T  # relative to the first vertex, which is 0 now: its two products are gone
    return abs(float(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1]))) / 2


def _visible_box_of_part(vertices: np.ndarray, *, height: int, width: int) -> np.ndarray | None:
    """Find the bounding box of the part of a polygon inside the rectangle of an output image, None without such a part.

    It holds the ends of the edges, cut to the rectangle, and the corners of the rectangle that lie in the polygon.
    """
    limits = np.array([width, height], np.float64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    if (low >= 0).all() and (high <= limits).all():
        return np.concatenate([low, high])
    first, last = np.full(2, _HAIR), limits - _HAIR  # an edge that only touches the rectangle from outside is not in it
    starts, ends = vertices, np.roll(vertices, -1, axis=0)  # [V, 2]
    direction = ends - starts
    with np.errstate(divide="ignore", invalid="ignore"):
        at_low, at_high = (first - starts) / direction, (last - starts) / direction  # [V, 2] where the edge crosses
    parallel = direction == 0
    within = (starts >= first) & (starts <= last)
    enter = np.where(parallel, np.where(within, -np.inf, np.inf), np.minimum(at_low, at_high)).max(axis=1)
    leave = np.where(parallel, np.where(within, np.inf, -np.inf), np.maximum(at_low, at_high)).min(axis=1)
    enter, leave = np.clip(enter, 0, None), np.clip(leave, None, 1)
    cut = enter <= leave
    points = [
        starts[cut] + enter[cut, None] * direction[cut],
        starts[cut] + leave[cut, None] * direction[cut],
    ]
    corners = np.array([first, [last[0], first[1]], [first[0], last[1]], last])
    points.append(corners[_inside(vertices, corners)])
    kept = np.concatenate(points)
    if not len(kept):
        return None
    kept = np.where(kept <= 2 * _HAIR, 0, np.where(kept >= limits - 2 * _HAIR, limits, kept))
    return np.concatenate([kept.min(axis=0), kept.max(axis=0)])


def _inside(vertices: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which points lie in a polygon, by the even-odd rule: bool [number of points]."""
    x1, y1 = vertices.T[:, :, None]  # [V, 1]
    x2, y2 = np.roll(vertices, -1, axis=0).T[:, :, None]
    x, y = points.T[:, None, :]  # [1, points]
    crosses = (y1 > y) != (y2 > y)
    at = x1 + (y - y1) / np.where(crosses, y2 - y1, 1.0) * (x2 - x1)
    return np.asarray((crosses & (x < at)).sum(axis=0) % 2 == 1)


def _visible_box_of_runs(runs: RunLengths, geometry: Geometry) -> np.ndarray | None:
    height, width = geometry.output_size
    window = geometry.source_points(np.array([[0.0, 0.0], [width, height]]))
    window = np.concatenate([window.min(axis=0), window.max(axis=0)])
    limits = np.array([runs.width, runs.height, runs.width, runs.height], np.float64)
    x1, y1, x2, y2 = np.clip(window, 0, limits)
    # The 1e-6 is for rounding errors: a window edge that should fall on a pixel border must not include the next pixel.
    first_x, first_y = int(np.floor(x1 + 1e-6)), int(np.floor(y1 + 1e-6))
    last_x, last_y = int(np.ceil(x2 - 1e-6)), int(np.ceil(y2 - 1e-6))
    mask = _runs_to_mask(runs)[first_y:last_y, first_x:last_x]
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not columns.size:
        return None
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)
    box += [first_x, first_y, first_x, first_y]
    box = np.concatenate([np.maximum(box[:2], [x1, y1]), np.minimum(box[2:], [x2, y2])])
    return np.asarray(np.clip(geometry.boxes(box), 0, [width, height, width, height]))
