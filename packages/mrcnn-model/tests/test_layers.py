import keras
import numpy as np
import pytest
import tensorflow as tf

from mrcnn_model import COMPILED_OPS, PORTABLE_OPS
from mrcnn_model.flops import needed_ops
from mrcnn_model.layers.convolution import Conv, Dense, Upsample
from mrcnn_model.layers.fpn import upsample_nearest
from mrcnn_model.layers.normalization import Norm

FLOAT32 = keras.DTypePolicy("float32")


def test_align_padding_puts_the_odd_zero_before():
    layer = Conv(in_channels=1, out_channels=1, kernel_size=3, stride=2, name="conv", dtype=FLOAT32)
    layer.kernel.assign(np.ones([3, 3, 1, 1], np.float32))
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    # Windows start at -1 and 1: rows (pad, 0, 1) and (1, 2, 3).
    np.testing.assert_array_equal(
        layer(image)[0, :, :, 0], [[0 + 1 + 4 + 5, 1 + 2 + 3 + 5 + 6 + 7], [4 + 5 + 8 + 9 + 12 + 13, 90]]
    )


def randomise(layer, rng):
    for v in layer.variables:
        low, high = (0.5, 1.5) if "variance" in v.name or v.name == "gamma" else (-1.0, 1.0)
        v.assign(rng.uniform(low, high, v.shape).astype(np.float32))


def test_folded_batch_norm_equals_unfolded_with_gradients():
    rng = np.random.default_rng(0)
    layer = Conv(in_channels=3, out_channels=5, kernel_size=3, norm=Norm("frozen_bn"), name="conv", dtype=FLOAT32)
    randomise(layer, rng)
    x = tf.constant(rng.standard_normal([2, 6, 7, 3]), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        folded = tf.reduce_sum(tf.sin(layer(x)))
        y = tf.nn.conv2d(x, layer.kernel.value, 1, "SAME")
        y = (y - layer.moving_mean.value) / tf.sqrt(layer.moving_variance.value + 1e-5)
        unfolded = tf.reduce_sum(tf.sin(y * layer.gamma.value + layer.beta.value))
    np.testing.assert_allclose(folded, unfolded, rtol=1e-5)
    variables = [v.value for v in (layer.kernel, layer.gamma, layer.beta)]
    for a, b in zip(tape.gradient(folded, variables), tape.gradient(unfolded, variables), strict=True):
        assert np.linalg.norm(a - b) < 1e-5 * np.linalg.norm(b)
    assert [v.name for v in layer.non_trainable_variables] == ["moving_mean", "moving_variance"]


@pytest.mark.parametrize("ops", [COMPILED_OPS, PORTABLE_OPS], ids=["compiled", "portable"])
def test_group_norm_equals_keras_with_gradients(ops):
    rng = np.random.default_rng(1)
    x = tf.constant(rng.standard_normal([2, 5, 6, 8]) * 3 + 1, tf.float32)
    gamma, beta = (tf.constant(rng.standard_normal(8), tf.float32) for _ in range(2))
    reference = keras.layers.GroupNormalization(groups=4, epsilon=1e-5)
    reference.build(x.shape)
    reference.gamma.assign(gamma)
    reference.beta.assign(beta)
    weights = tf.constant(rng.standard_normal(x.shape), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, gamma, beta])
        y = ops.group_norm(x, gamma, beta, groups=4)
        expected = reference(x)
        loss, expected_loss = (tf.reduce_sum(weights * tf.sin(v)) for v in (y, expected))
    np.testing.assert_allclose(y, expected, atol=1e-5)
    got = tape.gradient(loss, [x, gamma, beta])
    want = tape.gradient(expected_loss, [x, reference.gamma.value, reference.beta.value])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "symmetric"),
    [(1, 1, False), (1, 2, False), (3, 1, False), (3, 2, False), (3, 2, True)],
)
@pytest.mark.parametrize(("channels", "outputs"), [(3, 8), (8, 16), (16, 32), (24, 15)])
def test_gradients_of_thin_convolutions(channels, outputs, kernel_size, stride, symmetric):
    """Compare with explicit padding in float64. oneDNN's 1x1 of stride 2 corrupted memory with few channels."""
    rng = np.random.default_rng(3)
    layer = Conv(
        in_channels=channels, out_channels=outputs, kernel_size=kernel_size, stride=stride, symmetric_padding=symmetric,
        name="thin", dtype=FLOAT32,
    )  # fmt: skip
    randomise(layer, rng)
    before, after = kernel_size // 2, kernel_size // 2 if stride == 1 or symmetric else max(kernel_size // 2 - 1, 0)
    padding = [[0, 0], [before, after], [before, after], [0, 0]]
    x = tf.constant(rng.standard_normal([2, 16, 24, channels]), tf.float32)
    exact_x, exact_kernel = tf.cast(x, tf.float64), tf.cast(layer.kernel.value, tf.float64)
    with tf.GradientTape() as tape, tf.GradientTape() as exact_tape:
        tape.watch(x)
        exact_tape.watch([exact_x, exact_kernel])
        y, exact_y = layer(x), tf.nn.conv2d(exact_x, exact_kernel, stride, padding)
        weights = rng.standard_normal(y.shape)
        total = tf.reduce_sum(y * tf.constant(weights, tf.float32))
        exact_total = tf.reduce_sum(exact_y * weights)
    found = tape.gradient(total, [x, layer.kernel.value])
    for ours, exact in zip(found, exact_tape.gradient(exact_total, [exact_x, exact_kernel]), strict=True):
        assert np.linalg.norm(ours.numpy() - exact.numpy()) < 1e-5 * np.linalg.norm(exact)


