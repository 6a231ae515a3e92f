"""Where the pixels of a picture lie: a mask drawn one pixel off is a wrong picture."""

from __future__ import annotations

import numpy as np
import pytest

from mrcnn_data.drawing.objects import GREY, Instance, class_color, draw_instances, picture_scale, spread, told_apart

RED = (255, 0, 0)


def changed(picture, image):
    """Box (x1, y1, x2, y2) around the pixels that differ, and the bitmap of them."""
    differs = (picture.astype(int) != image.astype(int)).any(axis=-1)
    ys, xs = np.nonzero(differs)
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), differs


@pytest.mark.parametrize("size", [(400, 500), (480, 320)])
def test_mask_covers_exactly_its_pixels_at_scale_1(size):
    image = np.full((*size, 3), 90, np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[100:150, 30:80] = 1
    mask[100:110, 30:40] = 0  # not just a rectangle
    picture = draw_instances(image, [Instance(box=None, mask=mask, label="", color=RED)])
    _, differs = changed(picture, image)
    np.testing.assert_array_equal(differs, mask.astype(bool))


@pytest.mark.parametrize(("edge", "scale"), [(16, 30), (100, 5), (160, 3), (479, 2)])
def test_mask_pixels_become_squares_where_the_image_is_enlarged(edge, scale):
    assert picture_scale(edge, edge) == scale
    image = np.full((edge, edge, 3), 90, np.uint8)
    mask = np.zeros((edge, edge), np.uint8)
    mask[7, 9] = mask[8, 9] = mask[15, 3] = 1
    picture = draw_instances(image, [Instance(box=None, mask=mask, label="", color=RED)])
    assert picture.shape == (edge * scale, edge * scale, 3)
    _, differs = changed(picture, np.full_like(picture, 90))
    np.testing.assert_array_equal(differs, np.kron(mask, np.ones((scale, scale))).astype(bool))


def test_enlarged_image_and_mask_line_up():
    # A white square on black, and its mask: half the brightest pixel marks the edge in the smooth enlargement.
    image = np.zeros((80, 80, 3), np.uint8)
    image[20:40, 50:70] = 255
    plain = draw_instances(image, [])
    (x1, y1, x2, y2), _ = changed(plain // 128, np.zeros_like(plain))
    assert (x1, y1, x2, y2) == (300, 120, 420, 240)


def test_reduced_mask_keeps_its_place():
    image = np.full((1440, 2880, 3), 90, np.uint8)  # reduced by 4
    mask = np.zeros((1440, 2880), np.uint8)
    mask[800:880, 1600:1800] = 1
    picture = draw_instances(image, [Instance(box=None, mask=mask, label="", color=RED)])
    assert picture.shape == (360, 720, 3)
    box, _ = changed(picture, np.full_like(picture, 90))
    assert box == (400, 200, 450, 220)


@pytest.mark.parametrize("edge", [500, 100])
def test_frame_runs_along_the_inside_of_the_box(edge):
    scale = int(picture_scale(edge, edge))
    image = np.full((edge, edge, 3), 90, np.uint8)
    picture = draw_instances(image, [Instance(box=(20, 60, 50, 80), mask=None, label="", color=RED)])
    box, differs = changed(picture, np.full_like(picture, 90))
    assert box == (20 * scale, 60 * scale, 50 * scale, 80 * scale)
    assert not differs[60 * scale + 1 : 80 * scale - 1, 20 * scale + 1 : 50 * scale - 1].any()
    assert (picture[60 * scale, 20 * scale : 50 * scale] == RED).all()


def test_nothing_to_draw_leaves_the_image():
    image = np.random.default_rng(0).integers(0, 256, (330, 500, 3), np.uint8)
    np.testing.assert_array_equal(draw_instances(image, []), image)


def test_box_of_the_whole_image_and_empty_mask_are_fine():
    image = np.zeros((330, 500, 3), np.uint8)
    empty = np.zeros((330, 500), np.uint8)
    instances = [
        Instance(box=(0, 0, 500, 330), mask=None, label="all of it", color=RED),
        Instance(box=None, mask=empty, label="nothing", color=RED),
        Instance(box=(5, 5, 5, 5), mask=empty, label="a very long label " * 30, color=RED),
    ]
    assert draw_instances(image, instances).shape == image.shape


def test_labels_do_not_cover_each_other():
    image = np.full((400, 400, 3), 90, np.uint8)
    below = Instance(box=(100, 100, 150, 150), mask=None, label="first", color=(0, 255, 0))
    above = Instance(box=(101, 100, 151, 150), mask=None, label="second", color=RED)
    both = draw_instances(image, [below, above])
    only = draw_instances(image, [above])
    np.testing.assert_array_equal(both[80:100], only[80:100])


def test_classes_have_different_colors():
    colors = np.array([class_color(index) for index in range(80)], int)
    distances = np.abs(colors[:, None] - colors[None]).sum(axis=-1)
    assert distances[~np.eye(80, dtype=bool)].min() > 5
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 150


def test_objects_are_told_apart_and_crowds_stay_grey():
    same = Instance(box=(0, 0, 1, 1), mask=None, label="", color=RED)
    colors = [one.color for one in told_apart([same, same._replace(color=GREY), same])]
    assert colors == [class_color(0), GREY, class_color(2)]


def test_spread():
    assert spread(list(range(10)), count=3) == [0, 4, 9]
    assert spread([1, 2], count=3) == [1, 2]
    assert spread([], count=3) == []
