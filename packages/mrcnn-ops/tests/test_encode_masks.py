"""Mask encoding: by hand, against bitmaps pixel by pixel, against pycocotools, and at the edges."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ops import encode_masks


@pytest.fixture(scope="session")
def encode(reference):
    """A function (mask, box, height, width) -> bitmap: encodes with the op, decodes the result."""

    def run(mask, box, height, width, **options):
        counts = encode_masks(
            np.asarray([mask], np.float32), np.asarray([box], np.float32), [[height, width]], **options
        ).numpy()[0]
        return reference.decode_counts(counts, height, width)

    return run


def random_mask(rng, size=28):
    """Smooth blobs or plain noise: few runs or very many."""
    coarse = rng.normal(size=(rng.integers(1, size + 1),) * 2)
    index = np.linspace(0, len(coarse) - 1, size).round().astype(int)
    return (1 / (1 + np.exp(-3 * coarse[np.ix_(index, index)]))).astype(np.float32)


class TestByHand:
    def test_known_codes(self):
        # 2 rows, 3 columns. Down the columns: nothing; everything; the middle column only: two 0, two 1, two 0.
        boxes = np.array([[5, 5, 9, 9], [0, 0, 3, 2], [1, 0, 2, 2]], np.float32)
        counts = encode_masks(np.ones((3, 4, 4), np.float32), boxes, [[2, 3]] * 3)
        assert counts.numpy().tolist() == [b"6", b"06", b"222"]

    def test_long_runs_and_negative_differences(self, encode):
        # From the fourth run on differences are written, here negative ones, and runs beyond five bits.
        mask = np.zeros((3, 3), np.float32)
        mask[:, 1] = 1
        bitmap = encode(mask, [40, 10, 43, 70], 80, 90)
        assert bitmap.sum() == 60
        assert bitmap[10:70, 41].all()

    def test_ones_fill_the_box(self, encode):
        bitmap = encode(np.ones((28, 28)), [3, 5, 17, 12], 20, 30)
        expected = np.zeros((20, 30))
        expected[5:12, 3:17] = 1
        np.testing.assert_array_equal(bitmap, expected)

    def test_ones_fill_every_pixel_that_the_box_touches(self, encode):
        bitmap = encode(np.ones((28, 28)), [3.7, 5.2, 16.1, 11.9], 20, 30)
        expected = np.zeros((20, 30))
        expected[5:12, 3:17] = 1
        np.testing.assert_array_equal(bitmap, expected)

    def test_a_mask_as_large_as_its_box_is_copied(self, encode, rng):
        mask = rng.random((9, 9))
        bitmap = encode(mask, [4, 2, 13, 11], 15, 20)
        np.testing.assert_array_equal(bitmap[2:11, 4:13], mask > 0.5)

    def test_interpolation_between_two_columns(self, encode):
        # Value 0 at the mask's first centre, 1 at its second: columns 2 and 6 of 8. The half is crossed between pixels
        # 3 and 4.
        bitmap = encode([[0, 1], [0, 1]], [0, 0, 8, 8], 8, 8)
        np.testing.assert_array_equal(bitmap, np.tile([0, 0, 0, 0, 1, 1, 1, 1], (8, 1)))

    def test_threshold_is_exclusive(self, encode):
        assert encode(np.full((2, 2), 0.5), [0, 0, 4, 4], 4, 4).sum() == 0
        assert encode(np.full((2, 2), 0.5), [0, 0, 4, 4], 4, 4, threshold=0.49).sum() == 16

    @pytest.mark.parametrize(
        ("box", "rows", "columns"),
        [
            ([-4, -4, 3, 2], slice(0, 2), slice(0, 3)),  # over the left upper corner
            ([27, 18, 40, 40], slice(18, 20), slice(27, 30)),  # over the right lower corner
            ([29.6, 0, 30, 1], slice(0, 1), slice(29, 30)),  # the last 0.4 pixel
            ([0, 0, 0.01, 0.01], slice(0, 1), slice(0, 1)),
            ([-1e6, -1e6, 1e6, 1e6], slice(0, 20), slice(0, 30)),
            ([-3e38, -3e38, 3e38, 3e38], slice(0, 20), slice(0, 30)),
            ([7, -50, 8, 50], slice(0, 20), slice(7, 8)),
        ],
    )
    def test_borders(self, encode, box, rows, columns):
        expected = np.zeros((20, 30))
        expected[rows, columns] = 1
        np.testing.assert_array_equal(encode(np.ones((28, 28)), box, 20, 30), expected)

    @pytest.mark.parametrize(
        "box",
        [
            [5, 5, 5, 9],
            [5, 5, 9, 5],
            [9, 9, 5, 5],
            [0, 0, 0, 0],
            [30, 0, 40, 9],
            [-9, 0, 0, 9],
            [0, 20, 9, 25],
            [1e6, 1e6, 2e6, 2e6],
            [np.nan, 0, 9, 9],
            [0, 0, np.inf, 9],
            [-np.inf, 0, 9, 9],
        ],
    )
    def test_nothing_to_draw_gives_an_empty_mask(self, encode, box):
        assert encode(np.ones((28, 28)), box, 20, 30).sum() == 0

    def test_nan_is_background(self, encode):
        mask = np.ones((4, 4))
        mask[0, 0] = np.nan
        bitmap = encode(mask, [0, 0, 4, 4], 4, 4)
        assert bitmap.sum() == 15
        assert bitmap[0, 0] == 0


class TestAgainstBitmaps:
    @pytest.mark.parametrize("size", [1, 2, 14, 28, 56])
    def test_random(self, reference, rng, random_boxes, size):
        height, width = 48, 64
        masks = np.stack([random_mask(rng, size) for _ in range(65)])
        boxes = random_boxes(rng, (65,), height, width)
        boxes[::3] = boxes[::3].round()
        counts = encode_masks(masks, boxes, [[height, width]] * 65).numpy()
        for mask, box, code in zip(masks, boxes, counts, strict=True):
            expected = reference.paste_mask(mask, box, height, width)
            np.testing.assert_array_equal(reference.decode_counts(code, height, width), expected)

    @settings(max_examples=150, deadline=None)
    @given(
        # Without subnormal numbers, which TensorFlow's threads take as 0.
        box=st.tuples(*[st.floats(-40, 80, width=32, allow_subnormal=False)] * 4),
        height=st.integers(1, 50),
        width=st.integers(1, 50),
        size=st.integers(1, 30),
        threshold=st.floats(0, 1, width=32, allow_subnormal=False),
        seed=st.integers(0, 2**16),
    )
    def test_any_box(self, reference, encode, box, height, width, size, threshold, seed):
        mask = random_mask(np.random.default_rng(seed), size)
        box = np.array(box, np.float32)
        expected = reference.paste_mask(mask, box, height, width, threshold)
        np.testing.assert_array_equal(encode(mask, box, height, width, threshold=threshold), expected)

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
    def test_pycocotools_reads_and_writes_the_same(self, reference, rng, random_boxes):
        coco_mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
        height, width = 120, 160
        masks = np.stack([random_mask(rng) for _ in range(100)])
        boxes = random_boxes(rng, (100,), height, width)
        counts = encode_masks(masks, boxes, [[height, width]] * 100).numpy()
        for mask, box, code in zip(masks, boxes, counts, strict=True):
            expected = reference.paste_mask(mask, box, height, width)
            np.testing.assert_array_equal(coco_mask.decode({"size": [height, width], "counts": code}), expected)
            assert coco_mask.encode(np.asfortranarray(expected))["counts"] == code


def test_images_of_different_sizes(reference, rng):
    masks, sizes = rng.random((3, 5, 5)).astype(np.float32), [[7, 9], [30, 2], [1, 1]]
    box = np.array([0.5, 0.5, 8, 8], np.float32)
    counts = encode_masks(masks, np.tile(box, (3, 1)), sizes).numpy()
    for mask, (height, width), code in zip(masks, sizes, counts, strict=True):
        expected = reference.paste_mask(mask, box, height, width)
        np.testing.assert_array_equal(reference.decode_counts(code, height, width), expected)


def test_no_masks():
    counts = encode_masks(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), np.zeros((0, 2), np.int32))
    assert counts.shape == (0,)


def test_a_large_image_costs_no_bitmap():
    # 2 ** 31 - 2 ** 24 pixels, in runs that need seven groups of five bits.
    counts = encode_masks(np.ones((1, 28, 28), np.float32), [[0.0, 1.0, 1.0, 3.0]], [[2**24, 127]]).numpy()[0]
    assert counts.startswith(b"12")
    assert len(counts) < 20


def test_static_shape_and_same_values_in_a_graph(rng, random_boxes):
    masks, boxes = tf.constant(rng.random((6, 28, 28)), tf.float32), tf.constant(random_boxes(rng, (6,), 50, 50))

    @tf.function
    def graph(masks, boxes):
        counts = encode_masks(masks, boxes, tf.fill((6, 2), 50))
        assert counts.shape == (6,)
        return counts

    assert graph(masks, boxes).numpy().tolist() == encode_masks(masks, boxes, tf.fill((6, 2), 50)).numpy().tolist()


@pytest.mark.parametrize(
    ("masks", "boxes", "sizes", "message"),
    [
        ((2, 5, 6), (2, 4), [[9, 9]] * 2, "masks must have 5 on axis 2"),
        ((2, 5, 5), (3, 4), [[9, 9]] * 2, "boxes must have 2 on axis 0, as masks has, got 3"),
        ((2, 5, 5), (2, 5), [[9, 9]] * 2, r"boxes must have shape \[K, 4\]"),
        ((2, 5, 5), (2, 4), [[9, 9]] * 3, "image_sizes must have 2 on axis 0"),
        ((2, 5, 5), (2, 4), [[9, 9], [0, 9]], "image_sizes must be positive .* got 0 x 9 for mask 1"),
        ((2, 5, 5), (2, 4), [[9, 9], [9, -9]], "image_sizes must be positive"),
        ((2, 5, 5), (2, 4), [[9, 9], [2**20, 2**20]], "below 2\\^31 pixels"),
        ((2, 5, 5), (2, 4), [[9, 9], [2**24 + 1, 1]], "image_sizes must be at most 16777216 .* for mask 1"),
        ((2, 0, 0), (2, 4), [[9, 9]] * 2, "masks must be 1 to 4096 pixels wide"),
    ],
)
def test_wrong_inputs_are_named(masks, boxes, sizes, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        encode_masks(np.ones(masks, np.float32), np.ones(boxes, np.float32), np.array(sizes, np.int32))
