"""Proposals: by hand, against the twin, against Tensorpack's recorded ones, and at the edges."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ops import generate_proposals

NUMBERS = {"pre_nms_top_k": 100, "post_nms_top_k": 100, "num_proposals": 100}


def propose(logits, boxes, *, deltas=None, image_size=(100, 100), level_sizes=None, **options):
    """Proposals of one image, without the padding rows, as (boxes, scores)."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    deltas = np.zeros_like(boxes) if deltas is None else np.asarray(deltas, np.float32)
    proposals = generate_proposals(
        np.asarray([logits], np.float32),
        deltas[None],
        boxes,
        [image_size],
        [len(boxes)] if level_sizes is None else level_sizes,
        **{**NUMBERS, **options},
    )
    valid = proposals.valid.numpy()[0]
    assert not np.any(valid[1:] & ~valid[:-1]), "the valid ones come first"
    assert np.all(proposals.boxes.numpy()[0, ~valid] == 0)
    assert np.all(proposals.scores.numpy()[0, ~valid] == 0)
    return proposals.boxes.numpy()[0, valid].tolist(), proposals.scores.numpy()[0, valid].tolist()


A, B, FAR = [10, 10, 30, 30], [12, 10, 32, 30], [60, 60, 90, 90]  # IoU of A and B: 18 / 22


class TestByHand:
    def test_best_first_and_overlapping_ones_dropped(self):
        assert propose([1, 3, 2], [A, B, FAR]) == ([B, FAR], [3, 2])

    def test_threshold_is_exclusive(self):
        a, b = [0, 0, 10, 10], [0, 0, 10, 5]  # IoU exactly 0.5
        assert propose([2, 1], [a, b], nms_threshold=0.5)[0] == [a, b]
        assert propose([2, 1], [a, b], nms_threshold=0.49)[0] == [a]

    def test_levels_do_not_suppress_each_other(self):
        assert propose([1, 2], [A, A], level_sizes=[1, 1]) == ([A, A], [2, 1])

    def test_equal_logits_the_lower_index_wins(self):
        assert propose([1, 1, 1], [A, B, FAR]) == ([A, FAR], [1, 1])

    def test_equal_logits_of_both_zeros(self):
        assert propose([-0.0, 0.0], [A, B])[0] == [A]

    def test_equal_logits_the_lower_level_comes_first(self):
        assert propose([5, 5], [FAR, A], level_sizes=[1, 1])[0] == [FAR, A]

    def test_deltas_move_and_scale(self):
        boxes, _ = propose([1], [A], deltas=[[0.5, -0.25, math.log(2), math.log(0.5)]])
        # Centre (20, 20) moves by (10, -5); 20 x 20 becomes 40 x 10.
        np.testing.assert_allclose(boxes, [[10, 10, 50, 20]], rtol=1e-6)

    def test_scale_is_bounded(self):
        anchor = [40, 40, 56, 56]
        boxes, _ = propose([1], [anchor], deltas=[[0, 0, 100, 88]], image_size=(3000, 3000), max_log_scale=math.log(4))
        np.testing.assert_allclose(boxes, [[16, 16, 80, 80]], rtol=1e-6)

    def test_clipped_to_the_valid_image(self):
        assert propose([1], [[-5, -5, 20, 60]], image_size=(50, 15))[0] == [[0, 0, 15, 50]]

    def test_anchors_centred_in_the_padding_are_dropped_unless_kept(self):
        inside, outside = [0, 0, 19, 19], [0, 0, 20, 20]  # centres 9.5 and 10, image 10 x 10
        assert len(propose([1], [inside], image_size=(10, 10))[0]) == 1
        assert len(propose([1], [outside], image_size=(10, 10))[0]) == 0
        assert len(propose([1], [outside], image_size=(10, 10), keep_padding_anchors=True)[0]) == 1

    def test_padding_anchors_do_not_use_up_the_top_k(self):
        assert propose([9, 1], [[90, 90, 99, 99], A], image_size=(50, 50), pre_nms_top_k=1)[0] == [A]

    def test_boxes_clipped_to_nothing_are_dropped_unless_kept(self):
        left = [-30, 10, -10, 20]
        assert propose([1], [left])[0] == []
        assert propose([1], [left], keep_empty=True)[0] == [[0, 10, 0, 20]]

    def test_minimum_size(self):
        boxes = [[0, 0, 8, 40], [50, 0, 58, 7], [50, 50, 58, 58]]
        assert propose([3, 2, 1], boxes, min_size=8)[0] == [boxes[0], boxes[2]]

    def test_counts(self):
        boxes = [[10 * i, 0, 10 * i + 8, 8] for i in range(8)]
        logits = [0, 7, 1, 6, 2, 5, 3, 4]
        assert propose(logits, boxes, pre_nms_top_k=3)[1] == [7, 6, 5]
        assert propose(logits, boxes, post_nms_top_k=2)[1] == [7, 6]
        assert propose(logits, boxes, post_nms_top_k=2, level_sizes=[4, 4])[1] == [7, 6, 5, 4]
        assert propose(logits, boxes, num_proposals=5)[1] == [7, 6, 5, 4, 3]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_logits_and_deltas_are_dropped(self, bad):
        assert propose([bad, 1], [A, FAR])[0] == [FAR]
        for position in range(4):
            deltas = np.zeros((2, 4), np.float32)
            deltas[0, position] = bad
            expected = [FAR]
            if position >= 2 and bad == np.inf:
                continue  # bounded by max_log_scale: a finite box
            if position >= 2 and bad == -np.inf:
                expected = [FAR]  # exp(-inf) = 0: an empty box
            assert propose([2, 1], [A, FAR], deltas=deltas)[0] == expected

    def test_infinite_scale_is_bounded_like_any_other(self):
        deltas = [[0, 0, np.inf, np.inf]]
        assert propose([1], [A], deltas=deltas)[0] == [[0, 0, 100, 100]]


