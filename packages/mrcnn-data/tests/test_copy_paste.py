"""Pasted objects: pixels, masks and boxes of what is above and of what is below."""

import itertools
import json

import cv2
import numpy as np
import pytest

from mrcnn_data import MASK_SIZE, Augmentation, CocoDataset, TrainLoader, default_buckets
from mrcnn_data.annotations.dataset import Instances
from mrcnn_data.augmentation.copy_paste import paste_objects, shifted_into
from mrcnn_data.augmentation.placement import place
from mrcnn_data.images.geometry import Geometry, resize_only
from mrcnn_data.masks.segmentation import Polygons, decode_segmentation

SIZE = (40, 60)
SAME = resize_only(SIZE, SIZE)


def rectangle(x1, y1, x2, y2):
    return Polygons((np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64),))


def instances_of(*boxes, masks=True):
    return Instances(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.arange(1, len(boxes) + 1, dtype=np.int32),
        segmentations=[rectangle(*box) if masks else None for box in boxes],
        annotation_ids=list(range(len(boxes))),
        crowd_boxes=np.zeros((0, 4), np.float32),
    )


def pasted(below, above, geometry=SAME, seed=0):
    image = np.full((*SIZE, 3), 10, np.uint8)
    pixels = np.full((*geometry.source_size, 3), 200, np.uint8)
    objects = place(below, SAME)
    result = paste_objects(
        image, objects, pixels=pixels, instances=above, geometry=geometry, rng=np.random.default_rng(seed)
    )
    return image, result


def mask_of(objects, number):
    from mrcnn_data.masks.rasterising import crop_mask

    out = np.zeros(SIZE, np.uint8)
    crop_mask(objects.segmentations[number], np.array([0, 0, SIZE[1], SIZE[0]], float), objects.geometries[number], out)
    return out


def drawn(*boxes):
    mask = np.zeros(SIZE, np.uint8)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = 1
    return mask


def test_partly_covered_by_hand():
    image, objects = pasted(instances_of([10, 10, 30, 20]), instances_of([20, 5, 40, 30]))
    np.testing.assert_array_equal(image[..., 0], np.where(drawn([20, 5, 40, 30]), 200, 10))
    np.testing.assert_array_equal(objects.boxes, [[10, 10, 20, 20], [20, 5, 40, 30]])
    assert objects.classes.tolist() == [1, 1]
    np.testing.assert_array_equal(mask_of(objects, 0), drawn([10, 10, 20, 20]))
    np.testing.assert_array_equal(mask_of(objects, 1), drawn([20, 5, 40, 30]))


def test_hole_keeps_the_box():
    _, objects = pasted(instances_of([10, 10, 30, 25]), instances_of([15, 15, 20, 20]))
    np.testing.assert_array_equal(objects.boxes[0], [10, 10, 30, 25])
    np.testing.assert_array_equal(mask_of(objects, 0), drawn([10, 10, 30, 25]) - drawn([15, 15, 20, 20]))


def test_wholly_covered_is_gone_and_others_are_untouched():
    below = instances_of([10, 10, 20, 20], [50, 30, 60, 40])
    _, objects = pasted(below, instances_of([5, 5, 25, 25]))
    assert objects.is_visible.tolist() == [False, True, True]
    assert objects.segmentations[1] is below.segmentations[1]


def test_sides_that_lose_nothing_keep_their_fraction():
    _, objects = pasted(instances_of([10.3, 10.4, 30, 20]), instances_of([20, 5, 40, 30]))
    np.testing.assert_allclose(objects.boxes[0], [10.3, 10.4, 20, 20], atol=1e-5)


def test_box_only_objects():
    below = instances_of([10, 10, 20, 20], [40, 10, 50, 20], masks=False)
    _, objects = pasted(below, instances_of([0, 0, 45, 30]))
    assert objects.is_visible.tolist() == [False, True, True]
    np.testing.assert_array_equal(objects.boxes[1], [40, 10, 50, 20])
    image, unchanged = pasted(below, instances_of([0, 0, 45, 30], masks=False))  # nothing to paste
    assert len(unchanged.boxes) == 2
    assert (image == 10).all()


