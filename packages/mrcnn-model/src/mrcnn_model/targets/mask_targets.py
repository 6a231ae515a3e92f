"""Targets of the mask head (Mask R-CNN, He et al. 2017, section 3.1).

Shapes: N images, G ground truths, F foreground RoIs an image, M edge of the stored masks, m edge of the targets.
"""

import tensorflow as tf

from mrcnn_model.targets.gathering import gather_ground_truth

SAMPLES_PER_CELL = 2  # along each axis, averaged, as ROIAlign does


def mask_targets(
    gt_masks: tf.Tensor, gt_boxes: tf.Tensor, gt_indices: tf.Tensor, rois: tf.Tensor, *, size: int
) -> tf.Tensor:
    """Crop each RoI's ground-truth mask to the RoI.

    The stored mask covers its ground-truth box with M x M cells. In that frame the RoI is sampled bilinearly at 2 x 2
    points per target cell (0 outside the box), and the mean of a cell is compared with one half.

    Args:
        gt_masks: uint8 [N, G, M, M], 0 or 1.
        gt_boxes: float32 [N, G, 4].
        gt_indices: int64 [N, F], the ground truth of each RoI.
        rois: float32 [N, F, 4], in the frame of gt_boxes.
        size: m.

    Returns:
        float32 [N, F, m, m], 0 or 1; zeros if G is 0.
    """
    num_images, num_rois = tf.shape(rois, tf.int64)[0], rois.shape[1]
    num_gt, edge = tf.shape(gt_masks, tf.int64)[1], gt_masks.shape[2]
    boxes = gather_ground_truth(gt_boxes, gt_indices)  # [N, F, 4]
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)  # [N, F]
    scale_x = 1.0 / tf.maximum(x2 - x1, 1e-3)
    scale_y = 1.0 / tf.maximum(y2 - y1, 1e-3)
    roi_x1, roi_y1, roi_x2, roi_y2 = tf.unstack(rois, axis=-1)
    relative = [(roi_y1 - y1) * scale_y, (roi_x1 - x1) * scale_x, (roi_y2 - y1) * scale_y, (roi_x2 - x1) * scale_x]
    crops = _aligned_corners(tf.stack(relative, axis=-1), edge=edge, size=SAMPLES_PER_CELL * size)  # [N, F, 4]

    # One extra, empty mask, so that an index exists even without ground truth. A GPU crops float32, not uint8.
    masks = tf.cast(tf.reshape(gt_masks, [-1, edge, edge, 1]), tf.float32)
    flat = tf.concat([masks, tf.zeros([1, edge, edge, 1])], axis=0)
    row = tf.reshape(tf.range(num_images)[:, tf.newaxis] * num_gt + gt_indices, [-1])
    row = tf.cast(tf.minimum(row, num_images * num_gt), tf.int32)  # int32 last: its arithmetic would be on the host
    samples = tf.image.crop_and_resize(
        flat, tf.reshape(crops, [-1, 4]), row, [SAMPLES_PER_CELL * size] * 2
    )  # [N*F, 2m, 2m, 1]
    cells = tf.nn.avg_pool2d(samples, ksize=SAMPLES_PER_CELL, strides=SAMPLES_PER_CELL, padding="VALID")
    targets = tf.cast(cells >= 0.5, tf.float32)
    # A shape of int32: one of int64 would be a constant on the GPU, which is copied to the host in every step.
    return tf.stop_gradient(tf.reshape(targets, [tf.shape(rois)[0], num_rois, size, size]))


def _aligned_corners(boxes: tf.Tensor, *, edge: int, size: int) -> tf.Tensor:
    """Turn continuous boxes into the corners that `crop_and_resize` expects.

    It samples `size` points from the first to the last corner inclusive, in units of (edge - 1) pixels between pixel
    centres. The first sample of a box that starts at b and has cells of width c is b + c / 2, half a pixel less in
    centre coordinates.

    Args:
        boxes: float32 [..., 4], (y1, x1, y2, x2) as fractions of the mask.
    """
    low, high = boxes[..., :2] * edge, boxes[..., 2:] * edge
    cell = (high - low) / size
    first = low + 0.5 * cell - 0.5
    last = high - 0.5 * cell - 0.5
    return tf.concat([first, last], axis=-1) / (edge - 1)
