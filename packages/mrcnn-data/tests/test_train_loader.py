"""Training batches: pixels, boxes and masks move together; the sequence depends on seed and step only."""

import itertools
import random
import re
import threading
import time

import numpy as np
import pytest

from mrcnn_data import MASK_SIZE, Augmentation, Batch, CocoDataset, DatasetError, TrainLoader, default_buckets

HEIGHT, WIDTH = 40, 56
L_SHAPE = [8, 6, 30, 6, 30, 14, 18, 14, 18, 33, 8, 33]


def white_on_black(polygon):
    """An image that shows its own mask: the polygon runs along pixel borders."""
    import cv2

    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    corners = np.reshape(polygon, (-1, 2))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for row, column in itertools.product(range(HEIGHT), range(WIDTH)):
        point = (float(x[row, column]), float(y[row, column]))
        image[row, column] = 255 * (cv2.pointPolygonTest(corners.astype(np.float32), point, False) > 0)
    return image


def as_rle(image):
    columns = (image[..., 0] > 0).ravel(order="F").astype(int)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], columns])))
    counts = np.diff(np.concatenate([[0], changes, [columns.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": counts}


def loader_of(dataset, **options):
    crop_size = options.get("augmentation", Augmentation()).crop_size
    defaults = {
        "buckets": None if crop_size else default_buckets(HEIGHT, WIDTH, multiple=8),
        "short_edge": HEIGHT,
        "max_size": WIDTH,
        "images_per_batch": 1,
        "global_batch": 1,
        "seed": 0,
        "augmentation": Augmentation(),
        "max_gt": 5,
        "max_crowds": 2,
    }
    return TrainLoader(dataset, **{**defaults, **options})


def batches_of(dataset, num_steps, start_step=0, **options):
    with loader_of(dataset, **options) as loader:
        return [batch for step in itertools.islice(loader.steps(start_step), num_steps) for batch in step]


def assert_same(first, second):
    for name, one, other in zip(Batch._fields, first, second, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


def pasted(batch, row, slot):
    """The mask crop, read at the centre of every pixel of the bucket."""
    x1, y1, x2, y2 = batch.gt_boxes[row, slot]
    height, width = batch.images.shape[1:3]
    out = np.zeros((height, width), bool)
    for y, x in itertools.product(range(height), range(width)):
        column = int(np.floor((x + 0.5 - x1) / (x2 - x1) * MASK_SIZE))
        line = int(np.floor((y + 0.5 - y1) / (y2 - y1) * MASK_SIZE))
        if 0 <= column < MASK_SIZE and 0 <= line < MASK_SIZE:
            out[y, x] = batch.gt_masks[row, slot, line, column]
    return out


def assert_mask_and_box_follow_the_pixels(batch, row):
    shown = batch.images[row, ..., 0] == 255
    if not shown.any():
        assert batch.gt_classes[row].tolist() == [0] * 5
        return
    assert batch.gt_classes[row].tolist() == [1, 0, 0, 0, 0]
    assert batch.gt_has_mask[row].tolist() == [True, False, False, False, False]
    np.testing.assert_array_equal(pasted(batch, row, 0), shown)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    expected = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(batch.gt_boxes[row, 0], expected, atol=1e-4)


@pytest.fixture(params=["polygon", "rle"])
def pattern(request, write_coco):
    image = white_on_black(L_SHAPE)
    segmentation = [L_SHAPE] if request.param == "polygon" else as_rle(image)
    return CocoDataset.from_root(write_coco([image], [{"bbox": [8, 6, 22, 27], "segmentation": segmentation}]), "train")


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(horizontal_flip=0.0),
        Augmentation(horizontal_flip=1.0),
        Augmentation(horizontal_flip=0.0, vertical_flip=1.0),
        Augmentation(horizontal_flip=0.0, rotate90=1.0),
        Augmentation(horizontal_flip=0.5, vertical_flip=0.5, rotate90=1.0),
        Augmentation(horizontal_flip=0.0, crop_size=24),
        Augmentation(horizontal_flip=0.5, vertical_flip=0.5, rotate90=1.0, crop_size=24),
        Augmentation(horizontal_flip=0.5, vertical_flip=0.5, rotate90=1.0, crop_size=48),
        Augmentation(horizontal_flip=0.5, vertical_flip=0.5, rotate90=1.0, crop_size=64),
    ],
)
def test_mask_and_box_follow_the_pixels(pattern, augmentation):
    batches = batches_of(pattern, 24, augmentation=augmentation)
    for batch in batches:
        assert_mask_and_box_follow_the_pixels(batch, 0)
    if augmentation.rotate90:
        looks = {(batch.images.shape, batch.images.tobytes()) for batch in batches}
        assert len(looks) >= 4


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(0.0, scale_range=[0.6, 1.0]),
        Augmentation(0.5, 0.5, 1.0, scale_range=[0.5, 2.5], crop_size=48),
        Augmentation(0.5, 0.5, 1.0, scale_range=[0.1, 2.0], crop_size=64),
        Augmentation(0.0, brightness=0.3, contrast=0.3, saturation=1.0, hue=0.5),
        Augmentation(0.5, 0.5, 1.0, [0.5, 2.5], 48, brightness=0.2, contrast=0.2, saturation=0.5, hue=0.2),
    ],
)
def test_mask_follows_the_pixels_at_any_scale_and_colour(pattern, augmentation):
    """Pixels that show the object or the background alone, with the eight around them, agree with the mask."""
    num_seen = 0
    for batch in batches_of(pattern, 40, augmentation=augmentation, short_edge=[HEIGHT, 31]):
        bright = batch.images[0].max(axis=2) >= 128
        padded = np.pad(batch.images[0].max(axis=2).astype(int), 1, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
        sure = windows.min(axis=(2, 3)) == windows.max(axis=(2, 3))
        mask = pasted(batch, 0, 0) if batch.gt_has_mask[0, 0] else np.zeros(bright.shape, bool)
        np.testing.assert_array_equal(mask & sure, bright & sure)
        num_seen += (bright & sure).any() and (~bright & sure).any()
        if not (batch.gt_has_mask[0, 0] and bright.any()):
            continue
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        bounds = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(batch.gt_boxes[0, 0], bounds, atol=1.0)
    assert num_seen >= 15


def test_horizontal_flip_by_hand(pattern):
    (batch,) = batches_of(pattern, 1, augmentation=Augmentation(horizontal_flip=1.0))
    np.testing.assert_array_equal(batch.gt_boxes[0, 0], [WIDTH - 30, 6, WIDTH - 8, 33])
    np.testing.assert_array_equal(batch.images[0, :HEIGHT, :WIDTH, 0], pattern.read_image(0)[:, ::-1, 0])


@pytest.mark.parametrize(("scale", "least_iou"), [(0.5, 0.9), (2, 0.97), (3, 0.97)])  # at 0.5 edges halve pixels
def test_masks_of_resized_images(pattern, scale, least_iou):
    options = {
        "short_edge": int(HEIGHT * scale),
        "max_size": int(WIDTH * scale),
        "buckets": default_buckets(int(HEIGHT * scale), int(WIDTH * scale)),
        "augmentation": Augmentation(0.5, 0.5, 1.0),
    }
    for batch in batches_of(pattern, 12, **options):
        shown = batch.images[0, ..., 0] >= 128
        mask = pasted(batch, 0, 0)
        assert (shown & mask).sum() / (shown | mask).sum() >= least_iou
        sides = sorted(batch.gt_boxes[0, 0, 2:] - batch.gt_boxes[0, 0, :2])
        np.testing.assert_allclose(sides, [22 * scale, 27 * scale], rtol=1e-5)


def test_sizes_padding_and_frames(write_coco):
    image = np.full((20, 30, 3), 200, np.uint8)
    annotations = [
        {"bbox": [3, 2, 10, 10], "segmentation": [[3, 2, 13, 2, 13, 12, 3, 12]], "category_id": 7},
        {"bbox": [0, 0, 5, 5], "segmentation": []},
        {"bbox": [0, 0, 4, 4], "segmentation": [], "iscrowd": 1},
        {"bbox": [0, 0, 8, 4], "segmentation": [], "iscrowd": 1},
        {"bbox": [0, 0, 2, 4], "segmentation": [], "iscrowd": 1},
    ]
    dataset = CocoDataset.from_root(write_coco([image, image], annotations), "train")
    options = {"images_per_batch": 2, "global_batch": 2, "augmentation": Augmentation(horizontal_flip=0.0)}
    with loader_of(dataset, **options) as loader:
        batch = next(loader.steps())[0]
        left_out = dict(loader.left_out)
    row, empty = (0, 1) if batch.image_ids == [1, 2] else (1, 0)
    assert batch.images.shape == (2, 40, 56 + 8, 3) or batch.images.shape == (2, 40, 56, 3)
    assert batch.image_sizes.tolist() == [[37, 56]] * 2  # the long edge limits
    assert batch.original_sizes.tolist() == [[20, 30]] * 2
    assert (batch.images[:, :37, :56] == 200).all()
    assert not batch.images[:, 37:].any()
    assert not batch.images[:, :, 56:].any()
    scale = np.tile([56 / 30, 37 / 20], 2)
    np.testing.assert_allclose(batch.gt_boxes[row, 0], [3, 2, 13, 12] * scale, rtol=1e-6)
    np.testing.assert_allclose(batch.gt_boxes[row, 1], [0, 0, 5, 5] * scale, rtol=1e-6)
    assert batch.gt_classes[row].tolist() == [2, 1, 0, 0, 0]
    assert batch.gt_has_mask[row].tolist() == [True, False, False, False, False]
    assert batch.gt_masks[row, 0].all()
    assert not batch.gt_masks[row, 1:].any()
    np.testing.assert_allclose(batch.crowd_boxes[row], [[0, 0, 8, 4] * scale, [0, 0, 4, 4] * scale], rtol=1e-6)
    for field in (batch.gt_boxes, batch.gt_classes, batch.gt_masks, batch.gt_has_mask, batch.crowd_boxes):
        assert not field[empty].any()
    assert left_out["crowds beyond max_crowds"] >= 1
    dtypes = [batch.sample_seeds.dtype, batch.images.dtype, batch.image_sizes.dtype, batch.original_sizes.dtype]
    assert dtypes == [np.int32, np.uint8, np.int32, np.int32]
    dtypes = [batch.gt_boxes.dtype, batch.gt_classes.dtype, batch.gt_masks.dtype, batch.gt_has_mask.dtype]
    assert dtypes == [np.float32, np.int32, np.uint8, bool]
    assert batch.crowd_boxes.dtype == np.float32


def test_boxes_that_vanish_are_counted(write_coco):
    annotations = [{"bbox": [5, 5, 0.4, 9], "segmentation": []}, {"bbox": [5, 5, 9, 9], "segmentation": []}]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    dataset = CocoDataset.from_root(write_coco([image], annotations), "train")
    with loader_of(dataset) as loader:
        batch = next(loader.steps())[0]
        assert loader.left_out["objects thinner than a pixel after resizing"] >= 1
    assert (batch.gt_classes > 0).sum() == 1


def test_more_objects_than_room(write_coco):
    annotations = [{"bbox": [x, 5, 4, 9], "segmentation": []} for x in range(9)]
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    dataset = CocoDataset.from_root(write_coco([image], annotations), "train")
    with loader_of(dataset, augmentation=Augmentation(0.0)) as loader:
        kept = [tuple(batch.gt_boxes[0, :, 0]) for (batch,) in itertools.islice(loader.steps(), 20)]
        assert loader.left_out["objects beyond max_gt"] >= 80
    assert all(len(set(one)) == 5 for one in kept)
    assert len(set(kept)) > 5  # another choice every epoch
    assert set(itertools.chain(*kept)) == set(range(9))


@pytest.fixture
def mixed(write_coco):
    """Twelve images of two orientations, each with other contents."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 13):
        height, width = (30, 40) if number % 3 else (40, 30)
        images.append(rng.integers(0, 255, (height, width, 3), np.uint8))
        for _ in range(number % 4):
            x, y = rng.integers(0, 15, 2).tolist()
            box = {"bbox": [x, y, 12, 9], "segmentation": [[x, y, x + 12, y, x + 12, y + 9, x, y + 9]]}
            annotations.append({**box, "image_id": number})
    return CocoDataset.from_root(write_coco(images, annotations), "train")


MIXED_OPTIONS = {"augmentation": Augmentation(0.5, 0.5, 1.0), "short_edge": [30, 36], "global_batch": 6}


@pytest.mark.parametrize("num_threads", [1, 2, 8])
def test_threads_change_nothing(mixed, num_threads):
    expected = batches_of(mixed, 6, num_threads=3, **MIXED_OPTIONS)
    for one, other in zip(batches_of(mixed, 6, num_threads=num_threads, **MIXED_OPTIONS), expected, strict=True):
        assert_same(one, other)


def ranks_together(dataset, num_steps, start_step=0, *, num_ranks, **options):
    """The batches of all ranks, in the order of one process."""
    ranks = [
        batches_of(dataset, num_steps, start_step, rank=rank, num_ranks=num_ranks, **options)
        for rank in range(num_ranks)
    ]
    return [batch for turn in zip(*ranks, strict=True) for batch in turn]


@pytest.mark.parametrize(("global_batch", "num_ranks"), [(6, 2), (6, 3), (6, 6), (42, 2), (42, 3), (42, 7)])
def test_ranks_together_are_one_process(mixed, global_batch, num_ranks):
    options = {**MIXED_OPTIONS, "global_batch": global_batch}
    together = ranks_together(mixed, 2, num_ranks=num_ranks, **options)
    assert len(together) == 2 * global_batch
    for one, other in zip(together, batches_of(mixed, 2, **options), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("num_ranks", [1, 2, 7])
def test_resuming_in_mid_epoch_with_another_number_of_ranks(write_coco, num_ranks):
    """100 images: step 2 of 42 begins in the middle of the first epoch and ends in the second."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (12, 16, 3), np.uint8) for _ in range(100)]
    dataset = CocoDataset.from_root(write_coco(images, []), "train")
    options = {"global_batch": 42, "short_edge": 12, "max_size": 16}
    expected = ranks_together(dataset, 4, num_ranks=3, **options)
    resumed = ranks_together(dataset, 2, 2, num_ranks=num_ranks, num_threads=num_ranks, **options)
    for one, other in zip(resumed, expected[2 * 42 :], strict=True):
        assert_same(one, other)


def test_starting_in_the_middle(mixed):
    options = {**MIXED_OPTIONS, "images_per_batch": 2}
    expected = batches_of(mixed, 7, **options)
    for one, other in zip(batches_of(mixed, 4, start_step=3, **options), expected[9:], strict=True):
        assert_same(one, other)


def test_seeds_differ_between_samples_and_runs(mixed):
    seeds = np.concatenate([batch.sample_seeds for batch in batches_of(mixed, 8, **MIXED_OPTIONS)])
    assert len({tuple(seed) for seed in seeds}) == 48
    other = np.concatenate([batch.sample_seeds for batch in batches_of(mixed, 8, **{**MIXED_OPTIONS, "seed": 1})])
    assert not {tuple(seed) for seed in seeds} & {tuple(seed) for seed in other}


def test_random_numbers_of_others_are_left_alone(mixed):
    def global_state():
        return random.getstate(), str(np.random.get_state())  # noqa: NPY002 (it is what must not be touched)

    before = global_state()
    batches_of(mixed, 6, max_gt=1, **MIXED_OPTIONS)
    assert global_state() == before


def test_the_sequence_is_pinned(mixed):
    """A change of this sequence breaks the resuming of runs, so it must be on purpose."""
    (batch, *_) = batches_of(mixed, 1, **MIXED_OPTIONS)
    assert (batch.image_ids, batch.sample_seeds.tolist()) == ([11], [[-942986867, -1376614106]])


def test_batches_stay_intact_while_they_are_held(mixed):
    with loader_of(mixed, **MIXED_OPTIONS) as loader:
        steps = loader.steps()
        held = [next(steps) for _ in range(3)]
        views = [batch.images[0, 3:9] for step in held for batch in step]
        copies = [view.copy() for view in views]
        del held
        for _ in range(10):
            next(steps)
        for view, copy in zip(views, copies, strict=True):
            np.testing.assert_array_equal(view, copy)


def test_memory_is_reused(mixed):
    with loader_of(mixed, **MIXED_OPTIONS) as loader:
        addresses = [batch.images.ctypes.data for step in itertools.islice(loader.steps(), 30) for batch in step]
    assert len(set(addresses)) < len(addresses) / 3
    assert all(address % 64 == 0 for address in addresses)


def test_memory_does_not_grow(mixed):
    """Two hundred epochs: if batches or their masks were kept, every ten epochs would add megabytes."""
    with loader_of(mixed, max_gt=50, **MIXED_OPTIONS) as loader:
        steps = loader.steps()
        resident = []
        for _ in range(20):
            for _ in range(20):
                next(steps)
            resident.append(resident_megabytes())
    slope = np.polyfit(np.arange(15), resident[5:], 1)[0]
    assert slope < 0.5  # of ten epochs


def resident_megabytes():
    """Of this process; skips where /proc does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / 2**20
    except OSError:
        pytest.skip("no /proc/self/statm here")


def test_epochs_and_shapes(mixed):
    with loader_of(mixed, **MIXED_OPTIONS) as loader:
        assert loader.num_images == 12
        assert loader.epoch_of(0) == 0.0
        assert loader.epoch_of(3) == 1.5
        shapes = {batch.images.shape[1:3] for step in itertools.islice(loader.steps(), 20) for batch in step}
        assert shapes == set(loader.buckets)
    with loader_of(mixed, augmentation=Augmentation(crop_size=24)) as loader:
        assert loader.buckets == ((24, 24),)


def test_filter_empty(mixed, write_coco):
    with loader_of(mixed, filter_empty=True) as loader:
        assert loader.num_images == 9
        seen = {batch.image_ids[0] for step in itertools.islice(loader.steps(), 9) for batch in step}
    assert seen == {number for number in range(1, 13) if number % 4}
    nothing = CocoDataset.from_root(write_coco([np.zeros((30, 40, 3), np.uint8)], []), "train")
    with pytest.raises(DatasetError, match="no image has an object"):
        loader_of(nothing, filter_empty=True)
    source = nothing.sources[0]
    twice = CocoDataset.open([source.annotation_path] * 2, [source.image_dir] * 2)
    with pytest.raises(DatasetError, match=r"instances_train\.json \+ .*: no image has an object"):
        loader_of(twice, filter_empty=True)


def test_a_batch_without_any_object(write_coco):
    dataset = CocoDataset.from_root(write_coco([np.zeros((30, 40, 3), np.uint8)] * 2, []), "train")
    (batch,) = batches_of(dataset, 1, images_per_batch=2, global_batch=2)
    assert batch.gt_boxes.shape == (2, 5, 4)
    assert not batch.gt_classes.any()


def test_fewer_images_than_a_step(write_coco):
    dataset = CocoDataset.from_root(write_coco([np.zeros((30, 40, 3), np.uint8)] * 3, []), "train")
    (batch,) = batches_of(dataset, 1, images_per_batch=8, global_batch=8)
    assert sorted(batch.image_ids) == sorted(np.resize([1, 2, 3], 8).tolist()) or len(set(batch.image_ids)) == 3
    assert len({tuple(seed) for seed in batch.sample_seeds}) == 8


def test_unreadable_image_names_its_file(mixed):
    path = mixed.image_path(4)
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        batches_of(mixed, 12, global_batch=2)


@pytest.mark.parametrize("rotate90", [0.0, 1.0])
def test_unreadable_image_is_replaced(mixed, rotate90):
    mixed.image_path(4).write_bytes(b"")
    with loader_of(
        mixed, augmentation=Augmentation(rotate90=rotate90), on_error="skip", images_per_batch=2, global_batch=4
    ) as loader:
        steps = list(itertools.islice(loader.steps(), 12))
        assert loader.skipped["5.png"] >= 3
    ids = [image for step in steps for batch in step for image in batch.image_ids]
    assert len(ids) == 48
    assert 5 not in ids
    assert None not in ids


def test_nothing_readable_is_an_error_all_the_same(mixed):
    for index in range(12):
        mixed.image_path(index).write_bytes(b"")
    with pytest.raises(DatasetError, match="is empty"):
        batches_of(mixed, 1, on_error="skip")


def test_close_ends_the_threads(mixed):
    def names():
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("mrcnn-data")]

    loader = loader_of(mixed, num_threads=3)
    steps = loader.steps()
    next(steps)
    assert names()
    loader.close()
    assert not names()
    with pytest.raises(RuntimeError):
        list(itertools.islice(steps, 50))


def test_work_ahead_is_bounded(mixed, monkeypatch):
    read = []
    original = CocoDataset.read_image
    monkeypatch.setattr(CocoDataset, "read_image", lambda self, index: read.append(index) or original(self, index))
    with loader_of(mixed, num_threads=2, global_batch=2, images_per_batch=2) as loader:
        next(loader.steps())
        time.sleep(0.2)
        assert 2 <= len(read) <= 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch": 6, "images_per_batch": 4}, "global_batch=6 is not a multiple of images_per_batch=4"),
        ({"global_batch": 6, "num_ranks": 4}, "cannot be divided among num_ranks=4"),
        ({"global_batch": 0}, "global_batch=0"),
        ({"images_per_batch": 0}, "images_per_batch=0"),
        ({"num_threads": 0}, "num_threads=0"),
        ({"rank": 2, "num_ranks": 2, "global_batch": 2}, "rank=2"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"buckets": [(32, 32)]}, "buckets="),
        ({"buckets": None}, "buckets are missing"),
        (
            {"buckets": [(32, 32)], "augmentation": Augmentation(crop_size=8)},
            "buckets=[[32, 32]] cannot be used with augmentation.crop_size=8, which makes every batch 8 x 8",
        ),
        ({"buckets": [(40, 56)], "augmentation": Augmentation(rotate90=0.5)}, "buckets="),
        ({"augmentation": Augmentation(horizontal_flip=2.0)}, "augmentation.horizontal_flip=2.0"),
        ({"augmentation": Augmentation(scale_range=[1.0, 2.0])}, "augmentation.scale_range"),
        ({"augmentation": Augmentation(scale_range=[0.0, 1.0])}, "augmentation.scale_range"),
        ({"augmentation": Augmentation(scale_range=[1.0, float("inf")], crop_size=8)}, "augmentation.scale_range"),
        ({"augmentation": Augmentation(scale_range=[float("nan"), 1.0])}, "augmentation.scale_range"),
        ({"augmentation": Augmentation(crop_size=-1)}, "augmentation.crop_size=-1"),
        ({"augmentation": Augmentation(vertical_flip=-0.1)}, "augmentation.vertical_flip=-0.1"),
        ({"augmentation": Augmentation(rotate90=float("nan"))}, "augmentation.rotate90=nan"),
        ({"augmentation": Augmentation(copy_paste=1.5)}, "augmentation.copy_paste=1.5"),
        ({"augmentation": Augmentation(brightness=1.5)}, "augmentation.brightness=1.5 must be between 0 and 1"),
        ({"augmentation": Augmentation(contrast=-0.5)}, "augmentation.contrast=-0.5"),
        ({"augmentation": Augmentation(saturation=2.0)}, "augmentation.saturation=2.0"),
        ({"augmentation": Augmentation(hue=0.6)}, "augmentation.hue=0.6 must be between 0 and 0.5"),
    ],
)
def test_options_that_cannot_work(pattern, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        loader_of(pattern, **options)


def test_real_batches(shared_data):
    dataset = CocoDataset.open(
        shared_data / "nuclei" / "annotations" / "instances_train.json", shared_data / "nuclei" / "train"
    )
    twin = CocoDataset.open(
        shared_data / "nuclei" / "annotations" / "instances_train_rle.json", shared_data / "nuclei" / "train"
    )
    augmentation = Augmentation(0.5, 0.5, 1.0, scale_range=[0.7, 1.4], crop_size=128)
    options = {"short_edge": 256, "max_size": 512, "global_batch": 4, "images_per_batch": 4, "max_gt": 200}
    options = {**options, "augmentation": augmentation}
    for one, other in zip(batches_of(dataset, 4, **options), batches_of(twin, 4, **options), strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        assert (one.gt_classes > 0).sum() == pytest.approx((other.gt_classes > 0).sum(), abs=3)
        assert np.isfinite(one.gt_boxes).all()
        sizes = one.gt_boxes[..., 2:] - one.gt_boxes[..., :2]
        assert (sizes[one.gt_classes > 0] >= 1.0).all()
        assert (one.gt_boxes.max(axis=(1, 2)) <= one.image_sizes.max(axis=1)).all()
        assert one.gt_has_mask[one.gt_classes > 0].mean() > 0.98