def test_nothing_is_pasted_from_where_the_other_image_is_not():
    """A small image at an offset, with a polygon that sticks out of it."""
    geometry = Geometry((20, 20), False, False, False, (20, 20), (-30, -10), SIZE)
    above = instances_of([-5, 5, 40, 10])
    image, objects = pasted(instances_of(), above, geometry)
    np.testing.assert_array_equal(image[..., 0], np.where(drawn([30, 15, 50, 20]), 200, 10))
    np.testing.assert_array_equal(objects.boxes, [[30, 15, 50, 20]])


@pytest.mark.parametrize("seed", range(20))
def test_a_random_place_holds_the_image_or_is_filled_by_it(seed):
    rng = np.random.default_rng(seed)
    resized = tuple(int(edge) for edge in rng.integers(10, 90, 2))
    x1, y1, x2, y2 = shifted_into(resize_only((20, 30), resized), SIZE, rng).reach
    assert (y2 - y1, x2 - x1) == (min(SIZE[0], resized[0]), min(SIZE[1], resized[1]))
    assert x1 >= 0
    assert y1 >= 0
    assert x2 <= SIZE[1]
    assert y2 <= SIZE[0]


def test_a_choice_of_objects_at_least_one():
    above = instances_of(*[[x, 0, x + 4, 4] for x in range(0, 40, 5)])
    numbers = [len(pasted(instances_of(), above, seed=seed)[1].boxes) for seed in range(60)]
    assert set(numbers) == set(range(1, 9))


# Whole samples: the red channel shows the class-1 objects of an image, green class 2, blue class 3; a pasted object
# covers all three channels. All edges lie on pixel borders.
SHAPES = {
    1: [4, 4, 16, 4, 16, 10, 10, 10, 10, 22, 4, 22],  # L
    2: [12, 14, 30, 14, 30, 26, 12, 26],
    3: [20, 2, 28, 2, 28, 12, 24, 12, 24, 20, 20, 20],
}


@pytest.fixture(params=["polygon", "rle"])
def layered(request, tmp_path):
    """Six images of one to three disjoint or stacked shapes, each drawn over the ones before it."""
    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    images, annotations = [], []
    for number, size in enumerate([(32, 36), (32, 36), (36, 32), (36, 36), (28, 36), (32, 36)], start=1):
        image = np.zeros((*size, 3), np.uint8)
        for shape in (number % 3 + 1, (number + 1) % 3 + 1)[: 1 + number % 2]:
            visible = polygon_mask(SHAPES[shape], size)
            image[visible] = 0
            image[visible, shape - 1] = 255
            annotations.append({"shape": shape, "image": number, "mask": visible})
        images.append(image)
        cv2.imwrite(str(tmp_path / "train" / f"{number}.png"), image[..., ::-1])
    records = []
    for number, one in enumerate(annotations):
        above = [other["mask"] for other in annotations[number + 1 :] if other["image"] == one["image"]]
        mask = one["mask"] & ~np.any(above, axis=0) if above else one["mask"]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        is_whole = (mask == one["mask"]).all()
        as_polygon = request.param == "polygon" and is_whole
        segmentation = [SHAPES[one["shape"]]] if as_polygon else uncompressed(mask)
        records.append(
            {"id": number, "image_id": one["image"], "category_id": one["shape"], "iscrowd": 0}
            | {"bbox": [int(edge) for edge in box], "segmentation": segmentation}
        )
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": image.shape[0], "width": image.shape[1]}
            for n, image in enumerate(images, start=1)
        ],
        "annotations": records,
        "categories": [{"id": shape, "name": str(shape)} for shape in SHAPES],
    }
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return CocoDataset.from_root(tmp_path, "train")


def polygon_mask(polygon, size):
    mask = np.zeros(size, bool)
    corners = np.reshape(polygon, (-1, 2)).astype(np.float32)
    for y, x in itertools.product(range(size[0]), range(size[1])):
        mask[y, x] = cv2.pointPolygonTest(corners, (x + 0.5, y + 0.5), False) > 0
    return mask


