"""The portable ops give the results of the compiled ones, on random inputs, some with equal scores."""

import numpy as np
import pytest
import tensorflow as tf

import mrcnn_ops
from mrcnn_model.export.portable import generate_proposals, multiclass_nms, multilevel_roi_align

STRIDES = (4, 8, 16, 32)


def random_boxes(rng, shape, *, width, height, edges):
    size = np.exp(rng.uniform(*np.log(edges), [*shape, 2]))
    centre = rng.uniform(0, 1, [*shape, 2]) * [width, height]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1).astype(np.float32)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float16])
def test_roi_align(aligned, dtype):
    rng = np.random.default_rng(0)
    features = [tf.constant(rng.standard_normal([2, 128 // s, 192 // s, 5]), dtype) for s in STRIDES]
    boxes = random_boxes(rng, [2, 40], width=192, height=128, edges=(0.5, 400))  # many leave the image
    boxes[0, 0] = 20, 30, 20 + 56, 30 + 56  # between two levels
    boxes[0, 1] = 5, 5, 5, 9  # no width
    boxes[0, 2] = np.nan
    options = {"strides": STRIDES, "output_size": 7, "aligned": aligned, "canonical_size": 56.0}
    got = multilevel_roi_align(features, tf.constant(boxes), **options)
    expected = mrcnn_ops.multilevel_roi_align(features, boxes, **options)
    assert got.dtype == expected.dtype == dtype
    assert got.shape == expected.shape == [2, 40, 7, 7, 5]
    np.testing.assert_allclose(got, expected, atol=1e-4 if dtype == tf.float32 else 2e-3)
    assert not got[0, 2].numpy().any()


@pytest.mark.parametrize("keep", [False, True])
def test_proposals(keep):
    rng = np.random.default_rng(1)
    level_sizes = [300, 75, 3]
    anchors = random_boxes(rng, [378], width=96, height=64, edges=(8, 64))
    logits = rng.standard_normal([2, 378]).astype(np.float32)
    logits[0, :4] = np.nan, np.inf, -np.inf, 30.0
    logits[1, ::10] = 0.5  # ties within levels and between them
    deltas = rng.normal(0, 0.5, [2, 378, 4]).astype(np.float32)
    deltas[0, 3] = np.inf, 0, 0, 0
    deltas[1, 5] = 100
    sizes = tf.constant([[64, 96], [40, 50]])
    options = {
        "pre_nms_top_k": 60,
        "post_nms_top_k": 20,
        "num_proposals": 50,
        "nms_threshold": 0.7,
        "max_log_scale": 4.0,
        "keep_empty": keep,
        "keep_padding_anchors": keep,
    }
    inputs = [tf.constant(x) for x in (logits, deltas, anchors)] + [sizes, tf.constant(level_sizes)]
    boxes, scores, valid = generate_proposals(*inputs, **options)
    expected = mrcnn_ops.generate_proposals(*inputs, **options)
    np.testing.assert_array_equal(valid, expected.valid)
    assert valid.numpy().any()
    assert not valid.numpy().all()
    np.testing.assert_allclose(scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)


@pytest.mark.parametrize("num_boxes", [3, 1])
def test_class_wise_nms(num_boxes):
    rng = np.random.default_rng(2)
    boxes = random_boxes(rng, [2, 80, num_boxes], width=60, height=60, edges=(10, 40))
    scores = rng.uniform(0, 1, [2, 80, 3]).astype(np.float32)
    boxes[0, 3], scores[0, 4, 1], scores[1, 10:] = np.nan, np.inf, 0.0
    scores[:, :10:2] = 0.6  # ties within classes and between them
    inputs = tf.constant(boxes), tf.constant(scores)
    options = {"score_threshold": 0.3, "nms_threshold": 0.5, "max_detections": 30}
    got, expected = multiclass_nms(*inputs, **options), mrcnn_ops.multiclass_nms(*inputs, **options)
    for name in expected._fields:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), err_msg=name)
    assert got.valid.numpy().sum() not in (0, 60)


def test_nothing_found():
    found = multiclass_nms(
        tf.zeros([2, 0, 1, 4]), tf.zeros([2, 0, 3]), score_threshold=0.0, nms_threshold=0.5, max_detections=4
    )
    assert not found.valid.numpy().any()
    assert not found.classes.numpy().any()
