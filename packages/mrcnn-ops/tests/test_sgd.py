"""The update of all variables: by hand, against the twin, and where nothing may change."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_ops import apply_sgd, gradient_norm

# Fewer than a vector, vectors and a rest, none, a whole chunk of 16,384, several chunks.
SHAPES = [(), (7,), (3, 3, 5, 11), (0, 4), (128, 128), (2, 3, 10_000)]
OPTIONS = {
    "weight_decays": [0.0, 0.1, 0.0, 0.5, 1e-4, 1e-4],
    "rate_factors": [1.0, 2.0, 1.0, 1.0, 1.0, 0.5],
    "momentum": 0.9,
    "scale": 0.25,
    "clip": 0.7,
    "rate": 0.02,
}


def random_arrays(rng):
    return [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES]


def variables_of(arrays):
    return [tf.Variable(array) for array in arrays]


def require_close(variables, expected):
    for variable, array in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), array, rtol=2e-6, atol=1e-7)


def test_by_hand():
    # g = 0.5 * 4 + 0.1 * 10 = 3; v = 0.9 * 2 + 0.5 * 3 = 3.3; w = 10 - 0.1 * 2 * 3.3 = 9.34
    w, v = tf.Variable([10.0]), tf.Variable([2.0])
    assert float(gradient_norm([[4.0]], [w], weight_decays=[0.1], scale=0.5)) == pytest.approx(3.0)
    options = {"momentum": 0.9, "weight_decays": [0.1], "rate_factors": [2.0], "scale": 0.5, "clip": 0.5}
    apply_sgd([w], [v], [[4.0]], rate=0.1, **options)
    assert v.numpy() == pytest.approx([3.3])
    assert w.numpy() == pytest.approx([9.34])


@pytest.mark.parametrize("compiled", [False, True])
def test_against_the_twin(reference, rng, compiled):
    values, momenta = random_arrays(rng), random_arrays(rng)
    w, v = variables_of(values), variables_of(momenta)

    def update(*gradients):
        norm = gradient_norm(gradients, w, weight_decays=OPTIONS["weight_decays"], scale=OPTIONS["scale"])
        apply_sgd(w, v, gradients, **OPTIONS)
        return norm

    update = tf.function(update) if compiled else update
    for _ in range(3):
        gradients = random_arrays(rng)
        values, momenta, expected_norm = reference.sgd(values, momenta, gradients, **OPTIONS)
        assert float(update(*gradients)) == pytest.approx(expected_norm, rel=1e-6)
        require_close(w, values)
        require_close(v, momenta)


def test_a_step_that_is_not_taken_changes_no_bit(rng):
    values, momenta = random_arrays(rng), random_arrays(rng)
    values[1][3], momenta[2][0, 0, 0, 0] = -0.0, np.inf
    w, v = variables_of(values), variables_of(momenta)
    gradients = [np.full(shape, np.nan, np.float32) for shape in SHAPES]
    apply_sgd(w, v, gradients, **OPTIONS, is_taken=False)
    for variable, array in zip([*w, *v], [*values, *momenta], strict=True):
        assert variable.numpy().tobytes() == array.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("index", [0, 1, 5])
def test_the_norm_of_what_is_not_finite(rng, bad, index):
    gradients, values = random_arrays(rng), random_arrays(rng)
    gradients[index] = np.full(SHAPES[index], bad, np.float32)
    norm = gradient_norm(gradients, values, weight_decays=OPTIONS["weight_decays"])
    assert not np.isfinite(norm)


def test_gradients_beyond_the_square_root_of_the_range_have_a_norm():
    """The square of 1e30 is not a float32."""
    assert float(gradient_norm([[3e30, 4e30]], [[0.0, 0.0]], weight_decays=[0.0])) == pytest.approx(5e30)


def test_a_value_that_was_read_before_stays(rng):
    w, v = tf.Variable(tf.ones([40_000])), tf.Variable(tf.zeros([40_000]))
    before = w.read_value()  # shares the memory of the variable
    apply_sgd([w], [v], [tf.ones([40_000])], rate=0.5, momentum=0.9, weight_decays=[0.0], rate_factors=[1.0])
    np.testing.assert_array_equal(before, np.ones(40_000))
    np.testing.assert_array_equal(w, np.full(40_000, 0.5))


def test_a_graph_reads_and_updates_in_the_order_of_the_code():
    w, v = tf.Variable([1.0]), tf.Variable([0.0])

    @tf.function
    def step():
        before = w.read_value()
        apply_sgd([w], [v], [tf.ones([1])], rate=1.0, momentum=0.0, weight_decays=[0.0], rate_factors=[1.0])
        return before, w.read_value()

    assert [float(value[0]) for value in step()] == [1.0, 0.0]
    assert [float(value[0]) for value in step()] == [0.0, -1.0]


NORM = """
import sys, numpy as np, tensorflow as tf, mrcnn_ops
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
arrays = [rng.standard_normal(size).astype(np.float32) for size in (100_001, 7, 50_000)]
print(mrcnn_ops.gradient_norm(arrays, arrays, weight_decays=[0.1] * 3).numpy().tobytes().hex())
"""


def test_the_norm_does_not_depend_on_the_number_of_threads():
    run = [sys.executable, "-c", NORM]
    norms = {subprocess.check_output([*run, threads], env=os.environ, text=True).split()[-1] for threads in "13"}
    assert len(norms) == 1


ONE = {"rate": 1.0, "momentum": 0.0, "weight_decays": [0.0], "rate_factors": [1.0]}


@pytest.mark.parametrize(
    ("update", "message"),
    [
        (lambda w, v: apply_sgd([w], [v], [[1.0, 2.0, 3.0]], **ONE), r"gradient 0 must have shape \[2\].*got \[3\]"),
        (lambda w, v: apply_sgd([w], [tf.Variable([0.0])], [[1.0, 2.0]], **ONE), r"momentum 0 must have shape \[2\]"),
        (lambda w, v: apply_sgd([w], [w], [[1.0, 2.0]], **ONE), "a variable is given twice"),
        (lambda w, v: apply_sgd([w], [v], [[1.0, 2.0]], **{**ONE, "rate": [1.0]}), r"rate must have shape \[\]"),
        (lambda w, v: apply_sgd([w], [v], [[1.0, 2.0]], **{**ONE, "rate_factors": []}), "rate_factors must have 1 num"),
        (lambda w, v: apply_sgd([tf.Variable([1, 2])], [v], [[1.0, 2.0]], **ONE), "variable 0 must be a float32"),
        (lambda w, v: gradient_norm([[1.0]], [w], weight_decays=[0.0]), r"gradient 0 must have shape \[2\]"),
        (lambda w, v: gradient_norm([[1.0, 2.0]], [w], weight_decays=[0.0, 1.0]), "weight_decays must have 1 number"),
    ],
)
def test_wrong_input_changes_nothing(update, message):
    w, v = tf.Variable([1.0, 2.0]), tf.Variable([3.0, 4.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        update(w, v)
    assert w.numpy().tolist() == [1.0, 2.0]
    assert v.numpy().tolist() == [3.0, 4.0]