def uncompressed(mask):
    pixels = mask.ravel(order="F").astype(int)
    borders = np.flatnonzero(np.diff(np.concatenate([[0], pixels])))
    return {"size": list(mask.shape), "counts": np.diff(np.concatenate([[0], borders, [pixels.size]])).tolist()}


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(0.0, copy_paste=1.0),
        Augmentation(0.5, 0.5, 1.0, copy_paste=1.0),
        Augmentation(0.5, 0.5, 1.0, copy_paste=0.5, crop_size=24),
        Augmentation(0.5, 0.5, 1.0, copy_paste=1.0, crop_size=48),
        Augmentation(0.5, 0.5, 1.0, copy_paste=1.0, crop_size=40, scale_range=[1.999, 2.001]),
    ],
)
def test_every_pixel_belongs_to_the_object_that_it_shows(layered, augmentation):
    """Images with a long edge of 36 stay as they are, or double: then borders blur and are left out."""
    doubled = augmentation.scale_range[0] > 1
    buckets = None if augmentation.crop_size else default_buckets(36, 36, multiple=4)
    options = {"buckets": buckets, "images_per_batch": 1, "global_batch": 1, "max_gt": 8}
    seen_pasted = 0
    with TrainLoader(
        layered, short_edge=36, max_size=36, seed=0, augmentation=augmentation, max_crowds=1, **options
    ) as loader:
        for (batch,) in itertools.islice(loader.steps(), 60):
            shown = batch.images[0].astype(int)
            masks = pasted_crops(batch)
            sure = is_sure(shown) if doubled else np.ones(shown.shape[:2], bool)
            for channel in range(3):
                expected = shown[..., channel] >= 128
                of_class = np.any(masks[batch.gt_classes[0] == channel + 1], axis=0)
                np.testing.assert_array_equal(of_class & sure, expected & sure)
            for mask, box in zip(masks, batch.gt_boxes[0], strict=True):
                if mask.any():
                    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
                    bounds = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                    np.testing.assert_allclose(box, bounds, atol=1.0 if doubled else 1e-4)
            seen_pasted += (batch.gt_classes[0] > 0).sum() > 2
    assert seen_pasted >= 3


def is_sure(shown):
    """Pixels whose 3 x 3 neighbours all show the same."""
    padded = np.pad(shown, [(1, 1), (1, 1), (0, 0)], mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    return (windows.min(axis=(3, 4)) == windows.max(axis=(3, 4))).all(axis=2)


def pasted_crops(batch):
    height, width = batch.images.shape[1:3]
    masks = []
    for box, crop, has in zip(batch.gt_boxes[0], batch.gt_masks[0], batch.gt_has_mask[0], strict=True):
        mask = np.zeros((height, width), bool)
        if has:
            x = np.floor((np.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * MASK_SIZE).astype(int)
            y = np.floor((np.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * MASK_SIZE).astype(int)
            ok_x, ok_y = (x >= 0) & (x < MASK_SIZE), (y >= 0) & (y < MASK_SIZE)
            mask[np.ix_(ok_y, ok_x)] = crop[np.ix_(y[ok_y], x[ok_x])]
        masks.append(mask)
    return np.array(masks)


def test_off_and_on_draw_the_same_samples_otherwise(layered):
    options = {"buckets": default_buckets(36, 36, multiple=4), "short_edge": 36, "max_size": 36}
    options |= {"images_per_batch": 2, "global_batch": 2, "seed": 3}
    steps = {}
    for probability in (0.0, 1e-9, 1.0):
        augmentation = Augmentation(0.5, 0.5, 1.0, copy_paste=probability)
        with TrainLoader(layered, augmentation=augmentation, **options) as loader:
            steps[probability] = [batch for step in itertools.islice(loader.steps(), 8) for batch in step]
    for off, never, on in zip(*steps.values(), strict=True):
        np.testing.assert_array_equal(off.images, never.images)
        assert off.image_ids == on.image_ids
        np.testing.assert_array_equal(off.image_sizes, on.image_sizes)


def test_the_source_of_a_paste_that_cannot_be_read(layered):
    layered.image_path(0).write_bytes(b"")
    options = {"buckets": default_buckets(36, 36, multiple=4), "short_edge": 36, "max_size": 36}
    options |= {"images_per_batch": 1, "global_batch": 6, "seed": 0, "augmentation": Augmentation(0.0, copy_paste=1.0)}
    with TrainLoader(layered, on_error="skip", **options) as loader:
        for step in itertools.islice(loader.steps(), 6):
            assert all(batch.image_ids[0] != 1 for batch in step)
        assert loader.skipped["1.png"] > 6  # once an epoch as itself, and where it was to be pasted


def test_uncompressed_helper_is_what_the_package_reads():
    mask = polygon_mask(SHAPES[1], (32, 36))
    runs = decode_segmentation(json.dumps(uncompressed(mask)).encode(), height=32, width=36).segmentation
    assert runs.counts[1::2].sum() == mask.sum()
