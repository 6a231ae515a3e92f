import math

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model.boxes import generalized_iou
from mrcnn_model.structures import RoiTargets
from mrcnn_model.targets.losses import (
    box_class_loss,
    box_errors,
    box_regression_loss,
    huber,
    mask_loss,
    rpn_box_loss,
    rpn_class_loss,
    smooth_l1,
)

UNIT_WEIGHTS = [1.0, 1.0, 1.0, 1.0]


def rois_of(boxes, classes, deltas):
    shape = tf.shape(classes)
    return RoiTargets(
        tf.constant(boxes),
        tf.constant(classes),
        tf.constant(deltas),
        tf.zeros(shape, tf.int32),
        tf.ones(shape, tf.bool),
    )


def errors_of(deltas, rois, *, loss="huber", weights=UNIT_WEIGHTS):
    return box_errors(deltas, rois, weights=weights, loss=loss, beta=1 / 9, max_log_scale=4.0)


def test_smooth_l1_by_hand():
    # Below beta 0.5: 0.5 * 0.25^2 / 0.5 = 0.0625; above: |e| - 0.25.
    np.testing.assert_allclose(smooth_l1(tf.constant([0.25, -2.0, 0.0]), beta=0.5), [0.0625, 1.75, 0.0])
    np.testing.assert_allclose(huber(tf.constant([0.5, -3.0])), [0.125, 2.5])


def test_rpn_class_loss_divides_by_the_number_asked_for():
    logits = tf.constant([[0.0, 0.0, 100.0]])
    loss = rpn_class_loss(
        logits, tf.constant([[True, False, False]]), tf.constant([[True, True, False]]), normaliser=256
    )
    np.testing.assert_allclose(loss, 2 * math.log(2) / 256, rtol=1e-6)


def test_rpn_box_loss_counts_foreground_only():
    deltas = tf.constant([[[1.0, 0, 0, 0], [9.0, 9, 9, 9]]])
    loss = rpn_box_loss(deltas, tf.zeros_like(deltas), tf.constant([[True, False]]), beta=1.0, normaliser=4)
    np.testing.assert_allclose(loss, 0.5 / 4)


def test_box_class_loss_is_a_mean_per_image_then_over_images():
    logits = tf.zeros([2, 2, 4])  # every sample costs log(4)
    sampled = tf.constant([[True, True], [True, False]])
    np.testing.assert_allclose(box_class_loss(logits, tf.zeros([2, 2], tf.int32), sampled), math.log(4), rtol=1e-6)


def test_box_regression_uses_the_boxes_of_the_own_class():
    deltas = tf.constant([[[[7.0] * 4, [1.0] * 4, [3.0] * 4], [[7.0] * 4, [1.0] * 4, [3.0] * 4]]])  # [1, 2, 3, 4]
    rois = rois_of(np.zeros([1, 2, 4], np.float32), [[1, 0]], np.zeros([1, 2, 4], np.float32))
    errors = errors_of(deltas, rois, loss="l1")
    loss = box_regression_loss(errors, rois.classes, rois.sampled)
    np.testing.assert_allclose(loss, 4.0 / 2)  # four errors of 1; two sampled RoIs


@pytest.mark.parametrize(
    ("box_loss", "expected"),
    [
        # One error of 0.5 and one of 2. GIoU: see below.
        ("l1", 2.5),
        ("huber", 0.125 + 1.5),
        ("smooth_l1", 0.5 - 1 / 18 + 2 - 1 / 18),  # beta 1/9
    ],
)
def test_class_agnostic_box_losses_by_hand(box_loss, expected):
    deltas = tf.constant([[[[0.5, -2.0, 0.0, 0.0]]]])  # [1, 1, 1, 4]
    rois = rois_of(np.float32([[[0, 0, 1, 1]]]), [[2]], np.zeros([1, 1, 4], np.float32))
    np.testing.assert_allclose(errors_of(deltas, rois, loss=box_loss), [[expected]])


def test_giou_by_hand():
    # Overlap 1, union 7, hull 9: 1 / 7 - 2 / 9. Apart by one: union 2, hull 3: -1 / 3. Equal: 1. Nothing at all: 0 - 0.
    boxes = tf.constant([[0.0, 0, 2, 2], [0, 0, 1, 1], [3, 4, 9, 8], [0, 0, 0, 0]])
    others = tf.constant([[1.0, 1, 3, 3], [2, 0, 3, 1], [3, 4, 9, 8], [0, 0, 0, 0]])
    got = generalized_iou(boxes, others).numpy()
    np.testing.assert_allclose(got[:3], [1 / 7 - 2 / 9, -1 / 3, 1.0], rtol=1e-6)
    assert np.isfinite(got[3])


def test_giou_loss_compares_decoded_boxes():
    # The RoI [0, 0, 2, 2] moved by half its width, weight 2: delta 1. It should not have moved: overlap 2, union and
    # hull 6.
    deltas = tf.constant([[[[1.0, 0.0, 0.0, 0.0]]]])
    rois = rois_of(np.float32([[[0, 0, 2, 2]]]), [[1]], np.zeros([1, 1, 4], np.float32))
    with tf.GradientTape() as tape:
        tape.watch(deltas)
        errors = errors_of(deltas, rois, loss="giou", weights=[2.0, 2.0, 1.0, 1.0])
    np.testing.assert_allclose(errors, [[1 - 2 / 6]], rtol=1e-6)
    assert tape.gradient(errors, deltas)[0, 0, 0, 0] > 0  # moving further makes it worse


def test_mask_loss_over_rois_with_a_mask():
    logits = tf.zeros([2, 2, 4, 4])
    has_mask = tf.constant([[True, False], [False, False]])
    # The first image: log 2; the second adds 0 and counts.
    np.testing.assert_allclose(mask_loss(logits, tf.ones_like(logits), has_mask), math.log(2) / 2, rtol=1e-6)


def test_masked_infinities_do_not_reach_the_loss():
    logits = tf.constant([[0.0, math.inf]])
    loss = rpn_class_loss(logits, tf.constant([[True, True]]), tf.constant([[True, False]]), normaliser=1)
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-6)


def test_empty_batches_have_zero_loss_and_zero_gradients():
    nothing = tf.zeros([2, 3], tf.bool)
    classes = tf.zeros([2, 3], tf.int32)
    rois = rois_of(np.zeros([2, 3, 4], np.float32), classes, np.zeros([2, 3, 4], np.float32))
    logits, deltas, masks = tf.zeros([2, 3, 5]), tf.zeros([2, 3, 5, 4]), tf.zeros([2, 3, 4, 4])
    with tf.GradientTape() as tape:
        tape.watch([logits, deltas, masks])
        total = (
            box_class_loss(logits, classes, nothing)
            + box_regression_loss(errors_of(deltas, rois), classes, nothing)
            + mask_loss(masks, masks, nothing)
        )
    assert float(total) == 0.0
    for gradient in tape.gradient(total, [logits, deltas, masks]):
        assert gradient is not None
        assert not np.any(tf.convert_to_tensor(gradient))
