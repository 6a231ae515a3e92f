import math

import numpy as np
import tensorflow as tf

from mrcnn_model.losses import (
    box_class_loss,
    box_regression_loss,
    huber,
    mask_loss,
    rpn_box_loss,
    rpn_class_loss,
    smooth_l1,
)


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
    classes = tf.constant([[1, 0]])
    loss = box_regression_loss(deltas, tf.zeros([1, 2, 4]), classes, tf.constant([[True, True]]), element_loss=tf.abs)
    np.testing.assert_allclose(loss, 4.0 / 2)  # four errors of 1; two sampled RoIs


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
    logits, deltas, masks = tf.zeros([2, 3, 5]), tf.zeros([2, 3, 5, 4]), tf.zeros([2, 3, 4, 4])
    with tf.GradientTape() as tape:
        tape.watch([logits, deltas, masks])
        total = (
            box_class_loss(logits, classes, nothing)
            + box_regression_loss(deltas, tf.zeros([2, 3, 4]), classes, nothing, element_loss=huber)
            + mask_loss(masks, masks, nothing)
        )
    assert float(total) == 0.0
    for gradient in tape.gradient(total, [logits, deltas, masks]):
        assert gradient is not None
        assert not np.any(tf.convert_to_tensor(gradient))
