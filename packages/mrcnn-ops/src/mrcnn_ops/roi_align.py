"""ROIAlign over a feature pyramid.

N images, R boxes per image, L levels, C channels, P output size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from mrcnn_ops.library import raw_ops


def multilevel_roi_align(
    features: Sequence[Any],
    boxes: Any,
    *,
    strides: Sequence[float],
    output_size: int,
    sampling_ratio: int = 2,
    aligned: bool = True,
    min_level: int = 2,
    canonical_level: int = 4,
    canonical_size: float = 224.0,
    deterministic: bool = False,
) -> Any:
    """Crop each box from the pyramid level that fits its size, and resample it to P x P bins (Mask R-CNN section 3).

    A box of area a is read from level floor(canonical_level + log2(sqrt(a) / canonical_size + 1e-6)), clamped to the
    existing levels (FPN section 4.2). A bin is the mean of sampling_ratio x sampling_ratio bilinear samples. A sample
    that is more than one pixel outside the map counts as 0; a nearer one takes the value at the edge, as in
    torchvision.

    Only `features` get a gradient. On the CPU it has the same bits for any number of threads, because one thread adds
    up a pixel in the order of the boxes; on a GPU only with `deterministic=True`.

    Args:
        features: L tensors [N, Hl, Wl, C], finest first, all of one type: float32, float16 or bfloat16. Sums are
            float32.
        boxes: float32 [N, R, 4], (x1, y1, x2, y2) in pixels of the resized image. An inverted box gives a
            mirrored crop.
        strides: L numbers, pixels of the image per pixel of the map.
        output_size: P, 1 to 64.
        sampling_ratio: samples per bin and axis, 1 to 8.
        aligned: True: pixel i of a map has its centre at (i + 0.5) * stride. False, the rule of the first
            implementations: the centre is at i * stride, and a box is at least one map pixel wide and high.
        min_level: number of the first level: 2 for stride 4.
        canonical_level: the level of a box of canonical_size x canonical_size.
        canonical_size: pixels of the resized image.
        deterministic: True: the gradient has the same bits in every run on a GPU too, where atomics otherwise add it
            up in any order. `tf.config.experimental.enable_op_determinism` has the same effect. No effect on a CPU.

    Returns:
        [N, R, P, P, C] in the dtype of the features. The crop is all zeros if a coordinate is NaN or infinite, or if
        the map is empty. With R = 0 it is an empty tensor, and the gradient is zero.

    Raises:
        InvalidArgumentError: shapes or attributes do not fit; the message names the input.

    Examples:
        >>> columns = tf.reshape(tf.range(8.0), [1, 1, 8, 1]) + tf.zeros([1, 8, 8, 1])  # the value is the column
        >>> crops = multilevel_roi_align([columns], [[[2.0, 2, 6, 6]]], strides=[1], output_size=2)
        >>> crops.numpy()[0, 0, :, :, 0].tolist()  # bins centred at x = 3 and 5: pixel centres are at x + 0.5
        [[2.5, 4.5], [2.5, 4.5]]
    """
    return raw_ops.mrcnn_multilevel_roi_align(
        features=list(features),
        boxes=boxes,
        strides=[float(stride) for stride in strides],
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        min_level=min_level,
        canonical_level=canonical_level,
        canonical_size=canonical_size,
        deterministic=deterministic,
    )


_SHARED_ATTRIBUTES = (
    "strides",
    "output_size",
    "sampling_ratio",
    "aligned",
    "min_level",
    "canonical_level",
    "canonical_size",
    "deterministic",
)


@tf.RegisterGradient("MrcnnMultilevelRoiAlign")
def _multilevel_roi_align_gradient(op: Any, gradient: Any) -> list[Any]:
    *features, boxes = op.inputs
    feature_gradients = raw_ops.mrcnn_multilevel_roi_align_grad(
        gradient=gradient,
        boxes=boxes,
        feature_shapes=[tf.shape(feature) for feature in features],
        **{name: op.get_attr(name) for name in _SHARED_ATTRIBUTES},
    )
    # Each from a node with one output. TensorFlow 2.21 with oneDNN joins the gradients of a convolution's kernel and of
    # a bias if they read the same node, whichever of its outputs: levels would get the bias gradients of each other.
    return [*(tf.raw_ops.Snapshot(input=feature_gradient) for feature_gradient in feature_gradients), None]
