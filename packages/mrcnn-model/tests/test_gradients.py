"""Gradients in half precision beside those of the same network in float64.

No sum over positions, RoIs or images may add up in half precision. A ReLU hides such faults in the backbone: of a unit
near its corner, half precision may pass a gradient that float64 does not, and a few per cent of such units in every
layer change more than rounding does. So the whole network is compared with smooth functions in place of ReLU and
maximum pooling.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mrcnn_ops
from mrcnn_model import COMPILED_OPS
from mrcnn_model.export import PORTABLE_OPS
from mrcnn_model.layers.affine import sum_positions
from mrcnn_model.layers.convolution import Conv, Dense
from mrcnn_model.layers.fpn import upsample_nearest
from mrcnn_model.layers.heads import BoxHead, MaskHead
from mrcnn_model.layers.normalization import Norm
from mrcnn_model.layers.rpn import RpnHead

HALVES = {"mixed_bfloat16": 2.0**-8, "mixed_float16": 2.0**-11}  # and the unit of their last bit
FLOAT16_SCALE = 1024.0  # of the loss: without it, small gradients are 0 in float16


class Float64(keras.DTypePolicy):
    """Variables in float32, arithmetic in float64."""

    @property
    def compute_dtype(self):
        return "float64"


POLICIES = {name: keras.DTypePolicy(name) for name in ("float32", *HALVES)} | {"float64": Float64("float32")}


def uneven(layers, seed=0):
    """Give all variables values that differ, those of norms and biases too."""
    rng = np.random.default_rng(seed)
    for variable in (v for layer in layers for v in layer.variables):
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name == "kernel":
            variable.assign(rng.normal(0, np.prod(variable.shape[:-1]) ** -0.5, variable.shape))
        else:
            variable.assign(rng.normal(0, 0.1, variable.shape))


def relative_error(found, exact):
    found, exact = (np.asarray(value, np.float64) for value in (found, exact))
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


# ---- sums -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float32, tf.float64])
@pytest.mark.parametrize(
    "shape",
    [
        (7, 5),
        (1, 4095, 3),
        (1, 64, 64, 3),  # the first that is added in blocks
        (2, 61, 67, 6),  # blocks of 134
        (1, 4099, 8),  # a prime number of positions
        (128, 14, 14, 16),
        (100_000, 2),
    ],
)
def test_sums_over_positions(shape, dtype):
    rng = np.random.default_rng(0)
    x = tf.cast(rng.normal(0.05, 0.1, shape), dtype)
    total = sum_positions(x)
    assert total.dtype == tf.float32
    exact = x.numpy().astype(np.float64).reshape(-1, shape[-1]).sum(axis=0)
    assert relative_error(total, exact) < (4e-3 if dtype in (tf.bfloat16, tf.float16) else 1e-5)


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float32])
def test_sums_of_nothing_and_of_unknown_shape(dtype):
    np.testing.assert_array_equal(sum_positions(tf.zeros([0, 7, 7, 3], dtype)), np.zeros(3))
    total = tf.function(sum_positions, input_signature=[tf.TensorSpec([None, None, 3], dtype)])
    np.testing.assert_array_equal(total(tf.ones([70, 100, 3], dtype)), [7000, 7000, 7000])


@pytest.mark.parametrize("dtype", [tf.bfloat16, tf.float16, tf.float32])
def test_upsampling_adds_the_gradients_of_four_pixels(dtype):
    rng = np.random.default_rng(1)
    x, weights = tf.zeros([2, 6, 10, 8], dtype), tf.cast(rng.normal(size=[2, 12, 20, 8]), dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = upsample_nearest(x, training=True)
    found = tape.gradient(y, x, weights)
    assert found.dtype == dtype
    exact = weights.numpy().astype(np.float64).reshape(2, 6, 2, 10, 2, 8).sum(axis=(2, 4))
    assert relative_error(found, exact) < {tf.bfloat16: 4e-3, tf.float16: 5e-4, tf.float32: 1e-6}[dtype]


# ---- layers and heads -----------------------------------------------------------------------------------------------


def gradients_of(make, run, precision, scale=1.0):
    """Return {path: gradient} of the scalar that `run` makes of the layers from `make`."""
    layers = make(POLICIES[precision])
    uneven(layers)
    with tf.GradientTape() as tape:
        loss = run(*layers) * scale
    variables = [v for layer in layers for v in layer.trainable_variables]
    gradients = tape.gradient(loss, [v.value for v in variables])
    return {v.path: tf.convert_to_tensor(g) / scale for v, g in zip(variables, gradients, strict=True)}


def classes_and_boxes(rng, num_rois):
    x = tf.constant(np.maximum(rng.normal(size=[num_rois, 2, 2, 8]), 0), tf.float32)
    classes = tf.constant(np.where(rng.uniform(size=num_rois) < 0.75, 0, rng.integers(1, 5, num_rois)), tf.int32)

    def run(head):
        logits, deltas = head(x, training=True)
        entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=classes, logits=logits)
        return tf.reduce_mean(entropy) + tf.reduce_mean(tf.sin(deltas))

    return run


def masks(rng, num_rois):
    x = tf.constant(np.maximum(rng.normal(size=[num_rois, 14, 14, 8]), 0), tf.float32)
    classes = tf.constant(rng.integers(0, 5, num_rois), tf.int32)
    targets = tf.constant(rng.uniform(size=[num_rois, 28, 28]) < 0.3, tf.float32)

    def run(head):
        logits = head(x, classes, training=True)
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=targets, logits=logits))

    return run


def anchors(rng, _):
    pyramid = [tf.constant(np.maximum(rng.normal(size=[1, 64 // s, 96 // s, 8]), 0), tf.float32) for s in (1, 2, 4)]

    def run(head):
        logits, deltas = head(pyramid, training=True)
        return tf.reduce_mean(tf.nn.softplus(logits)) + tf.reduce_mean(tf.sin(deltas))

    return run


HEADS = {
    "box": (
        lambda dtype: [
            BoxHead(
                in_channels=8, pool_size=2, num_convs=0, num_fcs=2, channels=16, num_classes=5, class_agnostic=False,
                norm=Norm(), name="box_head", dtype=dtype,
            )
        ],
        classes_and_boxes,
    ),
    "mask": (
        lambda dtype: [
            MaskHead(in_channels=8, channels=8, num_convs=1, num_classes=5, norm=Norm(), dtype=dtype)
        ],
        masks,
    ),
    "rpn": (lambda dtype: [RpnHead(in_channels=8, channels=8, num_anchors=3, dtype=dtype)], anchors),
}  # fmt: skip


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("head", HEADS)
def test_gradients_of_the_heads(head, precision):
    """BiasAddGrad in bfloat16 was wrong by 0.9 for the upsampling bias and by 0.1 for the class bias."""
    make, make_run = HEADS[head]
    run = make_run(np.random.default_rng(2), 2048 if head == "box" else 64)
    exact = gradients_of(make, run, "float64")
    found = gradients_of(make, run, precision, FLOAT16_SCALE)
    errors = {path: relative_error(found[path], gradient) for path, gradient in exact.items()}
    limit = 8 * HALVES[precision]
    assert {path: error for path, error in errors.items() if error > limit} == {}


@pytest.mark.parametrize("precision", HALVES)
def test_gradients_of_a_folded_batch_norm(precision):
    x = tf.constant(np.random.default_rng(3).normal(size=[2, 48, 64, 8]), tf.float32)

    def make(dtype):
        # The compiled op has no float64.
        is_exact = dtype.compute_dtype == "float64"
        norm = Norm("frozen_bn", fold_batch_norm=(PORTABLE_OPS if is_exact else COMPILED_OPS).fold_batch_norm)
        return [Conv(in_channels=8, out_channels=8, kernel_size=3, norm=norm, name="conv", dtype=dtype)]

    def run(conv):
        return tf.reduce_mean(tf.nn.softplus(tf.cast(conv(x, training=True), tf.float32)))

    exact, found = (gradients_of(make, run, p, FLOAT16_SCALE) for p in ("float64", precision))
    for path, gradient in exact.items():
        assert relative_error(found[path], gradient) < 4 * HALVES[precision], path


def test_logits_are_not_rounded_after_the_bias():
    layer = Dense(in_channels=1, out_channels=1, float32_output=True, name="dense", dtype=POLICIES["mixed_bfloat16"])
    layer.kernel.assign([[1.0]])
    layer.bias.assign([1 / 512])  # half of the last bit of 1 in bfloat16
    assert layer(tf.ones([1, 1])).numpy() == 1 + 1 / 512


# ---- the whole network ----------------------------------------------------------------------------------------------


def given_proposals(batch, rng, count=40):
    """Return proposals of which two thirds are objects moved a little."""
    gt_boxes = batch["gt_boxes"].numpy()
    near = gt_boxes[:, rng.integers(0, gt_boxes.shape[1], 2 * count // 3)]
    near = near + rng.uniform(-2, 2, near.shape)
    corners, edges = (rng.uniform(*limits, [len(gt_boxes), count - near.shape[1], 2]) for limits in ((0, 60), (8, 36)))
    boxes = np.concatenate([near, np.concatenate([corners, corners + edges], axis=-1)], axis=1).clip(0, 96)
    return mrcnn_ops.GeneratedProposals(
        tf.constant(boxes, tf.float32), tf.ones(boxes.shape[:2]), tf.ones(boxes.shape[:2], tf.bool)
    )


@pytest.fixture
def network_gradients(monkeypatch, make_tiny_model, make_batch):
    """Return {path: gradient} of the sum of the losses, in a precision or "float64"."""
    arrays = make_batch(height=96, width=96, num_gt=6, num_valid=6)
    batch = {name: tf.constant(array) for name, array in arrays.items()}
    proposals = given_proposals(batch, np.random.default_rng(4))

    def group_norm(*inputs, relu, **options):
        y = mrcnn_ops.group_norm(*inputs, **options)
        return tf.nn.relu(y) if relu else y  # as TensorFlow's function, which a test may replace

    def compute(precision, options):
        ops = PORTABLE_OPS if precision == "float64" else COMPILED_OPS._replace(group_norm=group_norm)
        with monkeypatch.context() as patch:
            patch.setattr(keras, "DTypePolicy", lambda _: POLICIES[precision])
            model = make_tiny_model(
                ops=ops._replace(generate_proposals=lambda *_, **__: proposals),
                backbone_width=16,
                roi_samples=40,
                roi_foreground_fraction=0.75,
                **options,
            )
        uneven(model.parts)
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            losses, _ = model.losses(**batch)
            total = tf.add_n(list(losses)) * FLOAT16_SCALE
        gradients = tape.gradient(total, [v.value for v in variables])
        return {v.path: tf.convert_to_tensor(g) for v, g in zip(variables, gradients, strict=True)}

    return compute


@pytest.mark.parametrize(
    "options",
    [{"norm": "frozen_bn"}, {"norm": "gn", "fpn_norm": "gn", "head_norm": "gn"}, {"norm": "sync_bn"}],
    ids=["frozen_bn", "gn", "sync_bn"],
)
def test_gradients_of_the_network(monkeypatch, network_gradients, options):
    monkeypatch.setattr(tf.nn, "relu", tf.nn.elu)
    monkeypatch.setattr(tf.nn, "max_pool2d", tf.nn.avg_pool2d)
    exact = network_gradients("float64", options)
    for precision, limit in (("float32", 1e-4), ("mixed_bfloat16", 0.1), ("mixed_float16", 0.02)):
        found = network_gradients(precision, options)
        errors = {path: relative_error(found[path], gradient) for path, gradient in exact.items()}
        assert {path: error for path, error in errors.items() if error > limit} == {}
