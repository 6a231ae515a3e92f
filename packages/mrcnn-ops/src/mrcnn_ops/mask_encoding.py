"""Predicted masks to COCO run-length code.

K masks of M x M.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mrcnn_ops.library import raw_ops


def encode_masks(masks: Any, boxes: Any, image_sizes: Any, *, threshold: float = 0.5) -> Any:
    """Paste each mask into its box, threshold, and encode as COCO does, without making a bitmap.

    Every pixel that the box touches, x in [floor(x1), ceil(x2)) and y likewise, takes the mask's value at the pixel's
    centre, interpolated bilinearly between the centres of the mask's own pixels and constant beyond the outermost of
    them. A mask of ones fills its box. There is no kernel for GPUs: TensorFlow runs this op on the CPU device and
    copies its inputs there. No gradient.

    Args:
        masks: float32 [K, M, M], probabilities; M is 1 to 4096. NaN counts as background.
        boxes: float32 [K, 4], (x1, y1, x2, y2) in pixels of the output image; they may reach beyond it.
        image_sizes: int32 [K, 2], (h, w) of the output image of each mask, pixels; 1 to 2^24 each, below 2^31 pixels in
            all.
        threshold: a pixel is foreground where its value is greater.

    Returns:
        string [K], the `counts` of a COCO compressed RLE of size [h, w]. A box without area, with a NaN or infinite
        coordinate, or outside the image gives an empty mask of the right size.

    Raises:
        InvalidArgumentError: shapes do not fit, or an image size is out of range; the message names the input.
    """
    return raw_ops.mrcnn_encode_masks(masks=masks, boxes=boxes, image_sizes=image_sizes, threshold=threshold)


tf.no_gradient("MrcnnEncodeMasks")
