"""The gradient of ROIAlign: by hand, numerically, against the twin, and reproducible."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mrcnn_ops import multilevel_roi_align

STRIDES = (4, 8, 16, 32)


def gradient_of(features, boxes, output_gradient, **attributes):
    features = [tf.convert_to_tensor(f) for f in features]
    with tf.GradientTape() as tape:
        tape.watch(features)
        output = multilevel_roi_align(features, boxes, **attributes)
    return tape.gradient(output, features, output_gradients=output_gradient)


def pyramid_shapes(*, num_images=2, channels=8, height=96, width=128):
    return [(num_images, height // s, width // s, channels) for s in STRIDES]


class TestByHand:
    def test_one_sample_spreads_over_four_pixels(self):
        # The one sample lies at (1.25, 2.5) on the map.
        gradient = gradient_of(
            [np.zeros((1, 4, 5, 1), np.float32)],
            [[[2.5, 1.25, 3.5, 2.25]]],
            np.full((1, 1, 1, 1, 1), 8, np.float32),
            strides=[1],
            output_size=1,
            sampling_ratio=1,
        )[0].numpy()[0, :, :, 0]
        expected = np.zeros((4, 5))
        expected[1, 2:4] = 3
        expected[2, 2:4] = 1
        np.testing.assert_allclose(gradient, expected, atol=1e-6)

    def test_a_box_inside_passes_all_of_its_gradient_on(self):
        gradient = gradient_of(
            [np.zeros((1, 16, 16, 2), np.float32)],
            [[[2, 2, 13, 12]]],
            np.ones((1, 1, 7, 7, 2), np.float32),
            strides=[1],
            output_size=7,
        )[0].numpy()
        np.testing.assert_allclose(gradient.sum((0, 1, 2)), [49, 49], rtol=1e-5)

    def test_there_is_none_to_boxes(self):
        feature, boxes = tf.ones((1, 8, 8, 2)), tf.constant([[[1.0, 1.0, 20.0, 20.0]]])
        with tf.GradientTape() as tape:
            tape.watch([feature, boxes])
            output = multilevel_roi_align([feature], boxes, strides=[4], output_size=3)
        to_feature, to_boxes = tape.gradient(output, [feature, boxes])
        assert to_feature is not None
        assert to_boxes is None


@pytest.mark.parametrize("aligned", [True, False])
def test_numeric(rng, random_boxes, aligned):
    features = [rng.standard_normal((1, 12 // s, 16 // s, 2)).astype(np.float32) for s in (1, 2)]
    boxes = random_boxes(rng, (1, 4), 12, 16)
    theoretical, numerical = tf.test.compute_gradient(
        lambda *maps: multilevel_roi_align(
            list(maps), boxes, strides=[1, 2], output_size=2, aligned=aligned, canonical_size=20.0, canonical_level=3
        ),
        features,
        delta=0.5,  # the op is linear in the features: a large step costs no accuracy
    )
    for exact, estimate in zip(theoretical, numerical, strict=True):
        np.testing.assert_allclose(exact, estimate, atol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("channels", [1, 7, 8, 35])
def test_twin(reference, rng, random_boxes, channels, aligned):
    shapes = pyramid_shapes(channels=channels)
    boxes = random_boxes(rng, (2, 6), 96, 128)
    output_gradient = rng.standard_normal((2, 6, 3, 3, channels)).astype(np.float32)
    attributes = {"strides": STRIDES, "output_size": 3, "aligned": aligned}
    actual = gradient_of([np.zeros(s, np.float32) for s in shapes], boxes, output_gradient, **attributes)
    expected = reference.roi_align_gradient(output_gradient, shapes, boxes, **attributes)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5)


@pytest.mark.parametrize("edge", [15, 16, 17, 63, 64, 65])
def test_map_sizes_where_tiles_change_over(reference, rng, edge):
    # A tile is 64 pixels wide at 8 channels and 16 at 256.
    for channels in (8, 256):
        shape = (1, edge, edge, channels)
        boxes = np.array([[[0, 0, edge, edge], [edge - 9, 3, edge + 4, 20], [10, 10, 22, 22]]], np.float32)
        output_gradient = rng.standard_normal((1, 3, 2, 2, channels)).astype(np.float32)
        attributes = {"strides": [1], "output_size": 2}
        actual = gradient_of([np.zeros(shape, np.float32)], boxes, output_gradient, **attributes)
        expected = reference.roi_align_gradient(output_gradient, [shape], boxes, **attributes)
        np.testing.assert_allclose(actual[0], expected[0], atol=1e-5)


@pytest.mark.parametrize(
    "box",
    [
        [np.nan, 0, 9, 9],
        [0, 0, np.inf, 9],
        [-3e38, 0, 3e38, 9],
        [1e6, 1e6, 2e6, 2e6],
        [-1e6, -1e6, 1e6, 1e6],
        [20, 20, 4, 4],
        [5, 5, 5, 5],
    ],
)
def test_odd_boxes(reference, rng, box):
    shapes = pyramid_shapes(num_images=1)
    boxes = np.array([[[3, 3, 40, 50], box]], np.float32)
    output_gradient = rng.standard_normal((1, 2, 2, 2, 8)).astype(np.float32)
    attributes = {"strides": STRIDES, "output_size": 2}
    actual = gradient_of([np.zeros(s, np.float32) for s in shapes], boxes, output_gradient, **attributes)
    if np.abs(boxes[0, 1][np.isfinite(boxes[0, 1])]).max() > 1e30:
        boxes[0, 1] = np.nan  # a box whose size is infinite is treated like one that is not finite
    expected = reference.roi_align_gradient(output_gradient, shapes, boxes, **attributes)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-5)


def test_no_boxes_give_zeros():
    gradient = gradient_of(
        [np.ones((2, 8, 8, 3), np.float32)],
        np.zeros((2, 0, 4), np.float32),
        np.zeros((2, 0, 7, 7, 3), np.float32),
        strides=[4],
        output_size=7,
    )[0]
    np.testing.assert_array_equal(gradient, np.zeros((2, 8, 8, 3)))


@pytest.mark.parametrize("shape", [(1, 0, 5, 3), (1, 5, 5, 0), (0, 5, 5, 3)])
def test_empty_maps(shape):
    output_gradient = np.ones((shape[0], 2, 2, 2, shape[3]), np.float32)
    boxes = np.ones((shape[0], 2, 4), np.float32)
    gradient = gradient_of([np.ones(shape, np.float32)], boxes, output_gradient, strides=[4], output_size=2)[0]
    assert gradient.shape == shape


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float16, 2e-3), (tf.bfloat16, 1.6e-2)])
def test_half_types_sum_in_float32(rng, random_boxes, dtype, tolerance):
    shapes = pyramid_shapes(channels=12)
    boxes = random_boxes(rng, (2, 100), 96, 128)
    output_gradient = tf.cast(rng.standard_normal((2, 100, 3, 3, 12)), dtype)
    attributes = {"strides": STRIDES, "output_size": 3}
    half = gradient_of([tf.zeros(s, dtype) for s in shapes], boxes, output_gradient, **attributes)
    full = gradient_of([tf.zeros(s) for s in shapes], boxes, tf.cast(output_gradient, tf.float32), **attributes)
    for h, f in zip(half, full, strict=True):
        assert h.dtype == dtype
        # With sums in the 16-bit type, the error of a hundred boxes would be many times this tolerance.
        np.testing.assert_allclose(
            tf.cast(h, tf.float32), tf.cast(tf.cast(f, dtype), tf.float32), rtol=tolerance, atol=1e-6
        )


def test_static_shape_in_a_graph():
    @tf.function
    def graph(feature, boxes):
        with tf.GradientTape() as tape:
            tape.watch(feature)
            output = tf.reduce_sum(multilevel_roi_align([feature], boxes, strides=[4], output_size=7) ** 2)
        gradient = tape.gradient(output, feature)
        assert gradient.shape == (2, 8, 8, 3)
        return gradient

    assert np.isfinite(graph(tf.ones((2, 8, 8, 3)), tf.ones((2, 4, 4)))).all()


def test_unknown_shapes_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, None, 4])])
    def graph(feature, boxes):
        with tf.GradientTape() as tape:
            tape.watch(feature)
            output = tf.reduce_sum(multilevel_roi_align([feature], boxes, strides=[4], output_size=7))
        gradient = tape.gradient(output, feature)
        assert gradient.shape.rank == 4
        return gradient

    assert graph(tf.ones((2, 8, 8, 3)), tf.ones((2, 4, 4))).shape == (2, 8, 8, 3)


DIGEST = """
import sys, zlib
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from mrcnn_ops import multilevel_roi_align
rng = np.random.default_rng(0)
corners = rng.uniform(0, 256, (2, 200, 2, 2))
boxes = np.concatenate([corners.min(2), corners.max(2)], -1).astype(np.float32)
features = [tf.constant(rng.standard_normal((2, 256 // s, 256 // s, 64)).astype(np.float32)) for s in (4, 8, 16, 32)]
for deterministic in (True, True, False):
    with tf.GradientTape() as tape:
        tape.watch(features)
        crops = multilevel_roi_align(
            features, boxes, strides=(4, 8, 16, 32), output_size=7, deterministic=deterministic)
        loss = tf.reduce_sum(crops ** 2)
    print([zlib.crc32(g.numpy().tobytes()) for g in tape.gradient(loss, features)])
"""


def test_same_bits_in_every_run_whatever_the_number_of_threads():
    processes = [
        subprocess.Popen([sys.executable, "-c", DIGEST, threads], stdout=subprocess.PIPE, text=True)
        for threads in ("1", "3")
    ]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert [len(lines) for lines in outputs] == [3, 3]
    assert len({line for lines in outputs for line in lines}) == 1


def test_wrong_gradient_shape_is_refused():
    from mrcnn_ops.library import raw_ops

    attributes = {
        "strides": [4.0],
        "output_size": 7,
        "sampling_ratio": 2,
        "aligned": True,
        "min_level": 2,
        "canonical_level": 4,
        "canonical_size": 224.0,
        "deterministic": False,
    }
    boxes = tf.ones((1, 2, 4))
    for shapes, message in (([1, 8, 8, 4], "gradient must have shape"), ([1, 8, 8], "feature_shapes must have shape")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            raw_ops.mrcnn_multilevel_roi_align_grad(
                gradient=tf.ones((1, 2, 7, 7, 3)), boxes=boxes, feature_shapes=[shapes], **attributes
            )
    with pytest.raises(tf.errors.InvalidArgumentError):
        raw_ops.mrcnn_multilevel_roi_align_grad(
            gradient=tf.ones((1, 2, 7, 7, 3)), boxes=boxes, feature_shapes=[[1, -8, 8, 3]], **attributes
        )


def test_each_level_keeps_the_gradient_of_its_bias():
    """oneDNN joins the gradients of a kernel and a bias by the node that they read, not by its output: at random."""
    sizes, channels = (32, 16, 8, 4), 8
    maps = [tf.random.stateless_normal([1, size, size, channels], [size, 0]) for size in sizes]
    kernels = [tf.Variable(tf.random.stateless_normal([3, 3, channels, channels], [size, 1])) for size in sizes]
    biases = [tf.Variable(tf.zeros([channels])) for _ in sizes]
    boxes = tf.constant([[[0.0, 0, 20, 20], [0, 0, 100, 100], [4, 4, 120, 124]]])

    def gradients():
        with tf.GradientTape() as tape:
            features = [
                tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
                for x, kernel, bias in zip(maps, kernels, biases, strict=True)
            ]
            pooled = multilevel_roi_align(features, boxes, strides=[4, 8, 16, 32], output_size=7, canonical_size=56.0)
            loss = tf.reduce_sum(tf.square(pooled))
        return tape.gradient(loss, [*biases, *kernels])

    expected = gradients()
    for _ in range(8):
        for found, exact in zip(tf.function(gradients)(), expected, strict=True):
            np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-3 * np.abs(exact).max())
