"""Conversion of predicted masks to COCO run-length code (RLE).

K masks of M x M.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrcnn_ops.library import raw_ops


def encode_masks(masks: Any, boxes: Any, image_sizes: Any, *, threshold: float = 0.5) -> Any:
    """Paste each mask into its box, apply the threshold, and encode the result as COCO RLE, without making a bitmap.

    Every pixel that the box touches (x in [floor(x1), ceil(x2)), y likewise) takes the value of the mask at the pixel's
    centre. Values are interpolated bilinearly between the centres of the mask's pixels, and constant beyond the
    outermost centres, so a mask of ones fills its box. There is no GPU kernel: TensorFlow runs this op on the CPU and
    copies its inputs there. There is no gradient.

    Args:
        masks: float32 [K, M, M], probabilities; M is 1 to 4096. NaN counts as background.
        boxes: float32 [K, 4], (x1, y1, x2, y2) in pixels of the output image; they may extend beyond it.
        image_sizes: int32 [K, 2], (h, w) of each mask's output image in pixels; 1 to 2^24 each, and h x w below 2^31.
        threshold: pixels with a greater value are foreground.

    Returns:
        string [K], the `counts` of a COCO compressed RLE of size [h, w]. A box without area, with a NaN or infinite
        coordinate, or outside the image gives an empty mask of the right size.

    Raises:
        InvalidArgumentError: shapes do not fit, or an image size is out of range; the message names the input.

    Examples:
        >>> encode_masks(tf.ones([1, 28, 28]), [[0.0, 0, 2, 1]], [[1, 4]]).numpy()  # columns: 0 off, 2 on, 2 off
        array([b'022'], dtype=object)
    """
    return raw_ops.mrcnn_encode_masks(masks=masks, boxes=boxes, image_sizes=image_sizes, threshold=threshold)


tf.no_gradient("MrcnnEncodeMasks")
