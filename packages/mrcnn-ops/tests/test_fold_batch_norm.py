"""Folding of batch norm: by hand, against the twin and the layers themselves, its gradient, and wrong input."""

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_ops import fold_batch_norm

SHAPES = [(1, 1, 1, 1), (3, 3, 5, 8), (1, 1, 7, 13), (3, 3, 64, 40), (1, 1, 0, 4), (7, 7, 3, 64)]
EPSILON = 1e-3
ROUNDING = {"float32": 2e-7, "float16": 5e-4, "bfloat16": 4e-3}


def random_inputs(rng, shape):
    channels = shape[-1]
    arrays = [rng.standard_normal(s) for s in (shape, channels, channels, channels)]
    return [np.float32(a) for a in (*arrays, rng.uniform(0.1, 4, channels))]


def test_by_hand():
    # 2 / sqrt(3 + 1) = 1: W' = 1 W, b' = 5 - 1 * 4
    kernel, bias = fold_batch_norm([[[[1.0], [-2.0]]]], [2.0], [5.0], [4.0], [3.0], epsilon=1.0)
    assert kernel.numpy().ravel().tolist() == [1.0, -2.0]
    assert bias.numpy().tolist() == [1.0]


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_twin(reference, rng, shape, dtype):
    inputs = random_inputs(rng, shape)
    kernel, bias = fold_batch_norm(*inputs, epsilon=EPSILON, dtype=dtype)
    assert (kernel.dtype, bias.dtype) == (tf.as_dtype(dtype), tf.float32)
    expected_kernel, expected_bias = reference.fold_batch_norm(*inputs, epsilon=EPSILON)
    np.testing.assert_allclose(tf.cast(kernel, tf.float32), expected_kernel, rtol=ROUNDING[dtype], atol=1e-7)
    np.testing.assert_allclose(bias, expected_bias, rtol=1e-5, atol=1e-5)


def test_a_convolution_with_the_folded_kernel_is_convolution_and_norm(rng):
    kernel, gamma, beta, mean, variance = random_inputs(rng, (3, 3, 6, 10))
    x = tf.constant(rng.standard_normal((2, 9, 8, 6)), tf.float32)
    plain = tf.nn.conv2d(x, kernel, 1, "SAME")
    expected = tf.nn.batch_normalization(plain, mean, variance, beta, gamma, EPSILON)
    folded, bias = fold_batch_norm(kernel, gamma, beta, mean, variance, epsilon=EPSILON)
    np.testing.assert_allclose(tf.nn.conv2d(x, folded, 1, "SAME") + bias, expected, atol=2e-5)


def test_gradient_numerically(rng):
    kernel, gamma, beta, mean, variance = random_inputs(rng, (2, 1, 3, 9))
    weights = [tf.constant(rng.standard_normal(s), tf.float32) for s in (kernel.shape, beta.shape)]

    def loss(*inputs):
        folded, bias = fold_batch_norm(*inputs, mean, variance, epsilon=EPSILON)
        return tf.reduce_sum(folded * weights[0]) + tf.reduce_sum(bias * weights[1])

    theoretical, numerical = tf.test.compute_gradient(loss, [kernel, gamma, beta], delta=1e-2)  # it is linear
    for ours, measured in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(ours, measured, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("compiled", [False, True])
def test_gradient_against_that_of_tensorflow(reference, rng, shape, dtype, compiled):
    """TensorFlow's, in float64, of the twin's formula, with the same gradients of the results."""
    kernel, gamma, beta, mean, variance = random_inputs(rng, shape)
    kernel_gradient = tf.cast(rng.standard_normal(shape), dtype)
    bias_gradient = tf.constant(rng.standard_normal(shape[-1]), tf.float32)
    trained = [tf.constant(array) for array in (kernel, gamma, beta)]

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(trained)
            results = fold_batch_norm(*trained, mean, variance, epsilon=EPSILON, dtype=dtype)
        return tape.gradient(results, trained, [kernel_gradient, bias_gradient])

    wide = [tf.constant(array, tf.float64) for array in (kernel, gamma, beta)]
    with tf.GradientTape() as tape:
        tape.watch(wide)
        scale = wide[1] / tf.sqrt(tf.constant(variance, tf.float64) + EPSILON)
        results = [wide[0] * scale, wide[2] - tf.constant(mean, tf.float64) * scale]
    expected = tape.gradient(results, wide, [tf.cast(kernel_gradient, tf.float64), tf.cast(bias_gradient, tf.float64)])
    for ours, theirs in zip(tf.function(gradients)() if compiled else gradients(), expected, strict=True):
        assert ours.dtype == tf.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


def test_statistics_have_no_gradient(rng):
    inputs = [tf.constant(array) for array in random_inputs(rng, (1, 1, 2, 3))]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        results = fold_batch_norm(*inputs, epsilon=EPSILON)
    assert [gradient is None for gradient in tape.gradient(results, inputs)] == [False, False, False, True, True]


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (3, 5, 8), r"kernel must have shape \[kh, kw, D, C\]"),
        (1, (7,), "gamma must have 8 on axis 0, as kernel has, got 7"),
        (2, (1, 8), r"beta must have shape \[C\]"),
        (3, (), r"mean must have shape \[C\]"),
        (4, (9,), "variance must have 8 on axis 0, as kernel has, got 9"),
    ],
)
def test_wrong_shapes(rng, index, shape, message, traced):
    inputs = random_inputs(rng, (3, 3, 5, 8))
    inputs[index] = np.ones(shape, np.float32)
    fold = tf.function(fold_batch_norm) if traced else fold_batch_norm
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        fold(*inputs, epsilon=EPSILON)
