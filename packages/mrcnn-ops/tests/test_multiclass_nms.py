"""Class-wise NMS: by hand, against the twin, and at the edges."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ops import multiclass_nms

NUMBERS = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 10}

A, B, FAR = [10, 10, 30, 30], [12, 10, 32, 30], [60, 60, 90, 90]  # IoU of A and B: 18 / 22


def detect(boxes, scores, **options):
    """Detections of one image with shared boxes, without padding, as tuples (roi, class, score)."""
    detections = multiclass_nms(
        np.asarray(boxes, np.float32).reshape(1, -1, 1, 4), np.asarray([scores], np.float32), **{**NUMBERS, **options}
    )
    valid = detections.valid.numpy()[0]
    assert not np.any(valid[1:] & ~valid[:-1]), "the valid ones come first"
    for field in detections[:4]:
        assert np.all(field.numpy()[0, ~valid] == 0)
    rois, classes = detections.roi_indices.numpy()[0, valid], detections.classes.numpy()[0, valid]
    np.testing.assert_array_equal(
        detections.boxes.numpy()[0, valid], np.asarray(boxes, np.float32)[rois].reshape(-1, 4)
    )
    scores = detections.scores.numpy()[0, valid]
    return [(int(r), int(c), round(float(s), 4)) for r, c, s in zip(rois, classes, scores, strict=True)]


class TestByHand:
    def test_overlapping_boxes_of_one_class(self):
        assert detect([A, B, FAR], [[0.6], [0.9], [0.7]]) == [(1, 1, 0.9), (2, 1, 0.7)]

    def test_classes_do_not_suppress_each_other(self):
        assert detect([A, B], [[0.6, 0.1], [0.5, 0.8]]) == [(1, 2, 0.8), (0, 1, 0.6)]

    def test_far_coordinates_and_high_classes(self):
        # Shifted by class in float16, or even float32, boxes far out would merge or part.
        box = [3500, 3500, 3501, 3501]
        next_to_it = [3501, 3500, 3502, 3501]
        scores = np.zeros((2, 90), np.float32)
        scores[:, 17] = [0.9, 0.8]
        scores[:, 18] = [0.7, 0.6]
        assert detect([box, next_to_it], scores) == [(0, 18, 0.9), (1, 18, 0.8), (0, 19, 0.7), (1, 19, 0.6)]

    def test_score_threshold_is_exclusive(self):
        assert detect([A, FAR], [[0.5], [0.25]], score_threshold=0.25) == [(0, 1, 0.5)]

    def test_ties_go_by_class_then_roi(self):
        assert detect([FAR, A], [[0.5, 0.5], [0.5, 0.5]]) == [(0, 1, 0.5), (1, 1, 0.5), (0, 2, 0.5), (1, 2, 0.5)]
        assert detect([A, B], [[0.5], [0.5]]) == [(0, 1, 0.5)]

    def test_the_best_of_the_image_remain(self):
        scores = [[0.1, 0.4], [0.9, 0.2]]
        assert detect([A, FAR], scores, max_detections=3) == [(1, 1, 0.9), (0, 2, 0.4), (1, 2, 0.2)]

    def test_padding_rois_are_never_kept(self):
        assert detect([A, [0, 0, 0, 0]], [[0.5], [0.0]], score_threshold=0.0) == [(0, 1, 0.5)]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_scores_are_never_kept(self, bad):
        assert detect([A, FAR], [[bad], [0.3]], score_threshold=-np.inf) == [(1, 1, 0.3)]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_non_finite_boxes_are_dropped(self, bad):
        assert detect([[bad, 0, 5, 5], A], [[0.9], [0.3]]) == [(1, 1, 0.3)]

    def test_zero_area_boxes_suppress_nothing(self):
        point = [5, 5, 5, 5]
        assert detect([point, point, [0, 0, 9, 9]], [[0.9], [0.8], [0.7]]) == [(0, 1, 0.9), (1, 1, 0.8), (2, 1, 0.7)]

    def test_boxes_of_each_class(self):
        boxes = np.array([[[A, FAR], [B, A]]], np.float32)
        detections = multiclass_nms(boxes, np.array([[[0.9, 0.8], [0.7, 0.6]]], np.float32), **NUMBERS)
        assert detections.boxes.numpy()[0, :3].tolist() == [A, FAR, A]
        assert detections.classes.numpy()[0, :4].tolist() == [1, 2, 2, 0]
        assert detections.roi_indices.numpy()[0, :3].tolist() == [0, 0, 1]


def assert_equal(actual, expected):
    for name, a, e in zip(actual._fields, actual, expected, strict=True):
        np.testing.assert_array_equal(a, e, err_msg=name)


@pytest.mark.parametrize("num_rois", [0, 1, 63, 64, 65])
@pytest.mark.parametrize("shared", [True, False])
def test_roi_counts(reference, rng, random_boxes, num_rois, shared):
    boxes = random_boxes(rng, (2, num_rois, 1 if shared else 3), 64, 64)
    scores = rng.integers(0, 12, (2, num_rois, 3)).astype(np.float32) / 12  # ties
    for options in (NUMBERS, {**NUMBERS, "max_detections": 200, "nms_threshold": 0.2}):
        assert_equal(multiclass_nms(boxes, scores, **options), reference.multiclass_nms(boxes, scores, **options))


@settings(max_examples=80, deadline=None)
@given(
    num_images=st.integers(0, 3),
    num_rois=st.integers(0, 20),
    num_classes=st.integers(0, 4),
    shared=st.booleans(),
    max_detections=st.integers(1, 30),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_ties(reference, num_images, num_rois, num_classes, shared, max_detections, threshold, seed):
    rng = np.random.default_rng(seed)
    boxes = rng.integers(0, 5, (num_images, num_rois, 1 if shared else num_classes, 4)).astype(np.float32)
    scores = rng.integers(0, 4, (num_images, num_rois, num_classes)).astype(np.float32) / 4
    options = {"score_threshold": 0.0, "nms_threshold": threshold, "max_detections": max_detections}
    assert_equal(multiclass_nms(boxes, scores, **options), reference.multiclass_nms(boxes, scores, **options))


def test_four_thousand_boxes(rng, random_boxes):
    boxes = random_boxes(rng, (1, 4000, 1), 800, 1344)
    scores = rng.permutation(4000).astype(np.float32)[None, :, None]
    detections = multiclass_nms(boxes, scores, score_threshold=-1.0, nms_threshold=0.5, max_detections=4000)
    tensorflow_nms = tf.image.non_max_suppression(boxes[0, :, 0], scores[0, :, 0], 4000, 0.5)
    valid = detections.valid.numpy()[0]
    np.testing.assert_array_equal(detections.roi_indices.numpy()[0, valid], tensorflow_nms)


def test_a_batch_gives_what_each_image_gives_alone(rng, random_boxes):
    boxes, scores = random_boxes(rng, (4, 50, 3), 64, 64), rng.random((4, 50, 3)).astype(np.float32)
    scores[2] = 0
    together = multiclass_nms(boxes, scores, **NUMBERS)
    assert not together.valid[2].numpy().any()
    for n in range(4):
        assert_equal(multiclass_nms(boxes[n : n + 1], scores[n : n + 1], **NUMBERS), [t[n : n + 1] for t in together])


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(width=32), min_size=50, max_size=50))
def test_any_float_gives_finite_boxes(values):
    values = np.array(values, np.float32)
    detections = multiclass_nms(
        values[:40].reshape(1, 10, 1, 4), values[40:].reshape(1, 10, 1), **{**NUMBERS, "score_threshold": -1e30}
    )
    assert np.isfinite(detections.boxes).all()
    assert np.isfinite(detections.scores).all()


def test_static_shapes_and_same_values_in_a_graph(rng, random_boxes):
    boxes = tf.constant(random_boxes(rng, (2, 30, 3), 64, 64))
    scores = tf.constant(rng.random((2, 30, 3)).astype(np.float32))

    @tf.function
    def graph(boxes, scores):
        detections = multiclass_nms(boxes, scores, **NUMBERS)
        assert detections.boxes.shape == (2, 10, 4)
        assert all(field.shape == (2, 10) for field in detections[1:])
        return detections

    assert_equal(graph(boxes, scores), multiclass_nms(boxes, scores, **NUMBERS))


@pytest.mark.parametrize(
    ("boxes", "scores", "options", "message"),
    [
        ((2, 3, 2, 4), (2, 3, 4), {}, r"boxes must have 4 on axis 2, as scores \(or 1\) has, got 2"),
        ((2, 3, 1, 4), (2, 4, 4), {}, "boxes must have 4 on axis 1, as scores has, got 3"),
        ((1, 3, 1, 4), (2, 3, 4), {}, "boxes must have 2 on axis 0"),
        ((2, 3, 4), (2, 3, 4), {}, r"boxes must have shape \[N, R, C, 4\], got \[2,3,4\]"),
        ((2, 3, 1, 4), (2, 3), {}, r"scores must have shape \[N, R, C\]"),
        ((2, 3, 1, 4), (2, 3, 4), {"nms_threshold": -1.0}, "nms_threshold must not be negative"),
        ((2, 3, 1, 4), (2, 3, 4), {"max_detections": 0}, "max_detections"),
    ],
)
def test_wrong_inputs_are_named(boxes, scores, options, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        multiclass_nms(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), **{**NUMBERS, **options})
