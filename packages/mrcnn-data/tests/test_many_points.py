"""Polygons of very many points: bounded work, counted, and the same pixels where leaving out points changes nothing.

Work is counted in points and pixels given to the rasterisers, not in seconds.
"""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mrcnn_data.images import resize_only
from mrcnn_data.masks.rasterising import crop_mask, full_mask
from mrcnn_data.masks.segmentation import FAULTS, Polygons, RunLengths, decode_segmentation
from mrcnn_data.masks.simplifying import MANY_PARTS, MANY_POINTS, MOVES_AT_MOST, simplified

SIZE = {"height": 96, "width": 128}
MANY = "polygon part with more than 10000 points"


def decoded(*parts):
    return decode_segmentation(json.dumps([np.asarray(part).ravel().tolist() for part in parts]).encode(), **SIZE)


def subdivided(corners, pieces):
    """Put `pieces` - 1 points on every edge, exactly: `pieces` is a power of two, and corners are whole numbers."""
    corners = np.asarray(corners, np.float64)
    steps = np.arange(pieces)[None, :, None] / pieces
    edges = np.roll(corners, -1, axis=0) - corners
    return (corners[:, None] + steps * edges[:, None]).reshape(-1, 2)


def of_pycocotools(part):
    return coco_mask.decode(coco_mask.frPyObjects([np.asarray(part, float).ravel().tolist()], *SIZE.values()))[..., 0]


SHAPES = {
    "rectangle": [[10, 10], [90, 10], [90, 70], [10, 70]],
    "star": [[64, 5], [75, 40], [120, 40], [84, 60], [98, 90], [64, 72], [30, 90], [44, 60], [8, 40], [53, 40]],
    "there and back": [[10, 10], [90, 10], [40, 10], [40, 50]],
    "figure eight": [[10, 10], [90, 70], [90, 10], [10, 70]],
    "beyond the image": [[-30, -20], [200, 30], [100, 300]],
}


@pytest.mark.parametrize("name", SHAPES)
def test_points_on_straight_edges_change_no_pixel(name):
    corners = SHAPES[name]
    many = subdivided(corners, 1 << 15)
    assert len(many) > 90_000
    found = decoded(many)
    assert found.faults == (MANY,)
    assert isinstance(found.segmentation, Polygons)
    assert len(found.segmentation.parts[0]) == len(corners)
    np.testing.assert_array_equal(full_mask(found.segmentation, **SIZE), of_pycocotools(corners))


def test_it_is_counted_as_repaired():
    severity, action = FAULTS[MANY]
    assert severity == "repaired"
    assert "less than a tenth of a pixel" in action


def circle(num, *, radius=40.0):
    angles = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return np.stack([64 + radius * np.cos(angles), 48 + radius * np.sin(angles)], axis=1)


def test_few_points_stay_as_they_are():
    found = decoded(circle(MANY_POINTS))
    assert found.faults == ()
    np.testing.assert_array_equal(found.segmentation.parts[0], circle(MANY_POINTS))


@pytest.mark.parametrize("num", [100_000, 200_000])
def test_the_points_of_an_outline_are_bounded_by_its_length(num):
    (part,) = decoded(circle(num)).segmentation.parts
    assert len(part) < 2 * np.pi * 40 * 25  # 251 pixels long
    kept = cv2.fillPoly(np.zeros((960, 1280), np.uint8), [np.int32(part * 10)], 1)
    whole = cv2.fillPoly(np.zeros((960, 1280), np.uint8), [np.int32(circle(num) * 10)], 1)
    assert (kept != whole).sum() <= 2 * np.pi * 40 * 10 * MOVES_AT_MOST * 10  # a tenth of a pixel around


def test_no_point_is_far_from_the_points_that_are_kept():
    rng = np.random.default_rng(0)
    points = circle(50_000) + rng.normal(0, 0.02, (50_000, 2))
    kept = simplified(points)
    assert len(kept) < len(points)
    places = {tuple(point): place for place, point in enumerate(points.tolist())}
    order = [places[tuple(point)] for point in kept.tolist()]
    assert order == sorted(order)
    nearest = np.repeat(kept, np.diff([*order, len(points)]), axis=0)  # the one kept before each point
    away = np.hypot(*(points[order[0] :] - nearest).T)
    assert away.max() < MOVES_AT_MOST


@pytest.mark.parametrize("points", [np.full((20_000, 2), 5.0), circle(20_000, radius=1e-3)])
def test_outlines_without_length(points):
    found = decoded(points)
    assert found.segmentation is None
    assert len(simplified(points)) >= 3


def test_scribbles_are_not_rasterised(monkeypatch):
    points = np.random.default_rng(0).uniform(0, 96, (100_000, 2))

    def fail(*_):
        raise AssertionError("rasterised")

    monkeypatch.setattr("mrcnn_data.masks.segmentation.coco_mask.frPyObjects", fail)
    faults = decoded(points).faults
    assert faults[-1] == "polygon whose outline is longer than those of all pixels of its image"
    many = np.random.default_rng(0).uniform(0, 96, (500, 200, 2))  # no part alone is too long
    assert decoded(*many).faults == faults[-1:]


def test_tangles_are_kept_as_pixels(monkeypatch):
    points = np.random.default_rng(0).uniform(0, 96, (1500, 2))
    found = decoded(points)
    assert isinstance(found.segmentation, RunLengths)
    np.testing.assert_array_equal(full_mask(found.segmentation, **SIZE), of_pycocotools(points))

    def fail(*_):
        raise AssertionError("drawn")

    monkeypatch.setattr("mrcnn_data.masks.rasterising.cv2.fillPoly", fail)
    out = np.zeros((112, 112), np.uint8)
    assert crop_mask(found.segmentation, np.array([0.0, 0, 96, 96]), resize_only((96, 128), (96, 128)), out)


def test_thousands_of_parts(monkeypatch):
    corners = np.random.default_rng(0).integers(0, 90, (MANY_PARTS + 500, 1, 2))
    squares = corners + np.array([[0, 0], [3, 0], [3, 3], [0, 3]])
    merged = []
    merge = coco_mask.merge
    monkeypatch.setattr(
        "mrcnn_data.masks.segmentation.coco_mask.merge", lambda rles: merged.append(len(rles)) or merge(rles)
    )
    found = decoded(*squares)
    expected = np.zeros(tuple(SIZE.values()), np.uint8)
    for square in squares:
        expected |= of_pycocotools(square)
    np.testing.assert_array_equal(full_mask(found.segmentation, **SIZE), expected)
    assert max(merged) <= 64
    assert len(merged) < len(squares) / 30
