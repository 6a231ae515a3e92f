import numpy as np
import tensorflow as tf

from mrcnn_model.targets.mask_targets import mask_targets


def targets(masks, gt_boxes, gt_indices, rois, size=4):
    return mask_targets(
        tf.constant(masks, tf.uint8),
        tf.constant(gt_boxes, tf.float32),
        tf.constant(gt_indices, tf.int64),
        tf.constant(rois, tf.float32),
        size=size,
    ).numpy()


def left_half(edge=16):
    mask = np.zeros([edge, edge], np.uint8)
    mask[:, : edge // 2] = 1
    return mask


def test_a_roi_equal_to_its_box_is_the_mask_itself():
    got = targets([[left_half()]], [[[10, 20, 50, 60]]], [[0]], [[[10, 20, 50, 60]]])
    np.testing.assert_array_equal(got[0, 0], [[1, 1, 0, 0]] * 4)


def test_a_shifted_roi_sees_the_mask_shifted():
    # The RoI starts a quarter of the box to the left: an empty column, then the left half.
    got = targets([[left_half()]], [[[10, 20, 50, 60]]], [[0]], [[[0, 20, 40, 60]]])
    np.testing.assert_array_equal(got[0, 0], [[0, 1, 1, 0]] * 4)


def test_outside_the_box_is_empty():
    full = np.ones([16, 16], np.uint8)
    got = targets([[full]], [[[0, 0, 10, 10]]], [[0]], [[[0, 0, 20, 20]]])
    np.testing.assert_array_equal(got[0, 0], [[1, 1, 0, 0]] * 2 + [[0] * 4] * 2)


def test_each_roi_takes_its_own_mask_of_its_own_image():
    full, empty = np.ones([8, 8], np.uint8), np.zeros([8, 8], np.uint8)
    box = [0, 0, 8, 8]
    got = targets([[full, empty], [empty, full]], [[box, box]] * 2, [[0, 1], [0, 1]], [[box, box]] * 2)
    np.testing.assert_array_equal(got.mean(axis=(2, 3)), [[1, 0], [0, 1]])


def test_padded_rois_and_boxes_give_finite_targets():
    got = targets([[left_half()]], [[[0, 0, 0, 0]]], [[0]], [[[0, 0, 0, 0]]])
    assert np.isfinite(got).all()


def test_no_ground_truth_at_all():
    got = targets(np.zeros([2, 0, 16, 16]), np.zeros([2, 0, 4]), [[0], [0]], [[[0, 0, 9, 9]], [[1, 1, 5, 5]]])
    np.testing.assert_array_equal(got, np.zeros([2, 1, 4, 4]))


def test_against_a_sampled_twin():
    """Mean of 2 x 2 bilinear samples per cell, one by one, in NumPy."""
    rng = np.random.default_rng(0)
    mask = (rng.uniform(size=[12, 12]) > 0.5).astype(np.uint8)
    gt_box = np.array([3.0, 5.0, 33.0, 25.0])
    for _ in range(5):
        corner = rng.uniform(0, 10, 2)
        roi = np.array([*corner, *(corner + rng.uniform(10, 30, 2))])
        got = targets([[mask]], [[gt_box]], [[0]], [[roi]], size=5)[0, 0]
        mean = twin(mask, gt_box, roi, size=5)
        clear = abs(mean - 0.5) > 1e-4  # a tie may fall to either side
        np.testing.assert_array_equal(got[clear], mean[clear] >= 0.5)


def twin(mask, gt_box, roi, size):
    edge = mask.shape[0]
    mean = np.zeros([size, size])
    for y in range(2 * size):
        for x in range(2 * size):
            at = [
                (roi[i] + (k + 0.5) / (2 * size) * (roi[i + 2] - roi[i]) - gt_box[i])
                / (gt_box[i + 2] - gt_box[i])
                * edge
                - 0.5
                for i, k in ((1, y), (0, x))
            ]
            mean[y // 2, x // 2] += bilinear(mask, *at) / 4
    return mean


def bilinear(mask, y, x):
    edge = mask.shape[0]
    if not (0 <= y <= edge - 1 and 0 <= x <= edge - 1):
        return 0.0
    y0, x0 = min(int(y), edge - 2), min(int(x), edge - 2)
    ly, lx = y - y0, x - x0
    corners = mask[y0 : y0 + 2, x0 : x0 + 2]
    return float(np.array([1 - ly, ly]) @ corners @ np.array([1 - lx, lx]))
