"""Bitmaps to segmentations and back, to the pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mrcnn_data.masks.tracing import encode_compressed, encode_uncompressed, has_hole, trace_polygons


def bitmap(text):
    return np.array([[character == "#" for character in line] for line in text.split()])


def test_a_pixel_and_an_l_by_hand():
    assert trace_polygons(bitmap("... .#. ...")) == [[2, 1, 2, 2, 1, 2, 1, 1]]
    (polygon,) = trace_polygons(bitmap("#. ##"))
    corners = np.reshape(polygon, (-1, 2)).tolist()
    assert sorted(corners) == [[0, 0], [0, 2], [1, 0], [1, 1], [2, 1], [2, 2]]


def test_a_border_that_touches_itself_is_one_polygon():
    mask = bitmap("####. .#.## ..### .....")
    assert not has_hole(mask)
    for turns in range(4):
        assert len(trace_polygons(np.rot90(mask, turns))) == 1


def test_pixels_that_touch_at_a_corner_are_two_parts():
    assert len(trace_polygons(bitmap("#. .#"))) == 2


def test_empty_mask():
    assert trace_polygons(np.zeros((3, 4), bool)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("### #.# ###", True), ("### #.# #.#", False), ("##. #.# .##", False), ("#", False), (".... .##. .##.", False)],
)
def test_holes(text, expected):
    assert has_hole(bitmap(text)) is expected


@given(seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_all_encodings_rasterise_to_the_same_pixels(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(2, 24, 2)
    mask = rng.random((height, width)) < rng.uniform(0.1, 0.9)
    compressed, uncompressed = encode_compressed(mask), encode_uncompressed(mask)
    np.testing.assert_array_equal(coco_mask.decode(compressed), mask)
    np.testing.assert_array_equal(coco_mask.decode(coco_mask.frPyObjects(uncompressed, height, width)), mask)
    if mask.any() and not has_hole(mask):
        rles = coco_mask.frPyObjects(trace_polygons(mask), int(height), int(width))
        np.testing.assert_array_equal(coco_mask.decode(coco_mask.merge(rles)), mask)
