"""Matching: by hand, against the twin (which makes the whole matrix), and at the edges."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ops import match_boxes


def match(boxes, gt_boxes, *, crowds=(), gt_valid=None, boxes_valid=None):
    """Matches of one image, as lists."""
    gt_boxes = np.asarray(gt_boxes, np.float32).reshape(1, -1, 4)
    matches = match_boxes(
        np.asarray(boxes, np.float32),
        gt_boxes,
        np.ones(gt_boxes.shape[:2], bool) if gt_valid is None else [gt_valid],
        np.asarray(crowds, np.float32).reshape(1, -1, 4),
        boxes_valid=None if boxes_valid is None else [boxes_valid],
    )
    return [field.numpy()[0].tolist() for field in matches]


class TestByHand:
    def test_best_ground_truth(self):
        iou, gt, best, _ = match([[0, 0, 10, 10], [5, 0, 15, 10], [90, 90, 99, 99]], [[0, 0, 10, 8], [6, 0, 16, 10]])
        np.testing.assert_allclose(iou, [0.8, 90 / 110, 0])
        assert gt == [0, 1, 0]
        assert best == [True, True, False]

    def test_ties_go_to_the_lower_ground_truth_and_to_all_boxes(self):
        iou, gt, best, _ = match([[0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 1, 1]], [[5, 0, 15, 10], [5, 0, 15, 10]])
        np.testing.assert_allclose(iou, [1 / 3, 1 / 3, 0])
        assert gt == [0, 0, 0]
        assert best == [True, True, False]

    def test_a_ground_truth_that_nothing_touches_has_no_best_box(self):
        assert match([[0, 0, 1, 1]], [[5, 5, 9, 9]]) == [[0], [0], [False], [0]]

    def test_padding_ground_truths_are_not_there(self):
        boxes = [[0, 0, 10, 10]]
        gt_boxes = [[0, 0, 10, 10], [0, 0, 10, 5]]
        assert match(boxes, gt_boxes, gt_valid=[False, True])[:3] == [[0.5], [1], [True]]
        assert match(boxes, gt_boxes, gt_valid=[False, False])[:3] == [[0], [-1], [False]]

    def test_no_ground_truth(self):
        assert match([[0, 0, 10, 10]], []) == [[0], [-1], [False], [0]]

    def test_crowd_overlap_is_a_share_of_the_box(self):
        crowds = [[0, 0, 5, 100], [0, 0, 100, 8], [0, 0, 0, 0]]
        *_, overlap = match([[0, 0, 10, 10], [0, 0, 4, 4], [200, 200, 210, 210], [3, 3, 3, 3]], [], crowds=crowds)
        np.testing.assert_allclose(overlap, [0.8, 1, 0, 0])

    def test_boxes_that_are_not_valid(self):
        boxes = [[0, 0, 10, 10], [0, 0, 10, 8]]
        actual = match(boxes, [[0, 0, 10, 10]], crowds=[[0, 0, 50, 50]], boxes_valid=[False, True])
        np.testing.assert_allclose(actual[0], [0, 0.8])
        assert actual[1:] == [[-1, 0], [False, True], [0, 1]]

    def test_zero_area_and_inverted_boxes_overlap_nothing(self):
        boxes = [[5, 5, 5, 9], [9, 9, 2, 2], [9, 2, 2, 9]]
        iou, _, best, overlap = match(boxes, [[0, 0, 10, 10], [5, 5, 5, 9]], crowds=[[0, 0, 10, 10]])
        assert iou == [0, 0, 0]
        assert best == [False] * 3
        assert overlap == [0, 0, 0]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("position", range(4))
    def test_a_box_that_is_not_finite_leaves_the_others_alone(self, bad, position):
        boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (9, 1))
        boxes[4, position] = bad
        iou, gt, best, overlap = match(boxes, [[0, 0, 10, 5]], crowds=[[0, 0, 10, 5]])
        others = [i for i in range(9) if i != 4]
        assert [iou[i] for i in others] == [0.5] * 8
        assert [best[i] for i in others] == [True] * 8
        assert [overlap[i] for i in others] == [0.5] * 8
        if not np.isnan(bad):
            assert np.isfinite([iou[4], overlap[4]]).all()
        else:
            assert (iou[4], best[4], overlap[4]) == (0, False, 0)
        # The same for ground truths: the valid one is matched as if the other did not exist.
        gt_boxes = boxes[3:5]
        iou, gt, best, _ = match([[0, 0, 10, 5]], gt_boxes)
        assert (gt, best) == ([0], [True])
        assert iou == [0.5]


def random_problem(rng, random_boxes, *, num_images=2, num_boxes=40, num_gt=6, num_crowds=2, shared=False):
    boxes = random_boxes(rng, (num_boxes,) if shared else (num_images, num_boxes), 64, 64)
    gt_boxes = random_boxes(rng, (num_images, num_gt), 64, 64)
    gt_valid = rng.random((num_images, num_gt)) < 0.7
    crowd_boxes = random_boxes(rng, (num_images, num_crowds), 64, 64) * (rng.random((num_images, num_crowds, 1)) < 0.7)
    return boxes, gt_boxes, gt_valid, crowd_boxes.astype(np.float32)


def assert_equal(actual, expected):
    for name, a, e in zip(actual._fields, actual, expected, strict=True):
        np.testing.assert_array_equal(a, e, err_msg=name)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("num_boxes", [0, 1, 7, 8, 9, 63, 64, 65])
def test_box_counts(reference, rng, random_boxes, num_boxes, shared):
    problem = random_problem(rng, random_boxes, num_boxes=num_boxes, shared=shared)
    boxes_valid = rng.random((2, num_boxes)) < 0.8
    assert_equal(match_boxes(*problem), reference.match_boxes(*problem))
    assert_equal(match_boxes(*problem, boxes_valid=boxes_valid), reference.match_boxes(*problem, boxes_valid))


@pytest.mark.parametrize(("num_gt", "num_crowds"), [(0, 0), (0, 3), (1, 0), (64, 1), (65, 9)])
def test_ground_truth_counts(reference, rng, random_boxes, num_gt, num_crowds):
    problem = random_problem(rng, random_boxes, num_boxes=30, num_gt=num_gt, num_crowds=num_crowds)
    assert_equal(match_boxes(*problem), reference.match_boxes(*problem))


def test_more_boxes_than_one_block(rng, random_boxes):
    # Blocks hold 4,096 boxes; the best box of a ground truth may be in any of them, or tie across them.
    boxes = random_boxes(rng, (10_000,), 300, 300)
    boxes[9_000:9_100] = boxes[:100]
    gt_boxes = random_boxes(rng, (1, 30), 300, 300)
    actual = match_boxes(boxes, gt_boxes, np.ones((1, 30), bool), np.zeros((1, 0, 4), np.float32))
    low = np.maximum(boxes[:, None, :2], gt_boxes[:, :, :2])
    high = np.minimum(boxes[:, None, 2:], gt_boxes[:, :, 2:])
    part = np.prod(np.maximum(high - low, np.float32(0)), -1)  # [A, G]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)[:, None] + np.prod(gt_boxes[0, :, 2:] - gt_boxes[0, :, :2], -1)
    iou = part / (areas - part)
    np.testing.assert_array_equal(actual.best_iou[0], iou.max(1))
    np.testing.assert_array_equal(actual.best_gt[0], iou.argmax(1))
    np.testing.assert_array_equal(actual.is_best_for_gt[0], ((iou == iou.max(0)) & (iou > 0)).any(1))


def test_two_thousand_ground_truths(rng, random_boxes):
    boxes = random_boxes(rng, (3, 500), 800, 800)
    gt_boxes = np.concatenate([random_boxes(rng, (3, 1500), 800, 800), boxes], 1)
    actual = match_boxes(boxes, gt_boxes, np.ones((3, 2000), bool), np.zeros((3, 1, 4), np.float32))
    # Every box is among the ground truths itself.
    np.testing.assert_array_equal(actual.best_iou, np.ones((3, 500)))
    np.testing.assert_array_equal(actual.best_gt, np.tile(np.arange(1500, 2000), (3, 1)))
    assert np.all(actual.is_best_for_gt)


@settings(max_examples=80, deadline=None)
@given(
    num_images=st.integers(0, 3),
    num_boxes=st.integers(0, 20),
    num_gt=st.integers(0, 6),
    num_crowds=st.integers(0, 3),
    shared=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_ties(reference, num_images, num_boxes, num_gt, num_crowds, shared, seed):
    # Boxes on a grid of 5 x 5: equal boxes, equal IoUs, zero areas and inversions all occur.
    rng = np.random.default_rng(seed)
    boxes = rng.integers(0, 5, (num_boxes, 4) if shared else (num_images, num_boxes, 4)).astype(np.float32)
    gt_boxes = rng.integers(0, 5, (num_images, num_gt, 4)).astype(np.float32)
    crowd_boxes = rng.integers(0, 5, (num_images, num_crowds, 4)).astype(np.float32)
    gt_valid = rng.random((num_images, num_gt)) < 0.8
    boxes_valid = rng.random((num_images, num_boxes)) < 0.8
    problem = boxes, gt_boxes, gt_valid, crowd_boxes
    assert_equal(match_boxes(*problem), reference.match_boxes(*problem))
    assert_equal(match_boxes(*problem, boxes_valid=boxes_valid), reference.match_boxes(*problem, boxes_valid))


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=64, max_size=64))
def test_any_float_gives_finite_results(values):
    values = np.array(values, np.float32).reshape(16, 4)
    matches = match_boxes(values[:9], values[None, 9:14], np.ones((1, 5), bool), values[None, 14:])
    assert np.isfinite(matches.best_iou).all()
    assert np.isfinite(matches.crowd_overlap).all()
    assert np.all(matches.best_gt.numpy() >= 0)


@pytest.mark.parametrize("shared", [True, False])
def test_static_shapes_and_same_values_in_a_graph(rng, random_boxes, shared):
    problem = [tf.constant(p) for p in random_problem(rng, random_boxes, shared=shared)]
    boxes_valid = tf.constant(rng.random((2, 40)) < 0.8)

    @tf.function
    def graph(*problem):
        for matches in (match_boxes(*problem), match_boxes(*problem, boxes_valid=boxes_valid)):
            assert all(field.shape == (2, 40) for field in matches)
        return matches

    assert_equal(graph(*problem), match_boxes(*problem, boxes_valid=boxes_valid))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((5, 3))}, r"boxes must have shape \[A, 4\]"),
        ({"boxes": np.zeros((3, 5, 4))}, "boxes must have 2 on axis 0, as gt_boxes has, got 3"),
        ({"gt_boxes": np.zeros((2, 4))}, r"gt_boxes must have shape \[N, G, 4\]"),
        ({"gt_valid": np.zeros((2, 4), bool)}, "gt_valid must have 3 on axis 1, as gt_boxes has, got 4"),
        ({"gt_valid": np.zeros((1, 3), bool)}, "gt_valid must have 2 on axis 0"),
        ({"crowd_boxes": np.zeros((1, 3, 4))}, "crowd_boxes must have 2 on axis 0"),
        ({"boxes_valid": np.zeros((2, 6), bool)}, "boxes_valid must have 5 on axis 1, as boxes has, got 6"),
        ({"boxes_valid": np.zeros(5, bool)}, r"boxes_valid must have shape \[N, A\]"),
        ({"boxes": np.zeros(4)}, r"boxes must have shape \[A, 4\] or \[N, A, 4\]"),
    ],
)
def test_wrong_inputs_are_named(changes, message):
    inputs = {
        "boxes": np.zeros((5, 4)),
        "gt_boxes": np.zeros((2, 3, 4)),
        "gt_valid": np.ones((2, 3), bool),
        "crowd_boxes": np.zeros((2, 1, 4)),
        **changes,
    }
    inputs = {name: value.astype(np.float32) if value.dtype == float else value for name, value in inputs.items()}
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        match_boxes(**inputs)
