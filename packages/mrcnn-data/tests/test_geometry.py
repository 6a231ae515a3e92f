"""Points, boxes and pixels move by one rule."""

import itertools

import numpy as np
import pytest

from mrcnn_data.images.geometry import Geometry, resize_only

HEIGHT, WIDTH = 5, 7
DIHEDRAL = list(itertools.product([False, True], repeat=3))  # transpose, flip_x, flip_y


def geometry_of(transpose, flip_x, flip_y, *, scale=1, crop=None):
    turned = (WIDTH, HEIGHT) if transpose else (HEIGHT, WIDTH)
    resized = (turned[0] * scale, turned[1] * scale)
    x, y, height, width = crop or (0, 0, *resized)
    return Geometry((HEIGHT, WIDTH), transpose, flip_x, flip_y, resized, (x, y), (height, width))


def test_flip_of_a_box_by_hand():
    flip = Geometry((480, 640), False, True, False, (480, 640), (0, 0), (480, 640))
    np.testing.assert_array_equal(flip.boxes(np.array([[0.0, 0, 100, 100]])), [[540, 0, 640, 100]])


def test_resize_of_a_box_by_hand():
    geometry = resize_only((100, 200), (50, 100))
    np.testing.assert_array_equal(geometry.boxes(np.array([[10.0, 20, 30, 60]])), [[5, 10, 15, 30]])
    assert geometry.boxes(np.zeros((0, 4))).shape == (0, 4)


@pytest.mark.parametrize("operation", DIHEDRAL)
@pytest.mark.parametrize("crop", [None, (1, 2, 3, 3)])
def test_every_pixel_lands_where_its_centre_does(operation, crop):
    source = np.arange(HEIGHT * WIDTH * 3, dtype=np.uint8).reshape(HEIGHT, WIDTH, 3)
    geometry = geometry_of(*operation, crop=crop)
    out = np.zeros((*geometry.output_size, 3), np.uint8)
    geometry.write_image(source, out)
    seen = np.zeros(geometry.output_size, bool)
    for y, x in itertools.product(range(HEIGHT), range(WIDTH)):
        to_x, to_y = np.floor(geometry.points(np.array([x + 0.5, y + 0.5]))).astype(int)
        if 0 <= to_y < out.shape[0] and 0 <= to_x < out.shape[1]:
            np.testing.assert_array_equal(out[to_y, to_x], source[y, x])
            seen[to_y, to_x] = True
    assert seen.all()


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns_are_numpys(turns):
    from mrcnn_data.augmentation.options import Augmentation, draw_geometry

    source = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    geometry = draw_geometry(
        Augmentation(horizontal_flip=0.0),
        np.random.default_rng(0),
        source_size=(HEIGHT, WIDTH),
        turns=turns,
        short_edges=[HEIGHT],
        max_size=WIDTH,
    )
    out = np.zeros((*geometry.output_size, 3), np.uint8)
    geometry.write_image(source, out)
    np.testing.assert_array_equal(out, np.rot90(source, turns))


@pytest.mark.parametrize("operation", DIHEDRAL)
def test_back_and_forth(operation):
    geometry = geometry_of(*operation, scale=3, crop=(2, 4, 6, 5))
    points = np.random.default_rng(1).uniform(-9, 9, (20, 2))
    np.testing.assert_allclose(geometry.source_points(geometry.points(points)), points, atol=1e-12)


def test_twice_flipped_is_unchanged():
    points = np.random.default_rng(2).uniform(0, 5, (9, 2))
    flip = geometry_of(False, True, True)
    np.testing.assert_allclose(flip.points(flip.points(points)), points, atol=1e-12)


def test_resized_rows_do_not_touch_the_padding():
    image = np.full((12, 16, 3), 9, np.uint8)
    geometry = resize_only((HEIGHT, WIDTH), (10, 14))
    geometry.write_image(np.full((HEIGHT, WIDTH, 3), 100, np.uint8), image[:10, :14])
    assert (image[:10, :14] == 100).all()
    assert (image[10:] == 9).all()
    assert (image[:, 14:] == 9).all()