def random_inputs(rng, level_sizes, num_images=2, scale=0.3):
    num_anchors = sum(level_sizes)
    centres = rng.uniform(0, 200, (num_anchors, 2))
    sizes = rng.uniform(4, 80, (num_anchors, 2))
    anchors = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1).astype(np.float32)
    # Logits of few different values: ties everywhere.
    logits = rng.integers(-20, 20, (num_images, num_anchors)).astype(np.float32) / 4
    deltas = (scale * rng.standard_normal((num_images, num_anchors, 4))).astype(np.float32)
    image_sizes = rng.integers(60, 201, (num_images, 2)).astype(np.int32)
    return logits, deltas, anchors, image_sizes, np.array(level_sizes, np.int32)


class TestAgainstTheTwin:
    @pytest.mark.parametrize("seed", range(4))
    @pytest.mark.parametrize(
        "options",
        [
            {"pre_nms_top_k": 40, "post_nms_top_k": 20, "num_proposals": 50},
            {"pre_nms_top_k": 500, "post_nms_top_k": 500, "num_proposals": 30, "nms_threshold": 0.3, "min_size": 10.0},
            {"pre_nms_top_k": 1, "post_nms_top_k": 1, "num_proposals": 9},
            {
                "pre_nms_top_k": 100,
                "post_nms_top_k": 50,
                "num_proposals": 100,
                "keep_empty": True,
                "keep_padding_anchors": True,
                "max_log_scale": 0.2,
            },
        ],
    )
    def test_random(self, reference, seed, options):
        inputs = random_inputs(np.random.default_rng(seed), [150, 0, 70, 3])
        actual = generate_proposals(*inputs, **options)
        boxes, scores, valid = reference.generate_proposals(*inputs, **options)
        np.testing.assert_array_equal(actual.valid, valid)
        np.testing.assert_array_equal(actual.scores, scores)
        np.testing.assert_allclose(actual.boxes, boxes, atol=1e-4)

    @pytest.mark.parametrize("num_anchors", [0, 1, 63, 64, 65])
    def test_anchor_counts(self, reference, rng, num_anchors):
        inputs = random_inputs(rng, [num_anchors])
        for top_k in (1, 32, 64, 65):
            options = {"pre_nms_top_k": top_k, "post_nms_top_k": top_k, "num_proposals": 64}
            actual = generate_proposals(*inputs, **options)
            boxes, scores, _ = reference.generate_proposals(*inputs, **options)
            np.testing.assert_array_equal(actual.scores, scores)
            np.testing.assert_allclose(actual.boxes, boxes, atol=1e-4)

    @settings(max_examples=60, deadline=None)
    @given(
        level_sizes=st.lists(st.integers(0, 12), min_size=0, max_size=4),
        seed=st.integers(0, 2**16),
        pre=st.integers(1, 15),
        post=st.integers(1, 15),
        wanted=st.integers(1, 20),
        threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
    )
    def test_ties_of_boxes_and_logits(self, reference, level_sizes, seed, pre, post, wanted, threshold):
        rng = np.random.default_rng(seed)
        num_anchors = sum(level_sizes)
        corners = rng.integers(0, 6, (num_anchors, 2, 2)).astype(np.float32)
        anchors = np.concatenate([corners.min(1), corners.max(1) + rng.integers(0, 2)], 1).astype(np.float32)
        logits = rng.integers(0, 3, (2, num_anchors)).astype(np.float32)
        deltas = np.zeros((2, num_anchors, 4), np.float32)  # exp(0) is exact, so results are equal to the bit
        inputs = logits, deltas, anchors, np.array([[6, 6], [4, 3]], np.int32), np.array(level_sizes, np.int32)
        options = {
            "pre_nms_top_k": pre,
            "post_nms_top_k": post,
            "num_proposals": wanted,
            "nms_threshold": threshold,
        }
        for a, e in zip(
            generate_proposals(*inputs, **options), reference.generate_proposals(*inputs, **options), strict=True
        ):
            np.testing.assert_array_equal(a, e)


