"""All ops in graphs: saved and loaded, traced with wrong shapes, and in half precision without casts."""

import re

import numpy as np
import pytest
import tensorflow as tf

import mrcnn_ops

STRIDES = (4, 8)


def align(fine, coarse, boxes):
    return mrcnn_ops.multilevel_roi_align([fine, coarse], boxes, strides=STRIDES, output_size=3)


def propose(logits, deltas, anchors, image_sizes, level_sizes):
    numbers = {"pre_nms_top_k": 9, "post_nms_top_k": 8, "num_proposals": 7}
    return mrcnn_ops.generate_proposals(logits, deltas, anchors, image_sizes, level_sizes, **numbers)


def match(boxes, gt_boxes, gt_valid, crowd_boxes, boxes_valid):
    return mrcnn_ops.match_boxes(boxes, gt_boxes, gt_valid, crowd_boxes, boxes_valid=boxes_valid)


def detect(boxes, scores):
    return mrcnn_ops.multiclass_nms(boxes, scores, score_threshold=0.1, nms_threshold=0.5, max_detections=6)


def encode(masks, boxes, image_sizes):
    return mrcnn_ops.encode_masks(masks, boxes, image_sizes)


def fold(kernel, gamma, beta, mean, variance):
    return mrcnn_ops.fold_batch_norm(kernel, gamma, beta, mean, variance, epsilon=1e-3)


def normalise(x, gamma, beta):
    return mrcnn_ops.group_norm(x, gamma, beta, groups=2, relu=True)


# Name of each input -> its shape; "int" marks whole numbers.
INPUTS = {
    align: {"features[0]": (2, 16, 16, 5), "features[1]": (2, 8, 8, 5), "boxes": (2, 6, 4)},
    propose: {
        "logits": (2, 20),
        "deltas": (2, 20, 4),
        "anchors": (20, 4),
        "image_sizes": ("int", 2, 2),
        "level_sizes": ("int", 2),
    },
    match: {
        "boxes": (2, 30, 4),
        "gt_boxes": (2, 5, 4),
        "gt_valid": ("bool", 2, 5),
        "crowd_boxes": (2, 3, 4),
        "boxes_valid": ("bool", 2, 30),
    },
    detect: {"boxes": (2, 9, 3, 4), "scores": (2, 9, 3)},
    fold: {"kernel": (3, 3, 5, 8), "gamma": (8,), "beta": (8,), "mean": (8,), "variance": (8,)},
    normalise: {"x": (2, 5, 6, 8), "gamma": (8,), "beta": (8,)},
    encode: {"masks": (4, 7, 7), "boxes": (4, 4), "image_sizes": ("int", 4, 2)},
}
OPS = list(INPUTS)


def value_of(rng, name, shape):
    kind, shape = (shape[0], shape[1:]) if isinstance(shape[0], str) else ("float", shape)
    if kind == "bool":
        return tf.constant(rng.random(shape) < 0.8)
    if kind == "int":
        return tf.constant(np.full(shape, 60 if name == "image_sizes" else 10), tf.int32)
    if "boxes" in name or name == "anchors":
        corners = rng.uniform(0, 64, (*shape[:-1], 2, 2))
        return tf.constant(np.concatenate([corners.min(-2), corners.max(-2)], -1), tf.float32)
    return tf.constant(rng.random(shape), tf.float32)


def inputs_of(rng, op):
    return [value_of(rng, name, shape) for name, shape in INPUTS[op].items()]


def any_shape(tensor):
    return tf.TensorSpec([None] * tensor.shape.rank, tensor.dtype)


@pytest.mark.parametrize("op", OPS)
def test_saved_model(rng, tmp_path, op):
    inputs = inputs_of(rng, op)
    module = tf.Module()
    # Only ranks are known when it is traced.
    module.run = tf.function(op, input_signature=[any_shape(x) for x in inputs])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.nest.flatten(tf.saved_model.load(str(tmp_path)).run(*inputs))
    for ours, direct in zip(loaded, tf.nest.flatten(op(*inputs)), strict=True):
        np.testing.assert_array_equal(ours, direct)


@pytest.mark.parametrize("op", OPS)
def test_shapes_stay_known(rng, op):
    inputs = inputs_of(rng, op)
    outputs = tf.nest.flatten(tf.function(op).get_concrete_function(*inputs).structured_outputs)
    for traced, direct in zip(outputs, tf.nest.flatten(op(*inputs)), strict=True):
        assert traced.shape == direct.shape


WRONG = [
    (op, name, change)
    for op, inputs in INPUTS.items()
    for name in inputs
    for change in ("rank", "last axis")
    if not (
        change == "last axis" and name in ("level_sizes", "features[0]", "logits", "scores", "gt_valid", "kernel", "x")
    )
]


@pytest.mark.parametrize(("op", "name", "change"), WRONG)
def test_tracing_and_running_name_the_wrong_input_in_the_same_words(rng, op, name, change):
    """The axes of `features[0]`, `kernel` and so on stay as they are: the other inputs are compared with them."""
    inputs = inputs_of(rng, op)
    position = list(INPUTS[op]).index(name)
    wrong = inputs[position][None] if change == "rank" else tf.concat([inputs[position]] * 2, -1)
    inputs[position] = wrong
    if (op, name, change) == (
        match,
        "boxes",
        "rank",
    ):  # the Python function refuses it
        with pytest.raises(ValueError, match="boxes must have shape"):
            op(*inputs)
        return
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(name) + " must have") as eager:
        op(*inputs)
    message = re.search(re.escape(name) + r" must have .*(?= \[Op:)", str(eager.value)).group()
    with pytest.raises(ValueError, match=re.escape(message)):
        tf.function(op).get_concrete_function(*inputs)


def test_detections_of_another_number_of_classes_are_refused_when_traced():
    with pytest.raises(ValueError, match=r"boxes must have 4 on axis 2, as scores \(or 1\) has, got 3"):
        tf.function(detect).get_concrete_function(tf.zeros((1, 2, 3, 4)), tf.zeros((1, 2, 4)))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_needs_no_cast(rng, dtype):
    fine, coarse, boxes = inputs_of(rng, align)

    @tf.function
    def graph(fine, coarse, boxes):
        with tf.GradientTape() as tape:
            tape.watch([fine, coarse])
            crops = align(fine, coarse, boxes)
        return crops, tape.gradient(crops, [fine, coarse])

    function = graph.get_concrete_function(tf.cast(fine, dtype), tf.cast(coarse, dtype), boxes)
    assert {op.type for op in function.graph.get_operations()}.isdisjoint({"Cast"})
    assert all(x.dtype == dtype for x in tf.nest.flatten(function.structured_outputs))


def test_in_a_keras_layer_with_a_mixed_policy(rng):
    """Coordinates stay float32 where the layer says so, and the gradient reaches the float32 variables."""

    class Head(tf.keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_float16", autocast=False)
            self.dense = tf.keras.layers.Dense(4, dtype="mixed_float16")

        def call(self, fine, coarse, boxes):
            assert boxes.dtype == tf.float32
            return self.dense(align(tf.cast(fine, tf.float16), tf.cast(coarse, tf.float16), boxes))

    head = Head()
    fine, coarse, boxes = inputs_of(rng, align)
    with tf.GradientTape() as tape:
        tape.watch(fine)
        output = head(fine, coarse, boxes)
    assert output.dtype == tf.float16
    gradient = tape.gradient(output, fine)
    assert gradient.dtype == tf.float32
    assert np.isfinite(gradient).all()
