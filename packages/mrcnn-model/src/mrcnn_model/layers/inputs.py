"""Check the batches that users hand to the network.

Types and static shapes are checked, which in a `tf.function` happens once, while it is traced. Values are checked only
where they are known without running the graph: in eager mode, and constants.

Shapes: N images, H x W padded size, G ground truths, K crowds, M edge of the stored masks.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

EDGE_MULTIPLE = 32  # the stride of the coarsest map of the backbone
IMAGES = ("N", "H", "W", 3)
GROUND_TRUTH = {
    "gt_boxes": (tf.float32, ("N", "G", 4)),
    "gt_classes": (tf.int32, ("N", "G")),
    "gt_masks": (tf.uint8, ("N", "G", "M", "M")),
    "gt_has_mask": (tf.bool, ("N", "G")),
    "crowd_boxes": (tf.float32, ("N", "K", 4)),
    "sample_seeds": (tf.int32, ("N", 2)),
}


def check_images(images: tf.Tensor, image_sizes: tf.Tensor) -> None:
    """Check a batch of images.

    Args:
        images: uint8 or float [N, H, W, 3]; H and W multiples of 32.
        image_sizes: int32 [N, 2], valid (h, w), at most (H, W).

    Raises:
        ValueError: naming the argument, what is expected and what it is.
    """
    if images.dtype != tf.uint8 and not images.dtype.is_floating:
        raise ValueError(f"images: expected uint8 or float {_text(IMAGES)}, got {_seen(images)}")
    edges = _bind({}, "images", images, IMAGES)
    _check("image_sizes", image_sizes, tf.int32, ("N", 2), edges)
    if any(edges.get(name, 0) % EDGE_MULTIPLE for name in ("H", "W")):
        raise ValueError(f"images: H and W must be multiples of {EDGE_MULTIPLE}, got {_seen(images)}: pad with zeros")
    sizes = tf.get_static_value(image_sizes)
    if sizes is not None and "H" in edges and "W" in edges and np.any((sizes < 0) | (sizes > [edges["H"], edges["W"]])):
        raise ValueError(f"image_sizes: expected (h, w) of at most {edges['H']}, {edges['W']}, got {sizes.tolist()}")


def check_ground_truth(arguments: Iterable[tf.Tensor], *, num_images: int | None, num_classes: int) -> None:
    """Check what `MaskRCNN.losses` gets besides the images.

    Args:
        arguments: in the order of `GROUND_TRUTH`.
        num_images: N; None if it is not static.
        num_classes: with background.

    Raises:
        ValueError: naming the argument, what is expected and what it is.
    """
    edges = {} if num_images is None else {"N": num_images}
    named = dict(zip(GROUND_TRUTH, arguments, strict=True))
    for name, (dtype, axes) in GROUND_TRUTH.items():
        _check(name, named[name], dtype, axes, edges)
    masks, classes = named["gt_masks"], tf.get_static_value(named["gt_classes"])
    if edges.get("M", 0) < 2:  # one cell has no space between the centres of its first and last cell
        raise ValueError(f"gt_masks: expected [N, G, M, M] with M of 2 or more, got {_seen(masks)}")
    values = tf.get_static_value(masks)
    if values is not None and values.max(initial=0) > 1:
        raise ValueError(f"gt_masks: expected values 0 and 1, got {values.max()}")
    if classes is not None and np.any((classes < 0) | (classes >= num_classes)):
        raise ValueError(
            f"gt_classes: expected 0 to {num_classes - 1}, got {classes.min()} to {classes.max()}: classes are "
            "numbered from 1 without gaps, 0 is padding"
        )


def _check(name: str, tensor: tf.Tensor, dtype: tf.DType, axes: Sequence[str | int], edges: dict[str, int]) -> None:
    if tensor.dtype != dtype:
        raise ValueError(f"{name}: expected {dtype.name} {_text(axes)}, got {_seen(tensor)}")
    _bind(edges, name, tensor, axes)


def _bind(edges: dict[str, int], name: str, tensor: tf.Tensor, axes: Sequence[str | int]) -> dict[str, int]:
    """Compare a static shape with its axes: numbers, and letters, which stand for the same number everywhere."""
    if tensor.shape.rank is None:
        return edges
    shape, before = tensor.shape.as_list(), dict(edges)
    fits = len(shape) == len(axes)
    for axis, edge in zip(axes, shape, strict=False):
        if edge is not None:
            fits = fits and edge == (axis if isinstance(axis, int) else edges.setdefault(axis, edge))
    if not fits:
        known = ", ".join(f"{axis} = {before[axis]}" for axis in dict.fromkeys(map(str, axes)) if axis in before)
        raise ValueError(f"{name}: expected {_text(axes)}{f' with {known}' if known else ''}, got {_seen(tensor)}")
    return edges


def _text(axes: Sequence[str | int]) -> str:
    return f"[{', '.join(map(str, axes))}]"


def _seen(tensor: tf.Tensor) -> str:
    return f"{tensor.dtype.name} {tensor.shape}"
