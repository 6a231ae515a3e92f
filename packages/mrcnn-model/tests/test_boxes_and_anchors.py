import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model.anchors import cell_anchors, level_anchors
from mrcnn_model.boxes import boxes_inside, clip_boxes, decode_boxes, encode_boxes

WEIGHTS = [10.0, 10.0, 5.0, 5.0]


def test_cell_anchors_by_hand():
    # Area 16 * 16; ratio 1: a square; ratio 4: half as wide, twice as high.
    np.testing.assert_allclose(cell_anchors(16, [1.0, 4.0]), [[-8, -8, 8, 8], [-4, -16, 4, 16]])


def test_anchors_are_centred_on_multiples_of_the_stride_row_major():
    anchors = level_anchors(2, 3, stride=8, size=4, ratios=[1.0]).numpy()
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    np.testing.assert_array_equal(centres, [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]])


def test_encode_by_hand():
    anchor = tf.constant([[0.0, 0.0, 10.0, 20.0]])
    box = tf.constant([[5.0, 0.0, 15.0, 40.0]])  # centre (10, 20) against (5, 10); twice as high
    np.testing.assert_allclose(encode_boxes(box, anchor, [1, 1, 1, 1])[0], [0.5, 0.5, 0.0, math.log(2)], atol=1e-6)


def test_decode_inverts_encode():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, [2, 50, 2])
    boxes, anchors = (
        tf.constant(np.concatenate([c, c + rng.uniform(1, 50, [50, 2])], axis=1), tf.float32) for c in corners
    )
    decoded = decode_boxes(encode_boxes(boxes, anchors, WEIGHTS), anchors, WEIGHTS, max_log_scale=10.0)
    np.testing.assert_allclose(decoded, boxes, atol=1e-3)


def test_decode_clamps_the_exponent():
    anchor = tf.constant([[0.0, 0.0, 2.0, 2.0]])
    decoded = decode_boxes(tf.constant([[0.0, 0.0, 100.0, 100.0]]), anchor, [1, 1, 1, 1], max_log_scale=math.log(10))
    np.testing.assert_allclose(decoded[0], [-9, -9, 11, 11], rtol=1e-5)  # 2 px grown tenfold around (1, 1)


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [5, 5, 5, 9], [9, 9, 3, 3]])
def test_encode_stays_finite_for_degenerate_boxes(box):
    good = tf.constant([[0.0, 0.0, 8.0, 8.0]])
    bad = tf.constant([box], tf.float32)
    assert np.isfinite(encode_boxes(bad, good, WEIGHTS)).all()
    assert np.isfinite(encode_boxes(good, bad, WEIGHTS)).all()


def test_clip_to_each_images_own_size():
    boxes = tf.constant([[[-5.0, -5.0, 200.0, 200.0]], [[150.0, 0.0, 200.0, 10.0]]])
    clipped = clip_boxes(boxes, tf.constant([[[50, 100]], [[50, 100]]]))
    np.testing.assert_array_equal(clipped[:, 0], [[0, 0, 100, 50], [100, 0, 100, 10]])


def test_inside_is_inclusive_and_per_image():
    anchors = tf.constant([[0.0, 0.0, 10.0, 10.0], [-1.0, 0.0, 5.0, 5.0], [0.0, 0.0, 10.0, 12.0]])
    inside = boxes_inside(anchors, tf.constant([[10, 10], [12, 10]]))
    np.testing.assert_array_equal(inside, [[True, False, False], [True, False, True]])
