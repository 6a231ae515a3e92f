"""Test-time augmentation: detect on mirrored and scaled images too, and combine the results.

Legend: N images in an H x W bucket, R proposals per view, C classes with background, B boxes of a proposal (C-1, or 1
where the classes share one), D detections, M mask edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import tensorflow as tf

from mrcnn_eval.inference.detection import DetectFunction, Pixels
from mrcnn_eval.inference.packing import PackedDetections
from mrcnn_model import Detections, MaskRCNN

EDGE_MULTIPLE = 32  # of a batch: the coarsest stride of the backbone
MIN_SCALE, MAX_SCALE = 0.25, 4.0  # smaller, objects vanish; larger, a batch takes 16 times the memory


class View(NamedTuple):
    """One way to look at an image: scaled, then mirrored from left to right or not."""

    scale: float
    flip: bool


PLAIN = View(1.0, False)


def views(*, flip: bool, scales: Sequence[float] = ()) -> tuple[View, ...]:
    """List the views: the image as it is and at each other scale, each also mirrored if `flip`.

    Raises:
        ValueError: a scale outside `MIN_SCALE` to `MAX_SCALE`.

    >>> views(flip=True, scales=[0.5])[1:3]
    (View(scale=1.0, flip=True), View(scale=0.5, flip=False))
    """
    for scale in scales:
        if not MIN_SCALE <= scale <= MAX_SCALE:
            raise ValueError(f"a scale must be between {MIN_SCALE:g} and {MAX_SCALE:g}, not {scale:g}")
    return tuple(
        View(scale, is_flipped)
        for scale in dict.fromkeys((1.0, *scales))
        for is_flipped in ((False, True) if flip else (False,))
    )


class _Look(NamedTuple):
    """A view of a batch, with its features and scored boxes in the frame of the view.

    Attributes:
        view: the view.
        sizes: int32 [N, 2], (h, w) of the images in it.
        pyramid: the features.
        boxes: float32 [N, R, B, 4].
        scores: float32 [N, R, C-1].
    """

    view: View
    sizes: np.ndarray
    pyramid: list[tf.Tensor]
    boxes: tf.Tensor
    scores: tf.Tensor


def augmented_detect(model: MaskRCNN, looks: Sequence[View]) -> DetectFunction:
    """Return a function that detects as `compiled_detect(model)` does, over several views of each image.

    The boxes and scores of all views go through one NMS; the mask of a box that stays is the mean of all views. With
    the plain view alone the result is the model's own. Scaled views start from the images of the batch, which are
    resized already.

    Args:
        model: the model.
        looks: from `views`.
    """
    front, mask = _compiled(_front(model)), _compiled(_mask(model))

    def detect(images: Pixels, image_sizes: Pixels) -> PackedDetections:
        pixels, sizes = np.asarray(images), np.asarray(image_sizes)
        seen = []
        for view in looks:
            viewed, its_sizes = _viewed(pixels, sizes, view)
            seen.append(_Look(view, its_sizes, *front(tf.constant(viewed), tf.constant(its_sizes))))
        best = model.ops.multiclass_nms(
            tf.concat([_from_view(look.boxes, look, sizes) for look in seen], axis=1),  # [N, R * views, B, 4]
            tf.concat([look.scores for look in seen], axis=1),
            score_threshold=model.config.score_threshold,
            nms_threshold=model.config.detection_nms_threshold,
            max_detections=model.config.detections_per_image,
        )
        if model.config.masks:
            classes = tf.cast(best.classes, tf.int64)  # a compiled function takes int32 in the host's memory
            masks = _mean_mask(mask, seen, best.boxes, classes, sizes=sizes)
            masks = tf.where(best.valid[..., tf.newaxis, tf.newaxis], masks, 0.0)  # [N, D, M, M]
        else:
            masks = tf.zeros([*best.boxes.shape[:2], 0, 0])
        return PackedDetections.of(Detections(best.boxes, best.scores, best.classes, masks, best.valid))

    return detect


def _mean_mask(
    mask: Callable[..., Any], seen: Sequence[_Look], boxes: tf.Tensor, classes: tf.Tensor, *, sizes: np.ndarray
) -> tf.Tensor:
    """Average the masks of boxes float32 [N, D, 4] over all views: [N, D, M, M]."""
    masks = [_unflipped(mask(look.pyramid, _to_view(boxes, look, sizes), classes), look.view) for look in seen]
    return tf.add_n(masks) / len(masks)


def _front(model: MaskRCNN) -> Callable[..., Any]:
    def front(images: tf.Tensor, image_sizes: tf.Tensor) -> Any:
        pyramid = model.features(images, image_sizes)
        proposals = model.proposals(model.rpn(pyramid), pyramid, image_sizes, training=False)
        scores, boxes = model.classified_boxes(pyramid, proposals, image_sizes)
        return pyramid, boxes, scores

    return front


def _mask(model: MaskRCNN) -> Callable[..., Any]:
    def mask(pyramid: list[tf.Tensor], boxes: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(model.mask_logits(pyramid, boxes, classes))

    return mask


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function once per shapes of its arguments, without warnings of retracing."""
    compiled: dict[Any, Any] = {}

    def call(*arguments: Any) -> Any:
        shapes = tuple(tuple(part.shape) for part in tf.nest.flatten(arguments))
        if shapes not in compiled:
            compiled[shapes] = tf.function(function).get_concrete_function(*arguments)
        return compiled[shapes](*arguments)

    return call