def test_selection_from_many_equals_a_sort(rng):
    # Far more anchors than top_k, rising, falling and equal logits: the streaming selection changes its bound many
    # times.
    count, top_k = 20_000, 37
    x = np.arange(count, dtype=np.float32) * 4
    anchors = np.stack([x, np.zeros_like(x), x + 2, np.ones_like(x)], 1)
    for logits in (np.arange(count), -np.arange(count), np.zeros(count), rng.standard_normal(count)):
        logits = logits.astype(np.float32)
        options = {"pre_nms_top_k": top_k, "post_nms_top_k": top_k, "num_proposals": top_k}
        boxes, _ = propose(logits, anchors, image_size=(10, 100_000), **options)
        order = np.argsort(-logits, kind="stable")[:top_k]
        assert boxes == anchors[order].tolist()


def test_a_batch_gives_what_each_image_gives_alone(rng):
    inputs = logits, deltas, anchors, image_sizes, level_sizes = random_inputs(rng, [300, 80, 20], num_images=5)
    options = {"pre_nms_top_k": 60, "post_nms_top_k": 50, "num_proposals": 70}
    together = generate_proposals(*inputs, **options)
    for n in range(5):
        one = slice(n, n + 1)
        alone = generate_proposals(logits[one], deltas[one], anchors, image_sizes[one], level_sizes, **options)
        for t, a in zip(together, alone, strict=True):
            np.testing.assert_array_equal(t[one], a)


def test_images_without_any_proposal(rng):
    inputs = list(random_inputs(rng, [30, 10]))
    inputs[3] = np.array([[0, 0], [150, 150]], np.int32)
    proposals = generate_proposals(*inputs, **NUMBERS)
    assert not proposals.valid[0].numpy().any()
    assert proposals.valid[1].numpy().any()


def test_no_images():
    empty = np.zeros((0, 5), np.float32), np.zeros((0, 5, 4), np.float32), np.zeros((5, 4), np.float32)
    proposals = generate_proposals(*empty, np.zeros((0, 2), np.int32), [5], **NUMBERS)
    assert proposals.boxes.shape == (0, 100, 4)


def test_huge_coordinates_stay_finite(rng):
    anchors = np.array([[-1e6, -1e6, 1e6, 1e6], [0, 0, 3e38, 3e38], [5, 5, 1e6, 10]], np.float32)
    deltas = 1e3 * rng.standard_normal((1, 3, 4)).astype(np.float32)
    proposals = generate_proposals(
        np.ones((1, 3), np.float32), deltas, anchors, [[10**6, 10**6]], [3], keep_padding_anchors=True, **NUMBERS
    )
    assert np.isfinite(proposals.boxes).all()
    assert np.all(proposals.boxes.numpy() >= 0)
    assert np.all(proposals.boxes.numpy() <= 1e6)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(width=32), min_size=36, max_size=36),
    size=st.tuples(st.integers(-5, 2**31 - 1), st.integers(-5, 2**31 - 1)),
)
def test_any_float_gives_finite_boxes_inside_the_image(values, size):
    values = np.array(values, np.float32)
    proposals = generate_proposals(
        values[None, :4], values[4:20].reshape(1, 4, 4), values[20:].reshape(4, 4), [size], [4], **NUMBERS
    )
    boxes = proposals.boxes.numpy()[proposals.valid.numpy()]
    assert np.isfinite(boxes).all()
    assert np.all(boxes >= 0)
    assert np.all(boxes <= np.array(size[::-1] * 2, np.float32))


def test_static_shapes_and_same_values_in_a_graph(rng):
    inputs = [tf.constant(i) for i in random_inputs(rng, [30, 10], num_images=3)]

    @tf.function
    def graph(*inputs):
        proposals = generate_proposals(*inputs, **NUMBERS)
        assert proposals.boxes.shape == (3, 100, 4)
        assert proposals.scores.shape == (3, 100)
        assert proposals.valid.shape == (3, 100)
        return proposals

    for a, e in zip(graph(*inputs), generate_proposals(*inputs, **NUMBERS), strict=True):
        np.testing.assert_array_equal(a, e)


