"""ROIAlign: by hand, against the twin, against torchvision where it is installed, and at the edges."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn_ops import multilevel_roi_align

STRIDES = (4, 8, 16, 32)


def pyramid(rng, *, num_images=2, channels=8, height=96, width=128, strides=STRIDES):
    return [rng.standard_normal((num_images, height // s, width // s, channels)).astype(np.float32) for s in strides]


def one_map(values, box, **attributes):
    """Align one box of one image on one map of one channel; returns [P, P]."""
    feature = np.asarray(values, np.float32)[None, :, :, None]
    attributes = {"strides": [1], "output_size": 3, **attributes}
    return multilevel_roi_align([feature], np.array([[box]], np.float32), **attributes).numpy()[0, 0, :, :, 0]


# A map of 6 rows and 8 columns whose value is its column: aligned, the value at image position x is x - 0.5.
RAMP = np.tile(np.arange(8, dtype=np.float32), (6, 1))


class TestByHand:
    def test_linear_ramp(self):
        # Bins [0, 1), [1, 2), [2, 3) with samples at their quarters. The first, at x = 0.25, lies left of the first
        # centre and takes its value 0; the second, at 0.75, is 0.25: mean 0.125. The other bins are the ramp at their
        # centres, 1.5 and 2.5.
        np.testing.assert_allclose(one_map(RAMP, [0, 0, 3, 3]), np.tile([0.125, 1.0, 2.0], (3, 1)), atol=1e-6)

    def test_linear_ramp_away_from_the_edge(self):
        centres = 2 + (np.arange(3) + 0.5) * 4 / 3
        np.testing.assert_allclose(one_map(RAMP, [2, 1, 6, 5]), np.tile(centres - 0.5, (3, 1)), atol=1e-6)

    def test_linear_ramp_in_rows(self):
        centres = 1 + (np.arange(3) + 0.5) * 4 / 3
        actual = one_map(RAMP.T, [1, 1, 5, 5])
        np.testing.assert_allclose(actual, np.tile(centres[:, None] - 0.5, (1, 3)), atol=1e-6)

    def test_without_alignment_the_half_pixel_is_missing(self):
        centres = 2 + (np.arange(3) + 0.5) * 4 / 3
        np.testing.assert_allclose(one_map(RAMP, [2, 1, 6, 5], aligned=False), np.tile(centres, (3, 1)), atol=1e-6)

    def test_without_alignment_a_box_is_at_least_a_pixel(self):
        actual = one_map(RAMP, [2, 1, 2, 1], aligned=False)
        np.testing.assert_allclose(actual, np.tile(2 + (np.arange(3) + 0.5) / 3, (3, 1)), atol=1e-6)

    def test_stride_divides_coordinates(self):
        np.testing.assert_allclose(one_map(RAMP, [16, 8, 48, 40], strides=[8]), one_map(RAMP, [2, 1, 6, 5]), atol=1e-6)

    def test_zero_area_box_is_one_sample(self):
        np.testing.assert_allclose(one_map(RAMP, [4, 3, 4, 3]), np.full((3, 3), 3.5), atol=1e-6)

    def test_inverted_box_is_mirrored(self):
        np.testing.assert_allclose(one_map(RAMP, [6, 1, 2, 5]), one_map(RAMP, [2, 1, 6, 5])[:, ::-1], atol=1e-6)

    def test_more_than_a_pixel_outside_is_zero_and_less_is_the_edge(self):
        ones = np.ones((4, 4), np.float32)
        # Samples at -1.75 and -1.25 on the map, then at -0.75 and -0.25, then inside.
        np.testing.assert_allclose(one_map(ones, [-1.5, 0, 1.5, 3]), np.tile([0.0, 1.0, 1.0], (3, 1)), atol=1e-6)

    @pytest.mark.parametrize(
        ("size", "level"),
        [(10, 0), (111, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (895, 3), (896, 3), (5000, 3)],
    )
    def test_level_of_a_square(self, size, level):
        maps = [np.full((1, 4096 // s, 4096 // s, 1), i, np.float32) for i, s in enumerate(STRIDES)]
        box = np.array([[[0, 0, size, size]]], np.float32)
        value = multilevel_roi_align(maps, box, strides=STRIDES, output_size=1).numpy().ravel()
        assert value == level

    def test_level_rule_has_parameters(self):
        maps = [np.full((1, 64, 64, 1), i, np.float32) for i in range(2)]
        box = np.array([[[0, 0, 40, 40]]], np.float32)
        rule = {"strides": [1, 2], "output_size": 1, "min_level": 0}
        coarse = multilevel_roi_align(maps, box, canonical_level=1, canonical_size=40.0, **rule)
        fine = multilevel_roi_align(maps, box, canonical_level=1, canonical_size=41.0, **rule)
        assert coarse.numpy().ravel() == 1
        assert fine.numpy().ravel() == 0


class TestAgainstTheTwin:
    @pytest.mark.parametrize("aligned", [True, False])
    @pytest.mark.parametrize("channels", [1, 3, 8, 31, 32, 33, 40, 77])
    def test_channel_counts(self, reference, rng, random_boxes, channels, aligned):
        features = pyramid(rng, channels=channels)
        boxes = random_boxes(rng, (2, 3), 96, 128)
        attributes = {"strides": STRIDES, "output_size": 2, "aligned": aligned}
        actual = multilevel_roi_align(features, boxes, **attributes)
        np.testing.assert_allclose(actual, reference.roi_align(features, boxes, **attributes), atol=1e-5)

    @pytest.mark.parametrize(("output_size", "sampling_ratio"), [(1, 1), (7, 2), (14, 2), (5, 3), (2, 8), (64, 1)])
    def test_output_sizes(self, reference, rng, random_boxes, output_size, sampling_ratio):
        features = pyramid(rng)
        boxes = random_boxes(rng, (2, 2), 96, 128)
        attributes = {"strides": STRIDES, "output_size": output_size, "sampling_ratio": sampling_ratio}
        actual = multilevel_roi_align(features, boxes, **attributes)
        np.testing.assert_allclose(actual, reference.roi_align(features, boxes, **attributes), atol=1e-5)

    @pytest.mark.parametrize("num_boxes", [0, 1, 63, 64, 65])
    def test_box_counts(self, reference, rng, random_boxes, num_boxes):
        features = pyramid(rng, channels=4)
        boxes = random_boxes(rng, (2, num_boxes), 96, 128)
        attributes = {"strides": STRIDES, "output_size": 2}
        actual = multilevel_roi_align(features, boxes, **attributes)
        assert actual.shape == (2, num_boxes, 2, 2, 4)
        np.testing.assert_allclose(actual, reference.roi_align(features, boxes, **attributes), atol=1e-5)

    @settings(max_examples=60, deadline=None)
    @given(
        box=st.tuples(*[st.floats(-300, 300, width=32)] * 4),
        height=st.integers(1, 9),
        width=st.integers(1, 9),
        sampling_ratio=st.integers(1, 4),
        output_size=st.integers(1, 4),
        aligned=st.booleans(),
        stride=st.sampled_from([1, 4, 32]),
    )
    def test_any_box(self, reference, box, height, width, sampling_ratio, output_size, aligned, stride):
        feature = np.random.default_rng(height * 10 + width).standard_normal((1, height, width, 3)).astype(np.float32)
        attributes = {
            "strides": [stride],
            "output_size": output_size,
            "sampling_ratio": sampling_ratio,
            "aligned": aligned,
        }
        boxes = np.array([[box]], np.float32)
        actual = multilevel_roi_align([feature], boxes, **attributes).numpy()
        # In float32 a sample may fall on the other side of the line one pixel outside the map, where the rule jumps: at
        # such bins either value is right.
        exact = reference.roi_align([feature], boxes, **attributes)
        nudged = [reference.roi_align([feature], boxes + shift, **attributes) for shift in (-1e-3, 1e-3)]
        jumps = np.abs(nudged[0] - nudged[1]).max(-1, keepdims=True) > 0.05
        np.testing.assert_allclose(np.where(jumps, exact, actual), exact, atol=2e-4)


class TestEdges:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("position", range(4))
    def test_non_finite_box_gives_zeros(self, rng, bad, position):
        boxes = np.array([[[1, 1, 20, 20], [1, 1, 20, 20]]], np.float32)
        boxes[0, 1, position] = bad
        out = multilevel_roi_align(pyramid(rng, num_images=1), boxes, strides=STRIDES, output_size=3).numpy()
        assert np.any(out[0, 0] != 0)
        assert np.all(out[0, 1] == 0)

    @pytest.mark.parametrize(
        "box",
        [[-1e6, -1e6, 1e6, 1e6], [1e6, 1e6, 1e6 + 50, 1e6 + 50], [-3e38, -3e38, 3e38, 3e38], [3e38, 0, -3e38, 1]],
    )
    def test_huge_boxes_are_finite(self, rng, box):
        out = multilevel_roi_align(
            pyramid(rng, num_images=1), np.array([[box]], np.float32), strides=STRIDES, output_size=7
        )
        assert np.isfinite(out.numpy()).all()

    def test_a_nan_in_the_features_stays_where_it_is(self):
        feature = np.ones((1, 8, 8, 1), np.float32)
        feature[0, 7, 7] = np.nan
        boxes = np.array([[[0, 0, 4, 4], [4, 4, 8, 8]]], np.float32)
        out = multilevel_roi_align([feature], boxes, strides=[1], output_size=2).numpy()[0, :, :, :, 0]
        np.testing.assert_array_equal(out[0], np.ones((2, 2)))
        assert np.isnan(out[1, 1, 1])
        assert np.isfinite(out[1, 0]).all()

    @pytest.mark.parametrize("shape", [(1, 0, 5, 3), (1, 5, 0, 3), (1, 5, 5, 0), (0, 5, 5, 3)])
    def test_empty_maps(self, shape):
        boxes = np.ones((shape[0], 2, 4), np.float32)
        out = multilevel_roi_align([np.ones(shape, np.float32)], boxes, strides=[4], output_size=2)
        assert out.shape == (shape[0], 2, 2, 2, shape[3])
        assert np.all(out.numpy() == 0)

    def test_images_do_not_mix(self, rng, random_boxes):
        features = pyramid(rng, num_images=3)
        boxes = random_boxes(rng, (3, 20), 96, 128)
        attributes = {"strides": STRIDES, "output_size": 7}
        together = multilevel_roi_align(features, boxes, **attributes).numpy()
        for n in range(3):
            alone = multilevel_roi_align([f[n : n + 1] for f in features], boxes[n : n + 1], **attributes)
            np.testing.assert_array_equal(together[n : n + 1], alone)


class TestTypes:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float16, 2e-3), (tf.bfloat16, 2e-2)])
    @pytest.mark.parametrize("channels", [3, 8, 40])
    def test_sums_are_float32_and_rounded_once(self, rng, random_boxes, dtype, tolerance, channels):
        features = [tf.cast(f, dtype) for f in pyramid(rng, channels=channels)]
        boxes = random_boxes(rng, (2, 30), 96, 128)
        attributes = {"strides": STRIDES, "output_size": 7}
        half = multilevel_roi_align(features, boxes, **attributes)
        full = multilevel_roi_align([tf.cast(f, tf.float32) for f in features], boxes, **attributes)
        assert half.dtype == dtype
        # Equal to the float32 result rounded to the type, up to a rounding that falls the other way.
        expected = tf.cast(tf.cast(full, dtype), tf.float32).numpy()
        np.testing.assert_allclose(tf.cast(half, tf.float32).numpy(), expected, rtol=tolerance, atol=1e-6)
        assert np.mean(tf.cast(half, tf.float32).numpy() == expected) > 0.99

    @pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
    def test_special_values_survive_conversion(self, dtype):
        # One pixel, so that the output is the pixel: zero, the smallest (of float16 the subnormals; those of bfloat16
        # are float32 subnormals, which TensorFlow flushes to zero), the largest values, infinities, NaN.
        smallest = 5.960464477539063e-08 if dtype == tf.float16 else 1.1754943508222875e-38
        largest = 65504.0 if dtype == tf.float16 else 3.3895313892515355e38
        values = [0.0, smallest, 3 * smallest, -smallest, 6e-5, 1.0, -2.5, largest, -largest, np.inf, -np.inf, np.nan]
        feature = tf.cast(tf.constant(values, tf.float32)[None, None, None], dtype)
        out = multilevel_roi_align([feature], [[[0.0, 0.0, 1.0, 1.0]]], strides=[1], output_size=1)
        np.testing.assert_array_equal(
            tf.cast(out, tf.float32).numpy().ravel(), tf.cast(feature, tf.float32).numpy().ravel()
        )

    def test_float64_is_refused(self):
        with pytest.raises((TypeError, ValueError, tf.errors.InvalidArgumentError)):
            multilevel_roi_align([tf.ones((1, 4, 4, 1), tf.float64)], tf.ones((1, 1, 4)), strides=[4], output_size=2)


class TestGraph:
    def test_static_shape_and_same_values(self, rng, random_boxes):
        features = [tf.constant(f) for f in pyramid(rng)]
        boxes = tf.constant(random_boxes(rng, (2, 6), 96, 128))

        @tf.function
        def graph(features, boxes):
            out = multilevel_roi_align(features, boxes, strides=STRIDES, output_size=7)
            assert out.shape == (2, 6, 7, 7, 8)
            return out

        eager = multilevel_roi_align(features, boxes, strides=STRIDES, output_size=7)
        np.testing.assert_array_equal(graph(features, boxes), eager)

    def test_unknown_shapes(self):
        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([None, None, 4])])
        def graph(feature, boxes):
            out = multilevel_roi_align([feature], boxes, strides=[4], output_size=5)
            assert out.shape.as_list() == [None, None, 5, 5, 3]
            return out

        assert graph(tf.ones((2, 8, 8, 3)), tf.ones((2, 4, 4))).shape == (2, 4, 5, 5, 3)


class TestErrors:
    ok = (np.ones((2, 8, 8, 3), np.float32), np.ones((2, 4, 4), np.float32))

    @pytest.mark.parametrize(
        ("features", "boxes", "attributes", "message"),
        [
            ([ok[0]], np.ones((3, 4, 4), np.float32), {}, r"features\[0\] must have 3 on axis 0, as boxes has, got 2"),
            ([ok[0]], np.ones((2, 4, 5), np.float32), {}, r"boxes must have shape \[N, R, 4\], got \[2,4,5\]"),
            ([ok[0]], np.ones((8, 4), np.float32), {}, r"boxes must have shape \[N, R, 4\]"),
            ([ok[0][0]], ok[1], {}, r"features\[0\] must have shape \[N, H, W, C\], got \[8,8,3\]"),
            ([ok[0], ok[0][..., :2]], ok[1], {"strides": [4, 8]}, r"features\[1\] must have 3 on axis 3"),
            ([ok[0]], ok[1], {"strides": [4, 8]}, "strides must be one per feature map"),
            ([ok[0]], ok[1], {"strides": [0]}, "strides must be positive"),
            ([ok[0]], ok[1], {"output_size": 65}, "output_size must be at most 64"),
            ([ok[0]], ok[1], {"sampling_ratio": 9}, "sampling_ratio must be at most 8"),
            ([ok[0]], ok[1], {"output_size": 0}, "output_size"),
            ([ok[0]], ok[1], {"canonical_size": 0.0}, "canonical_size must be positive"),
            ([ok[0]] * 9, ok[1], {"strides": [4] * 9}, "features must be at most 8 maps"),
        ],
    )
    def test_one_line_names_the_input(self, features, boxes, attributes, message):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            multilevel_roi_align(features, boxes, **{"strides": [4], "output_size": 7, **attributes})