def _viewed(images: np.ndarray, sizes: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Scale and flip a batch uint8 [N, H, W, 3] whose images of `sizes` (h, w) lie at the top left."""
    if view == PLAIN:
        return images, sizes
    edges = [math.ceil(edge * view.scale / EDGE_MULTIPLE) * EDGE_MULTIPLE for edge in images.shape[1:3]]
    viewed = np.zeros((len(images), *edges, 3), images.dtype)
    its_sizes = np.maximum(np.floor(sizes * view.scale + 0.5), 1).astype(sizes.dtype)  # [N, 2]
    for row, ((h, w), (its_h, its_w)) in enumerate(zip(sizes, its_sizes, strict=True)):
        image = images[row, :h, :w]
        if view.scale != 1:
            shrinks = view.scale < 1
            image = cv2.resize(
                image, (int(its_w), int(its_h)), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
        viewed[row, :its_h, :its_w] = image[:, ::-1] if view.flip else image
    return viewed, its_sizes


def _unflipped(masks: tf.Tensor, view: View) -> tf.Tensor:
    return tf.reverse(masks, [-1]) if view.flip else masks  # [N, D, M, M]


def _from_view(boxes: tf.Tensor, look: _Look, sizes: np.ndarray) -> tf.Tensor:
    """Take boxes [N, ..., 4] from a view to the images of `sizes` (h, w) [N, 2]."""
    return _map_boxes(boxes, from_sizes=look.sizes, to_sizes=sizes, flip=look.view.flip)


def _to_view(boxes: tf.Tensor, look: _Look, sizes: np.ndarray) -> tf.Tensor:
    return _map_boxes(boxes, from_sizes=sizes, to_sizes=look.sizes, flip=look.view.flip)


def _map_boxes(boxes: tf.Tensor, *, from_sizes: np.ndarray, to_sizes: np.ndarray, flip: bool) -> tf.Tensor:
    """Take boxes [N, ..., 4] from images of sizes (h, w) [N, 2] to the same in other sizes, mirrored if `flip`."""
    shape = [len(from_sizes)] + [1] * (len(boxes.shape) - 2)  # [N, 1, ...]
    scales = (to_sizes / from_sizes).astype(np.float32)
    width = tf.constant(to_sizes[:, 1].astype(np.float32).reshape(shape))
    x_scale, y_scale = (tf.constant(scales[:, axis].reshape(shape)) for axis in (1, 0))
    x1, y1, x2, y2 = tf.unstack(boxes, axis=-1)
    x1, y1, x2, y2 = x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale
    if flip:
        x1, x2 = width - x2, width - x1
    return tf.stack([x1, y1, x2, y2], axis=-1)
