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
    """Crop every box from the level of the pyramid that suits its size, resampled to P x P (Mask R-CNN section 3).

    A box of area a is read from level floor(canonical_level + log2(sqrt(a) / canonical_size + 1e-6)), clamped to the
    levels there are (FPN section 4.2). A bin is the mean of sampling_ratio x sampling_ratio bilinear samples. A sample
    more than one pixel off the map counts as 0, a nearer one takes the value at the edge, as in torchvision.

    The gradient flows to `features` only. On the CPU it is bitwise reproducible whatever the number of threads, because
    every pixel is summed by one thread in the order of boxes; on a GPU if `deterministic`.

    Args:
        features: L tensors [N, Hl, Wl, C], finest first; float32, float16 or bfloat16, all alike. Sums are made in
            float32.
        boxes: float32 [N, R, 4], (x1, y1, x2, y2) in pixels of the resized image. An inverted box is read mirrored.
        strides: L numbers, pixels of the image per pixel of the map.
        output_size: P, 1 to 64.
        sampling_ratio: samples per bin and axis, 1 to 8.
        aligned: pixel i of a map has its centre at (i + 0.5) * stride. False is the rule of the first implementations:
            the half pixel is forgotten and a box is at least one pixel of the map wide and high.
        min_level: number of the first level, 2 for a stride of 4.
        canonical_level: the level of a box of canonical_size x canonical_size.
        canonical_size: pixels of the resized image.
        deterministic: the gradient is bitwise the same every time on a GPU too, where otherwise atomics add it up in
            any order. `tf.config.experimental.enable_op_determinism` has the same effect. On the CPU it always is:
            there, both values give the same result.

    Returns:
        [N, R, P, P, C] in the dtype of the features. Zeros for a box with a NaN or infinite coordinate, and for a box
        on an empty map. R = 0 gives an empty tensor, and a gradient of zeros.

    Raises:
        InvalidArgumentError: shapes or attributes do not fit; the message names the input.
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
    return [*feature_gradients, None]