def test_no_gradient(rng):
    logits, *rest = (tf.constant(i) for i in random_inputs(rng, [30]))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        scores = generate_proposals(logits, *rest, **NUMBERS).scores
    assert tape.gradient(scores, logits) is None


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros((2, 3, 1), np.float32), r"logits must have shape \[N, A\], got \[2,3,1\]"),
        (1, np.zeros((2, 3, 5), np.float32), r"deltas must have shape \[N, A, 4\]"),
        (1, np.zeros((2, 4, 4), np.float32), "deltas must have 3 on axis 1, as logits has, got 4"),
        (1, np.zeros((1, 3, 4), np.float32), "deltas must have 2 on axis 0, as logits has, got 1"),
        (2, np.zeros((4, 4), np.float32), "anchors must have 3 on axis 0"),
        (3, np.ones((3, 2), np.int32), "image_sizes must have 2 on axis 0"),
        (3, np.ones((2, 3), np.int32), r"image_sizes must have shape \[N, 2\]"),
        (4, np.array([1, 1], np.int32), r"level_sizes must add up to the number of anchors \(3\)"),
        (4, np.array([2**31 - 1, 2**31 - 1], np.int32), "level_sizes must add up"),
        (4, np.array([4, -1], np.int32), "level_sizes must add up|must not be negative"),
        (4, np.array([-1, 4], np.int32), "level_sizes must not be negative"),
    ],
)
def test_wrong_inputs_are_named(position, value, message):
    inputs = [
        np.zeros((2, 3), np.float32),
        np.zeros((2, 3, 4), np.float32),
        np.zeros((3, 4), np.float32),
        np.ones((2, 2), np.int32),
        np.array([2, 1], np.int32),
    ]
    inputs[position] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        generate_proposals(*inputs, **NUMBERS)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"nms_threshold": -0.1}, "nms_threshold must not be negative"),
        ({"nms_threshold": math.nan}, "nms_threshold must not be negative"),
        ({"pre_nms_top_k": 0}, "pre_nms_top_k"),
        ({"post_nms_top_k": 0}, "post_nms_top_k"),
        ({"num_proposals": 0}, "num_proposals"),
    ],
)
def test_wrong_options_are_named(option, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        propose([1], [A], **option)


SHARED_DATA = Path(os.environ.get("MRCNN_SHARED_DATA", Path(__file__).parent / "../../../../shared/data"))
GOLDEN = SHARED_DATA / "golden_tensorpack" / "inference.npz"


@pytest.mark.skipif(not GOLDEN.is_file(), reason=f"needs the recorded outputs of Tensorpack, {GOLDEN}")
def test_tensorpack():
    """The same logits and deltas give the same thousand proposals as in Tensorpack, with its options."""
    golden = np.load(GOLDEN)
    logits, deltas, anchors, level_sizes = [], [], [], []
    for level, stride in enumerate((4, 8, 16, 32, 64), start=2):
        level_logits = golden[f"rpn_logits_p{level}_nchw"][0]  # [3, H, W]
        num_anchors, height, width = level_logits.shape
        level_deltas = golden[f"rpn_deltas_p{level}_nchw"].reshape(num_anchors, 4, height, width)
        logits.append(level_logits.transpose(1, 2, 0).ravel())
        deltas.append(level_deltas.transpose(2, 3, 0, 1).reshape(-1, 4))
        y, x = np.mgrid[:height, :width] * stride
        for_each_ratio = []
        for ratio in (0.5, 1, 2):
            half_width, half_height = 4 * stride / math.sqrt(ratio), 4 * stride * math.sqrt(ratio)
            for_each_ratio.append(np.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1))
        anchors.append(np.stack(for_each_ratio, 2).reshape(-1, 4))
        level_sizes.append(len(anchors[-1]))
    proposals = generate_proposals(
        np.concatenate(logits)[None],
        np.concatenate(deltas)[None],
        np.concatenate(anchors).astype(np.float32),
        [golden["image_bgr_uint8"].shape[:2]],
        level_sizes,
        pre_nms_top_k=1000,
        post_nms_top_k=1000,
        num_proposals=1000,
        max_log_scale=math.log(544 / 16),
        keep_empty=True,
        keep_padding_anchors=True,
    )
    assert proposals.valid.numpy().all()
    distance = np.abs(proposals.boxes.numpy()[0][:, None] - golden["proposal_boxes_xyxy"][None]).max(-1)
    assert distance.min(0).max() < 1e-3
    assert distance.min(1).max() < 1e-3
    np.testing.assert_array_equal(proposals.scores[0], np.sort(golden["proposal_logits"])[::-1])
