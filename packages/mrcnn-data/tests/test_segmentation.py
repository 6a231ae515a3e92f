"""Polygons and run lengths as files bring them, good and bad."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mrcnn_data.masks.rasterising import full_mask
from mrcnn_data.masks.segmentation import FAULTS, Polygons, RunLengths, decode_segmentation

TRIANGLE = [10, 10, 20, 10, 20, 20]


def decode(value, height=40, width=50):
    decoded = decode_segmentation(json.dumps(value).encode(), height=height, width=width)
    assert set(decoded.faults) <= set(FAULTS)
    return decoded


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "segmentation empty"),
        (None, "segmentation missing"),
        ({}, "segmentation empty"),
        ("", "segmentation empty"),
        ("masks/1.png", "segmentation of unknown kind"),
        (3, "segmentation of unknown kind"),
        ([[]], "no polygon part is usable"),
        ([[1, 2, 3, 4]], "no polygon part is usable"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no polygon part is usable"),
        ([[None, 1, 9, 1, 9, 9]], "no polygon part is usable"),
        ([["1", "a", 9, 1, 9, 9]], "no polygon part is usable"),
        ([[[1, 2], 1, 9, 1, 9, 9]], "no polygon part is usable"),
        ([[1e9, 1, 9, 1, 9, 9]], "no polygon part is usable"),
        ([[1e300, 1, 9, 1, 9, 9]], "no polygon part is usable"),
        ([[10**400, 1, 9, 1, 9, 9]], "no polygon part is usable"),
        ([[1, 1, 5, 5, 9, 9]], "no polygon part is usable"),
        ([[3, 3, 3, 3, 3, 3]], "no polygon part is usable"),
        ([[60, 1, 70, 1, 70, 9]], "polygon lies outside the image"),
        ({"size": [50, 40], "counts": [0, 2000]}, "RLE of another size than the image"),
        ({"counts": [0, 2000]}, "RLE of another size than the image"),
        ({"size": [40, 50]}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": [0, 1999]}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": [-1, 2001]}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": [2**62, 2**62, 2**62, 2**62, 2000]}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": [2**80]}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": [0.5, 1999.5]}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": [[0], 2000]}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": ""}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": "not RLE"}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": "P"}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": "o" * 40 + "0"}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": "größe"}, "RLE that cannot be decoded"),
        ({"size": [40, 50], "counts": [2000]}, "RLE without any pixel"),
    ],
)
def test_unusable_segmentation_is_named(value, fault):
    decoded = decode(value)
    assert decoded.segmentation is None
    assert decoded.faults[-1] == fault


def test_text_that_cannot_be_decoded():
    decoded = decode_segmentation(b'"\xff"', height=4, width=4)
    assert decoded == (None, ("segmentation that cannot be decoded",))


@pytest.mark.parametrize("number", [b"1e999", b"-1.5E+400", b"1" + b"0" * 5000, b"1" + b"0" * 300 + b"e20"])
def test_numbers_beyond_float64_leave_the_other_parts(number):
    decoded = decode_segmentation(b"[[" + number + b", 1, 9, 1, 9, 9], [0, 0, 4, 0, 4, 1e0]]", height=4, width=4)
    assert decoded.faults == ("polygon part with a coordinate that is not a finite number",)
    assert len(decoded.segmentation.parts) == 1


def test_missing_field():
    assert decode_segmentation(b"", height=4, width=4).segmentation is None


@pytest.mark.parametrize("parts", [[[0, 0, 5, 5], TRIANGLE], [TRIANGLE, [0, 0, 5, 5]]])
def test_four_numbers_are_dropped_wherever_they_stand(parts):
    decoded = decode(parts)
    assert decoded.faults == ("polygon part with fewer than 6 numbers",)
    np.testing.assert_array_equal(decoded.segmentation.parts, [np.reshape(TRIANGLE, (3, 2))])


def test_flat_polygon_is_read_as_one_part():
    decoded = decode([1.0, 1.0, 9.0, 1.0, 9.0, 9.0])
    assert decoded.faults == ("flat polygon",)
    assert len(decoded.segmentation.parts) == 1


@pytest.mark.parametrize("part", [list(map(str, TRIANGLE)), [" 10", 10.0, "2e1", 10, 20, 20]])
def test_coordinates_as_text_are_numbers(part):
    decoded = decode([part])
    assert decoded.faults == ("coordinate written as text",)
    np.testing.assert_array_equal(decoded.segmentation.parts, [np.reshape(TRIANGLE, (3, 2))])


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([40, 50], [0, 100.0, 1900]),
        ([40, 50], ["0", "100", "1900"]),
        ([40.0, "50"], [0, 100, 1900]),
        (["40", 50], "0T3\\k1"),
    ],
)
def test_run_lengths_of_other_types_than_integers(size, counts):
    decoded = decode({"size": size, "counts": counts})
    assert decoded.faults == ("RLE size or counts that are not integers",)
    assert full_mask(decoded.segmentation, height=40, width=50).sum() == 100


@pytest.mark.parametrize(
    "parts",
    [
        [[5.1, 4, 5.3, 4, 5.3, 12, 5.1, 12]],  # between the centres of pixels
        [[48, -8, 70, -8, 70, 4, 69, 4, 69, -7, 48, -7]],  # only its bounding box reaches into the image
        [[4, 4, 12, 4, 12, 12, 4, 12] * 2],  # an outline drawn twice cancels out
        [[5.1, 4, 5.3, 4, 5.3, 12, 5.1, 12], [9.1, 4, 9.3, 4, 9.3, 12, 9.1, 12]],
    ],
)
def test_polygons_without_a_pixel_leave_no_mask(parts):
    assert coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 40, 50))).sum() == 0
    assert decode(parts) == (None, ("polygon without any pixel in the image",))
    assert decode([*parts, TRIANGLE]).segmentation is not None


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_a_polygon_that_is_kept_has_pixels(seed):
    rng = np.random.default_rng(seed)
    extent = rng.choice([1.0, 3.0, 10.0, 60.0], 2)
    vertices = rng.uniform(-5, 45, 2) + rng.uniform(0, 1, (int(rng.integers(3, 8)), 2)) * extent
    if seed % 3 == 0:
        vertices = np.round(vertices)
    part = vertices.ravel().tolist() * int(rng.integers(1, 3))
    decoded = decode([part])
    pixels = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([part], 40, 50))).sum()
    assert (decoded.segmentation is not None) <= (pixels > 0)


def test_figure_eight_has_no_signed_area_but_pixels():
    assert decode([[0, 0, 20, 20, 20, 0, 0, 20]]).faults == ()


def test_uncompressed_counts():
    decoded = decode({"size": [4, 4], "counts": [4, 4, 8]}, height=4, width=4)
    mask = full_mask(decoded.segmentation, height=4, width=4)
    expected = np.zeros((4, 4))
    expected[:, 1] = 1  # columns first
    np.testing.assert_array_equal(mask, expected)


@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 70), width=st.integers(1, 70))
@settings(max_examples=60, deadline=None)
def test_rle_equals_pycocotools(seed, height, width):
    rng = np.random.default_rng(seed)
    mask = (rng.random((height, width)) < rng.random()).astype(np.uint8)
    if seed % 2:
        mask[:, width // 2 :] = 0  # long runs: counts of several characters
    mask[0, 0] = 1
    counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
    decoded = decode({"size": [height, width], "counts": counts}, height=height, width=width)
    assert isinstance(decoded.segmentation, RunLengths)
    np.testing.assert_array_equal(full_mask(decoded.segmentation, height=height, width=width), mask)


@given(text=st.text(alphabet=st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_count_string_is_refused_or_fills_the_image(text):
    decoded = decode({"size": [6, 5], "counts": text}, height=6, width=5)
    if decoded.segmentation is not None:
        assert full_mask(decoded.segmentation, height=6, width=5).shape == (6, 5)


def test_polygon_and_rle_of_one_mask_agree():
    polygon = decode([TRIANGLE, [30, 5, 45, 5, 45, 35, 30, 35]])
    assert isinstance(polygon.segmentation, Polygons)
    mask = full_mask(polygon.segmentation, height=40, width=50)
    encoded = coco_mask.encode(np.asfortranarray(mask))
    rle = decode({"size": [40, 50], "counts": encoded["counts"].decode()})
    np.testing.assert_array_equal(full_mask(rle.segmentation, height=40, width=50), mask)


def test_polygon_over_the_border_keeps_its_shape():
    mask = full_mask(decode([[-5, -5, 20, -5, 20, 20, -5, 20]]).segmentation, height=40, width=50)
    assert mask.sum() == 400
