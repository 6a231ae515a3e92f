"""Colour jitter: brightness, contrast, saturation and hue as one affine map of RGB, in one pass over the pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np

from mrcnn_data.augmentation.options import Augmentation

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: the perceived brightness of R, G and B


def jitter_colour(image: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> None:
    """Change the colours of `image` uint8 [h, w, 3] RGB in place, by factors drawn within the options' ranges."""
    brightness, contrast, saturation = (
        1.0 + limit * rng.uniform(-1.0, 1.0)
        for limit in (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    )
    turn = augmentation.hue * rng.uniform(-1.0, 1.0)
    mean = float(_LUMA @ cv2.mean(image)[:3])
    matrix = colour_matrix(brightness=brightness, contrast=contrast, saturation=saturation, turn=turn, mean=mean)
    cv2.transform(image, matrix, dst=image)


def colour_matrix(*, brightness: float, contrast: float, saturation: float, turn: float, mean: float) -> np.ndarray:
    """Compose the four changes, in the order of the arguments, into one map of RGB.

    Values are clipped to 0..255 only at the end, not between the changes.

    Args:
        brightness: factor of every value.
        contrast: factor of the difference from the mean luma of the image.
        saturation: factor of the difference from the luma of each pixel; 0 = grey.
        turn: of the hue around the grey axis, as a share of the circle; it keeps the luma.
        mean: mean luma of the image before the change.
    Returns:
        float32 [3, 4]: the linear part [3, 3] and the offset [3, 1].
    """
    to_luma = np.outer(np.ones(3), _LUMA)  # maps every channel to the luma
    saturate = saturation * np.eye(3) + (1.0 - saturation) * to_luma
    linear = _hue_rotation(turn) @ saturate * (contrast * brightness)
    added = np.full((3, 1), (1.0 - contrast) * brightness * mean)  # grey: saturation and hue do not change it
    return np.concatenate([linear, added], axis=1).astype(np.float32)


def _hue_rotation(turn: float) -> np.ndarray:
    """Rotate the chroma plane of YIQ (FCC 1953), which is a linear map of RGB: float64 [3, 3]."""
    to_yiq = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    rotation = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.asarray(np.linalg.solve(to_yiq, rotation @ to_yiq))
