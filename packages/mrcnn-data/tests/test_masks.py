"""Box-cropped masks against exact coverage, and boxes of what a crop leaves."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mrcnn_data import CocoDataset, instance_masks, paste_masks
from mrcnn_data.images.geometry import Geometry, resize_only
from mrcnn_data.masks.rasterising import MASK_SIZE, crop_mask, visible_box
from mrcnn_data.masks.segmentation import Polygons, RunLengths, decode_segmentation

HEIGHT, WIDTH = 60, 80
SAME = resize_only((HEIGHT, WIDTH), (HEIGHT, WIDTH))


def polygons(*parts):
    return Polygons(tuple(np.reshape(part, (-1, 2)).astype(np.float64) for part in parts))


def runs_of(mask):
    counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    value = {"size": list(mask.shape), "counts": counts}
    return decode_segmentation(json.dumps(value).encode(), height=mask.shape[0], width=mask.shape[1]).segmentation


def cropped(segmentation, box, geometry=SAME, size=MASK_SIZE):
    out = np.full((size, size), 7, np.uint8)
    found = crop_mask(segmentation, np.asarray(box, np.float32), geometry, out)
    assert found == bool(out.any())
    assert set(np.unique(out)) <= {0, 1}
    return out


def inside(parts, x, y):
    """The even-odd rule for each part, their union: the oracle."""
    hit = np.zeros(np.broadcast(x, y).shape, bool)
    for part in parts:
        parity = np.zeros_like(hit)
        for (x1, y1), (x2, y2) in zip(part, np.roll(part, -1, axis=0), strict=True):
            crosses = (y1 > y) != (y2 > y)
            parity ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / np.where(crosses, y2 - y1, 1))
        hit |= parity
    return hit


def exact_coverage(segmentation, box, size, samples=8):
    """Share of each cell of `box` that is covered, by samples x samples points a cell. Untransformed images only."""
    steps = (np.arange(size * samples) + 0.5) / (size * samples)
    x, y = box[0] + steps * (box[2] - box[0]), box[1] + steps * (box[3] - box[1])
    if isinstance(segmentation, RunLengths):
        bits = np.repeat(np.arange(segmentation.counts.size) % 2, segmentation.counts)
        bits = bits.reshape(segmentation.width, segmentation.height).T
        columns, rows = np.floor(x).astype(int), np.floor(y).astype(int)
        hit = np.zeros((len(y), len(x)))
        ok_x, ok_y = (columns >= 0) & (columns < bits.shape[1]), (rows >= 0) & (rows < bits.shape[0])
        hit[np.ix_(ok_y, ok_x)] = bits[np.ix_(rows[ok_y], columns[ok_x])]
    else:
        hit = inside(segmentation.parts, x[None, :], y[:, None])
    return hit.reshape(size, samples, size, samples).mean(axis=(1, 3))


def test_full_box_is_all_ones():
    square = polygons([10, 10, 30, 10, 30, 30, 10, 30])
    assert cropped(square, [10, 10, 30, 30]).all()


def test_half_box_by_hand():
    square = polygons([10, 10, 30, 10, 30, 30, 10, 30])
    mask = cropped(square, [20, 10, 40, 30])
    assert mask[:, :56].all()
    assert not mask[:, 57:].any()  # column 56 is where the border runs


def test_overlapping_parts_are_a_union():
    mask = cropped(polygons([0, 0, 20, 0, 20, 20, 0, 20], [10, 0, 30, 0, 30, 20, 10, 20]), [0, 0, 30, 20])
    assert mask.all()


def test_mask_outside_its_box_is_no_mask():
    assert not cropped(polygons([40, 40, 50, 40, 50, 50, 40, 50]), [0, 0, 20, 20]).any()


def test_vertices_far_away():
    far = polygons([-800, -600, 800, -600, 800, 600, -800, 600])
    assert cropped(far, [0, 0, 1, 1]).all()
    assert cropped(far, [0, 0, WIDTH, HEIGHT]).all()


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_rle_crop_is_exact_for_boxes_on_pixel_borders(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((HEIGHT, WIDTH)) < 0.5
    x, y = rng.integers(0, WIDTH - 28), rng.integers(0, HEIGHT - 28)
    scale = int(rng.choice([1, 2, 4, 7]))
    edge = 28 // scale
    got = cropped(runs_of(mask), [x, y, x + edge, y + edge], size=28)
    np.testing.assert_array_equal(got, mask[y : y + edge, x : x + edge].repeat(scale, 0).repeat(scale, 1))


@given(seed=st.integers(0, 10**6), num_vertices=st.integers(3, 30))
@settings(max_examples=40, deadline=None)
def test_polygon_crop_against_exact_coverage(seed, num_vertices):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, num_vertices))
    radius = rng.uniform(0.5, 1.0, num_vertices) * rng.uniform(3, 25)
    part = np.array([40.3, 30.7]) + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
    box = np.concatenate([part.min(0), part.max(0)]).astype(np.float32)
    if (box[2:] - box[:2] < 2).any():
        return
    got = cropped(Polygons((part,)), box)
    exact = exact_coverage(Polygons((part,)), box, MASK_SIZE, samples=4)
    # One cell along the border is the resolution; beyond it nothing may differ.
    wrong = (got == 1) != (exact >= 0.5)
    assert not (wrong & ((exact == 0) | (exact == 1)) & _one_away_is_pure(exact)).any()
    assert wrong.mean() < 0.02


def _one_away_is_pure(exact):
    padded = np.pad(exact, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_visible_box_against_brute_force(seed):
    rng = np.random.default_rng(seed)
    part = rng.uniform(-30, 110, (int(rng.integers(3, 9)), 2))
    box = visible_box(Polygons((part,)), SAME)
    x, y = np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5
    hit = inside([part], x[None, :], y[:, None])
    if box is None:
        assert not hit.any()
        return
    # It holds every pixel centre that is inside ...
    outside = (x < box[0]) | (x > box[2]) | ((y < box[1]) | (y > box[3]))[:, None]
    assert not (hit & outside).any()
    # ... and polygon and image meet just within each of its four sides.
    assert _meets_line(part, box[0] + 1e-7, axis=0, limit=HEIGHT)
    assert _meets_line(part, box[2] - 1e-7, axis=0, limit=HEIGHT)
    assert _meets_line(part, box[1] + 1e-7, axis=1, limit=WIDTH)
    assert _meets_line(part, box[3] - 1e-7, axis=1, limit=WIDTH)


def _meets_line(part, at, *, axis, limit):
    """Whether the line of constant x (axis 0) or y (axis 1) meets the polygon between 0 and `limit`."""
    starts, ends = part, np.roll(part, -1, axis=0)
    crosses = (starts[:, axis] > at) != (ends[:, axis] > at)
    share = (at - starts[crosses, axis]) / (ends - starts)[crosses, axis]
    crossings = np.sort(starts[crosses, 1 - axis] + share * (ends - starts)[crosses, 1 - axis]).reshape(-1, 2)
    return bool(((crossings[:, 0] < limit + 1e-3) & (crossings[:, 1] > -1e-3)).any())


def test_visible_box_skips_the_corner_an_outline_only_goes_around():
    # A bracket around the top left corner: only its two ends reach into the image.
    bracket = polygons(
        [10, 30, 10, 35, -10, 35, -10, -10, 90, -10, 90, 35, 70, 35, 70, 30, 85, 30, 85, -5, -5, -5, -5, 30]
    )
    np.testing.assert_allclose(visible_box(bracket, SAME), [0, 30, WIDTH, 35])


def test_visible_box_of_a_crop_inside_an_object():
    inner = Geometry((HEIGHT, WIDTH), False, False, False, (HEIGHT, WIDTH), (20, 20), (10, 12))
    everything = polygons([0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT])
    np.testing.assert_allclose(visible_box(everything, inner), [0, 0, 12, 10])
    np.testing.assert_allclose(visible_box(runs_of(np.ones((HEIGHT, WIDTH))), inner), [0, 0, 12, 10])
    assert visible_box(polygons([60, 50, 70, 50, 70, 58]), inner) is None


def test_visible_box_without_what_only_touches_the_crop():
    """An L whose upright leg ends where the crop begins: only its foot reaches in."""
    foot = polygons([10, 10, 20, 10, 20, 30, 40, 30, 40, 40, 10, 40])
    crop = Geometry((HEIGHT, WIDTH), False, False, False, (HEIGHT, WIDTH), (20, 5), (50, 50))
    np.testing.assert_allclose(visible_box(foot, crop), [0, 25, 20, 35])


def test_visible_box_of_runs_by_hand():
    mask = np.zeros((HEIGHT, WIDTH))
    mask[10:20, 30:35] = 1
    mask[50, 70] = 1
    crop = Geometry((HEIGHT, WIDTH), False, True, False, (HEIGHT, WIDTH), (40, 5), (30, 40))
    # Flipped, columns 30..34 are 45..49; the crop starts at 40 and ends above row 50.
    np.testing.assert_allclose(visible_box(runs_of(mask), crop), [5, 5, 10, 15])


def test_masks_over_the_whole_image_equal_pycocotools(shared_data):
    from pycocotools.coco import COCO

    dataset = CocoDataset.from_root(shared_data / "coco_open", "val")
    reference = COCO(str(dataset.annotation_path))
    for index in range(0, len(dataset), 5):
        ids = dataset.instances(index).annotation_ids
        masks = instance_masks(dataset, index)
        assert len(masks) == len(ids)
        for annotation_id, mask in zip(ids, masks, strict=True):
            np.testing.assert_array_equal(mask, reference.annToMask(reference.anns[annotation_id]))


@pytest.mark.parametrize(("name", "file"), [("coco_open", "val"), ("nuclei", "val"), ("nuclei", "val_rle")])
def test_mask_targets_from_crops_keep_the_detail(shared_data, name, file):
    """28 x 28 targets of jittered RoIs: bilinear samples of the 112 crop against exact coverage, IoU >= 0.98."""
    root = shared_data / name
    dataset = CocoDataset.open(root / "annotations" / f"instances_{file}.json", root / file.removesuffix("_rle"))
    rng = np.random.default_rng(0)
    ious = []
    for index in range(len(dataset)):
        instances = dataset.instances(index)
        size = tuple(map(int, dataset.image_sizes[index]))
        for number in rng.permutation(len(instances.boxes))[:4]:
            box, segmentation = instances.boxes[number].astype(np.float64), instances.segmentations[number]
            if segmentation is None:
                continue
            crop = np.zeros((MASK_SIZE, MASK_SIZE), np.uint8)
            crop_mask(segmentation, box, resize_only(size, size), crop)
            extent = np.tile(box[2:] - box[:2], 2)
            roi = box + rng.uniform(-0.15, 0.15, 4) * extent
            got = _target_from_crop(crop, box, roi) >= 0.5
            exact = exact_coverage(segmentation, roi, 28) >= 0.5
            if exact.any():
                ious.append((got & exact).sum() / (got | exact).sum())
    assert len(ious) > 70
    assert np.mean(ious) >= 0.98


def _target_from_crop(crop, box, roi, samples=2):
    """Average of samples x samples bilinear samples a cell, zero outside the box."""
    steps = (np.arange(28 * samples) + 0.5) / (28 * samples)
    scale = MASK_SIZE / (box[2:] - box[:2])
    x = (roi[0] + steps * (roi[2] - roi[0]) - box[0]) * scale[0] - 0.5
    y = (roi[1] + steps * (roi[3] - roi[1]) - box[1]) * scale[1] - 0.5
    values = _along(np.pad(crop, 1).astype(np.float64), y + 1, axis=0)
    values = _along(values, x + 1, axis=1)
    return values.reshape(28, samples, 28, samples).mean(axis=(1, 3))


def _along(values, at, axis):
    at = np.clip(at, 0, values.shape[axis] - 1)
    low = np.minimum(np.floor(at).astype(int), values.shape[axis] - 2)
    share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share


def test_pasted_masks_by_hand():
    mask = np.zeros((MASK_SIZE, MASK_SIZE), np.uint8)
    mask[:56, :56] = 1  # the upper left quarter of the box
    boxes = np.array([[2, 1, 6, 5], [-2, -2, 2, 2], [0.6, 0, 0.9, 4], [7, 0, 12, 3]], np.float32)
    whole = paste_masks(np.stack([mask] * 4), boxes, height=6, width=8)
    expected = np.zeros((4, 6, 8), np.uint8)
    expected[0, 1:3, 2:4] = 1
    # The second shows its lower right quarter only, the third holds no pixel's centre in x.
    expected[3, 0:1, 7] = 1
    np.testing.assert_array_equal(whole, expected)
    assert paste_masks(np.zeros((0, 4, 4), np.uint8), np.zeros((0, 4)), height=3, width=2).shape == (0, 3, 2)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_cropping_and_pasting_gives_the_bitmap_back(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    x, y = rng.integers(0, WIDTH - 28), rng.integers(0, HEIGHT - 28)
    width, height = rng.integers(1, 29, 2)
    mask[y : y + height, x : x + width] = rng.random((height, width)) < 0.6
    box = np.array([x, y, x + width, y + height], np.float32)
    if not mask.any():
        return
    crop = cropped(runs_of(mask), box)
    np.testing.assert_array_equal(paste_masks(crop[None], box[None], height=HEIGHT, width=WIDTH)[0], mask)