def test_upsample_equals_conv2d_transpose():
    rng = np.random.default_rng(2)
    layer = Upsample(in_channels=3, out_channels=4, name="up", dtype=FLOAT32)
    randomise(layer, rng)
    x = tf.constant(rng.standard_normal([2, 5, 5, 3]), tf.float32)
    kernel = tf.transpose(layer.kernel.value, [0, 1, 3, 2])
    expected = tf.nn.conv2d_transpose(x, kernel, [2, 10, 10, 4], strides=2) + layer.bias.value
    in_order = tf.nn.depth_to_space(tf.reshape(layer(x), [2, 5, 5, 16]), 2)
    np.testing.assert_allclose(in_order, tf.nn.relu(expected), atol=1e-5)
    assert layer(x[:0]).shape == (0, 5, 5, 4, 4)


def test_nearest_upsampling_repeats_pixels():
    x = tf.reshape(tf.range(4, dtype=tf.float32), [1, 2, 2, 1])
    np.testing.assert_array_equal(
        upsample_nearest(x)[0, :, :, 0], [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    )


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_variables_and_casts_once(precision):
    policy = keras.DTypePolicy(precision)
    conv = Conv(in_channels=3, out_channels=4, kernel_size=1, norm=Norm("frozen_bn"), name="conv", dtype=policy)
    dense = Dense(in_channels=3, out_channels=2, name="dense", dtype=policy)
    assert conv(tf.zeros([1, 4, 4, 3])).dtype == policy.compute_dtype
    assert dense(tf.zeros([1, 3])).dtype == policy.compute_dtype
    assert all(v.dtype == "float32" for v in [*conv.variables, *dense.variables])


@pytest.mark.parametrize(("kernel_size", "norm"), [(3, "frozen_bn"), (1, "frozen_bn"), (3, "none")])
def test_what_a_convolution_makes_of_its_input_is_not_kept_for_the_backward_pass(kernel_size, norm):
    """Padded or subsampled inputs and folded or cast kernels are computed again; the convolution is not."""
    layer = Conv(
        in_channels=4, out_channels=8, kernel_size=kernel_size, stride=2, norm=Norm(norm), name="conv",
        dtype=keras.DTypePolicy("mixed_bfloat16"),
    )  # fmt: skip

    forward = set()

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            forward.update(needed_ops([y.op]))
            loss = tf.reduce_sum(tf.sin(y))
        return tape.gradient(loss, [x, layer.kernel.value])

    outputs = step.get_concrete_function(tf.zeros([2, 8, 8, 4], tf.bfloat16)).outputs
    backward = needed_ops(tensor.op for tensor in outputs) - forward
    kept = {tensor.op.type for op in backward for tensor in op.inputs if tensor.op in forward}
    assert kept <= {"Placeholder", "ReadVariableOp", "Const", "Shape", "IdentityN"}  # IdentityN: y, for the sine
    types = {op.type for op in backward}
    assert {"Conv2DBackpropInput", "Conv2DBackpropFilter"} <= types
    assert "Conv2D" not in types
    # Once the gradient of the sine is there: else it would be made at once, or merged with the first.
    made_again = [op for op in backward if op.type in ("Pad", "StridedSlice", "Cast")]
    assert made_again
    for op in made_again:
        assert "Cos" in {needed.type for needed in needed_ops([op])}


def test_the_gradient_of_what_is_upsampled_comes_after_those_of_the_weights():
    layer = Upsample(in_channels=4, out_channels=8, name="upsample", dtype=FLOAT32)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(tf.sin(layer(x, training=True)))
        return tape.gradient(loss, [x, layer.kernel.value, layer.bias.value])

    of_x, *of_weights = step.get_concrete_function(tf.zeros([2, 3, 3, 4])).outputs
    before = needed_ops([of_x.op])
    for gradient, kind in zip(of_weights, ["MatMul", "BiasAddGrad"], strict=True):
        ops = {op for op in needed_ops([gradient.op]) if op.type == kind}
        assert ops
        assert ops <= before
