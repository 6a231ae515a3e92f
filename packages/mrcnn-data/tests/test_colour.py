"""Colour jitter: one affine map of RGB, checked by hand and against the definitions one after another."""

import numpy as np
import pytest

from mrcnn_data import Augmentation
from mrcnn_data.augmentation.colour import colour_matrix, jitter_colour

LUMA = np.array([0.299, 0.587, 0.114])
NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "turn": 0.0, "mean": 100.0}


def mapped(colour, **options):
    matrix = colour_matrix(**{**NEUTRAL, **options})
    return matrix[:, :3] @ np.asarray(colour, np.float64) + matrix[:, 3]


@pytest.mark.parametrize(
    ("options", "colour", "expected"),
    [
        ({}, [10, 20, 30], [10, 20, 30]),
        ({"brightness": 1.5}, [10, 20, 30], [15, 30, 45]),
        ({"brightness": 0.0}, [10, 20, 30], [0, 0, 0]),
        ({"contrast": 0.5}, [10, 20, 200], [55, 60, 150]),  # half way to the mean, 100
        ({"contrast": 2.0}, [90, 100, 130], [80, 100, 160]),
        ({"saturation": 0.0}, [100, 0, 0], [29.9, 29.9, 29.9]),
        ({"saturation": 2.0}, [100, 0, 0], [170.1, -29.9, -29.9]),
        ({"turn": 0.3}, [77, 77, 77], [77, 77, 77]),  # grey has no hue
        ({"brightness": 2.0, "contrast": 0.5}, [10, 20, 30], [110, 120, 130]),  # about the mean after brightness, 200
    ],
)
def test_by_hand(options, colour, expected):
    np.testing.assert_allclose(mapped(colour, **options), expected, atol=0.1)


def test_hue_keeps_luma_and_comes_round():
    rng = np.random.default_rng(0)
    for colour in rng.uniform(0, 255, (20, 3)):
        for turn in rng.uniform(-0.5, 0.5, 5):
            turned = mapped(colour, turn=turn)
            assert LUMA @ turned == pytest.approx(LUMA @ colour, abs=1e-3)
            np.testing.assert_allclose(mapped(turned, turn=-turn), colour, atol=1e-3)
        np.testing.assert_allclose(mapped(colour, turn=1.0), colour, atol=1e-3)
    red, green = mapped([255, 0, 0], turn=0.5), mapped([255, 0, 0], turn=1 / 3)
    assert np.argmax(red) != 0  # opposite of red
    assert np.argmax(green) in (1, 2)


def test_pixels_are_mapped_in_place_and_cut():
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (9, 13, 3), np.uint8)
    before = image.astype(np.float64)
    jitter_colour(image, Augmentation(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.1), np.random.default_rng(2))
    drawn = np.random.default_rng(2).uniform(-1, 1, 4)
    brightness, contrast, saturation = 1 + 0.5 * drawn[:3]
    mean = (before @ LUMA).mean()
    # One after the other, as the options are defined; hue through its matrix.
    expected = before * brightness
    expected = contrast * expected + (1 - contrast) * brightness * mean
    expected = saturation * expected + (1 - saturation) * (expected @ LUMA)[..., None]
    expected = expected @ colour_matrix(**{**NEUTRAL, "turn": 0.1 * drawn[3]})[:, :3].T
    np.testing.assert_allclose(image, np.clip(expected, 0, 255), atol=1.0)


def test_nothing_drawn_changes_nothing():
    image = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
    before = image.copy()
    assert not Augmentation().changes_colour
    jitter_colour(image, Augmentation(), np.random.default_rng(0))
    np.testing.assert_array_equal(image, before)
