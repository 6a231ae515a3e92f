"""Look up the ground truth of each sample. Shapes: N images, G ground truths, S samples."""

import tensorflow as tf


def gather_ground_truth(per_gt: tf.Tensor, gt_indices: tf.Tensor) -> tf.Tensor:
    """Take each sample's row: [N, G, ...], int64 [N, S] -> [N, S, ...].

    Indices below 0 are read as 0. If G is 0, the result is zeros (False), from an empty row that is appended.
    """
    # Not tf.pad, which has no kernel for int64 on GPUs.
    empty = tf.zeros([tf.shape(per_gt)[0], 1, *per_gt.shape[2:]], per_gt.dtype)
    padded = tf.concat([per_gt, empty], axis=1)
    return tf.gather(padded, tf.maximum(gt_indices, 0), batch_dims=1)
