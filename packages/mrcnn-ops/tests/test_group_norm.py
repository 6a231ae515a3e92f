"""Group norm: by hand, against the twin, its gradient, and wrong input."""

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_ops import group_norm

# Shape and number of groups: vectors, a rest, one channel a group, one group, chunks of 256 positions and a rest.
CASES = [
    ((2, 5, 7, 32), 8),
    ((1, 3, 3, 12), 3),
    ((3, 2, 2, 5), 5),
    ((1, 17, 16, 40), 1),
    ((2, 20, 40, 64), 32),
    ((1, 1, 1, 8), 2),
]
ROUNDING = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
EPSILON = 1e-5


def random_inputs(rng, shape, dtype="float32"):
    x = tf.cast(rng.standard_normal(shape) * 2 + 1, dtype)
    return x, np.float32(rng.standard_normal(shape[3])), np.float32(rng.standard_normal(shape[3]))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_against_the_twin(reference, rng, shape, groups, dtype, relu):
    x, gamma, beta = random_inputs(rng, shape, dtype)
    y = group_norm(x, gamma, beta, groups=groups, epsilon=EPSILON, relu=relu)
    assert y.dtype == x.dtype
    wide = tf.cast(x, tf.float64).numpy()
    expected = reference.group_norm(wide, gamma, beta, groups=groups, epsilon=EPSILON, relu=relu)
    np.testing.assert_allclose(tf.cast(y, tf.float64), expected, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


def wide_group_norm(x, gamma, beta, groups):
    """TensorFlow's own ops, in the type of `x`."""
    n, h, w, c = x.shape
    grouped = tf.reshape(x, [n, h * w, groups, c // groups])
    mean, variance = tf.nn.moments(grouped, [1, 3], keepdims=True)
    return tf.reshape((grouped - mean) / tf.sqrt(variance + EPSILON), x.shape) * gamma + beta


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("shape", "groups"), CASES)
def test_gradient_against_that_of_tensorflow(rng, shape, groups, dtype, relu, compiled):
    """TensorFlow's in float64; its ReLU is open where ours is."""
    inputs = [tf.convert_to_tensor(value) for value in random_inputs(rng, shape, dtype)]
    dy = tf.cast(rng.standard_normal(shape), dtype)

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = group_norm(*inputs, groups=groups, epsilon=EPSILON, relu=relu)
        return tape.gradient(y, inputs, dy)

    wide = [tf.cast(value, tf.float64) for value in inputs]
    with tf.GradientTape() as tape:
        tape.watch(wide)
        y = wide_group_norm(*wide, groups)
    of_y = tf.cast(dy, tf.float64) * tf.cast((y > 0) | (not relu), tf.float64)
    expected = tape.gradient(y, wide, of_y)
    for ours, theirs, given in zip(
        tf.function(gradients)() if compiled else gradients(), expected, inputs, strict=True
    ):
        assert ours.dtype == given.dtype
        rounding = ROUNDING[ours.dtype.name]
        scale = float(tf.reduce_max(tf.abs(theirs)))
        np.testing.assert_allclose(tf.cast(ours, tf.float64), theirs, rtol=rounding, atol=rounding * (1 + scale))


def test_gradient_numerically(rng):
    x, gamma, beta = random_inputs(rng, (2, 3, 2, 6))
    weights = tf.constant(rng.standard_normal(x.shape), tf.float32)

    def loss(*inputs):
        return tf.reduce_sum(group_norm(*inputs, groups=3) * weights)

    theoretical, numerical = tf.test.compute_gradient(loss, [x, gamma, beta], delta=1e-2)
    for ours, measured in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(ours, measured, rtol=1e-2, atol=1e-2)


def test_a_batch_equals_its_images_one_by_one(rng):
    x, gamma, beta = random_inputs(rng, (3, 9, 9, 16))
    together = group_norm(x, gamma, beta, groups=4)
    for image in range(3):
        alone = group_norm(x[image : image + 1], gamma, beta, groups=4)
        np.testing.assert_array_equal(together[image], alone[0])


def test_a_group_that_is_constant_is_its_shift():
    y = group_norm(tf.fill([1, 4, 4, 2], 8.0), [3.0, 3.0], [0.5, -0.5], groups=1)
    np.testing.assert_allclose(y[0, 0, 0], [0.5, -0.5], atol=2e-3)


@pytest.mark.parametrize("shape", [(0, 3, 3, 4), (2, 0, 3, 4)])
def test_nothing_to_normalise(shape):
    inputs = [tf.zeros(shape), tf.ones(4), tf.ones(4)]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        y = group_norm(*inputs, groups=2)
    dx, dgamma, dbeta = tape.gradient(y, inputs)
    assert y.shape == dx.shape == shape
    assert [*dgamma.numpy(), *dbeta.numpy()] == [0.0] * 8


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("x", "gamma", "beta", "message"),
    [
        ((3, 3, 8), (8,), (8,), r"x must have shape \[N, H, W, C\]"),
        ((1, 3, 3, 8), (7,), (8,), "gamma must have 8 on axis 0, as x has, got 7"),
        ((1, 3, 3, 8), (8,), (1, 8), r"beta must have shape \[C\]"),
        ((1, 3, 3, 9), (9,), (9,), r"groups must divide the channels of x \(9\), got 2"),
    ],
)
def test_wrong_shapes(x, gamma, beta, message, traced):
    normalise = tf.function(group_norm) if traced else group_norm
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
        normalise(tf.ones(x), tf.ones(gamma), tf.ones(beta), groups=2)
