"""Read mask pictures: int64 [h, w], `BACKGROUND` where there is no object; and signs that they are not what they seem.

Legend: h, w of a picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mrcnn_data.errors import DatasetError
from mrcnn_data.images.reading import decode_as_stored, read_image_file

BACKGROUND = -1  # in arrays of values

# An anti-aliased outline has many values, each at few pixels that lie between two others.
_FEWEST_SMOOTH = 3  # values: those of 2 x 2 samples in a pixel
_SMOOTH = 0.5  # part of the values in a picture that are of this kind
_BETWEEN = 0.8  # part of a value's pixels
_FACTORS = (1000, 256)  # of files whose values are class x factor + number
_HIGHEST_NUMBER = 0.25  # of the factor: numbers of objects of one class in an image are small


class MaskOptions(NamedTuple):
    """How values are read.

    Attributes:
        background: the value that is no object.
        ignored: values that are background too.
        threshold: if given, pixels of at least this are one value and the others another: 1, and background.
    """

    background: int = 0
    ignored: frozenset[int] = frozenset()
    threshold: int | None = None


def read_values(path: Path, options: MaskOptions) -> np.ndarray:
    """Read a mask picture.

    Raises:
        DatasetError: it cannot be read, or has the smooth edges of a drawing and there is no threshold.
    """
    picture, is_index = _read(path)
    values = _values(picture, is_index=is_index)
    if options.threshold is not None:
        brightness = picture[..., :3].max(axis=-1) if picture.ndim == 3 and not is_index else values
        is_bright = options.threshold <= _brightness(options.background)
        return np.where((brightness >= options.threshold) != is_bright, 1, BACKGROUND)
    if not is_index and (count := _smooth_values(picture)):
        advice = "save masks without smoothing (anti-aliasing, interpolation, JPEG)"
        if picture.ndim == 2 or np.array_equal(picture[..., 0], picture[..., 2]):
            advice += f", or give --threshold {(int(picture.max()) + 1) // 2}, which makes two values of all"
        raise DatasetError(f"{path}: {count} of its values are only at edges, so edges were smoothed: {advice}")
    values[np.isin(values, [options.background, *options.ignored])] = BACKGROUND
    return values


def _read(path: Path) -> tuple[np.ndarray, bool]:
    """Return the picture, [h, w] or [h, w, channels], and whether its values are indices of a palette."""
    data = read_image_file(path)
    numbered = _with_numbers_as_colours(data)
    picture = decode_as_stored(path, numbered or data, cv2.IMREAD_UNCHANGED)
    if picture.dtype.kind == "f" and not (np.isfinite(picture).all() and (picture % 1 == 0).all()):
        raise DatasetError(f"{path}: its values are not whole numbers: write masks of integers")
    return picture, numbered is not None


def _values(picture: np.ndarray, *, is_index: bool) -> np.ndarray:
    if picture.ndim == 2:
        return picture.astype(np.int64)
    blue, green, red = (picture[..., channel].astype(np.int64) for channel in range(3))
    return np.asarray(blue if is_index else red << 16 | green << 8 | blue)


def _brightness(value: int) -> int:
    """Return the largest channel of a value, which is a colour 0xRRGGBB if it is above 16 bits."""
    return max(value >> 16, value >> 8 & 255, value & 255) if value > 0xFFFF else value


def _with_numbers_as_colours(data: bytes) -> bytes | None:
    """Give index i of a palette PNG the colour (i, i, i); None for any other file (PNG, sections 5 and 11.2).

    OpenCV returns colours, and several indices may share one: unused ones are often black, as background is.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25:26] != b"\3":
        return None
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"PLTE":
            body = kind + bytes(number for number in range(length // 3) for _ in range(3))
            return data[: position + 4] + body + struct.pack(">I", zlib.crc32(body)) + data[position + 12 + length :]
        position += 12 + length
    return None


def _smooth_values(picture: np.ndarray) -> int:
    """Count the values that occur only at edges, strictly between the values beside them; 0 if they are few.

    A small object is not between: all around it is background, or larger numbers, or smaller ones.
    """
    grey = picture.astype(np.int32) if picture.ndim == 2 else picture[..., :3].sum(axis=-1, dtype=np.int32)
    found, places = np.unique(grey, return_inverse=True)
    if len(found) < _FEWEST_SMOOTH + 2:
        return 0
    ranks = places.reshape(grey.shape).astype(np.float32)  # in the order of the values; OpenCV has no int32 here
    kernel = np.ones((3, 3), np.uint8)
    lowest, highest = cv2.erode(ranks, kernel), cv2.dilate(ranks, kernel)
    is_between = (lowest < ranks) & (ranks < highest)
    counts = np.bincount(places.ravel())
    between = np.bincount(places.ravel(), weights=is_between.ravel())
    # A value with an inside has pixels whose neighbours are all the same.
    is_solid = np.bincount(places.ravel(), weights=(lowest == highest).ravel()) > 0
    smooth = int((~is_solid & (between >= _BETWEEN * counts)).sum())
    return smooth if smooth >= _FEWEST_SMOOTH and smooth > _SMOOTH * len(found) else 0


def covering_value(values: np.ndarray) -> int | None:
    """Return the value of an object that covers more than half of a picture and of its border, as background does."""
    found, counts = np.unique(values, return_counts=True)
    most = int(found[np.argmax(counts)])
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    covers = counts.max() > values.size / 2 and (border == most).mean() > 0.5
    return most if covers and most != BACKGROUND else None


def class_factor_of(values: Collection[int]) -> int | None:
    """Return the factor if values seem to be class x factor + number, as in Cityscapes: large, with few small rests."""
    for factor in _FACTORS:
        large = [value for value in values if value >= factor]
        is_sparse = large and 4 * len(values) < max(values) <= 0xFFFF  # numbers in turn are not, colours are larger
        if is_sparse and all(value % factor < _HIGHEST_NUMBER * factor for value in large):
            return factor
    return None


def has_neck(pixels: np.ndarray) -> bool:
    """Return whether a connected region, bool [h, w], falls into large parts when it is made thinner."""
    area = int(pixels.sum())
    size = max(int(area**0.5 / 4), 1) * 2 + 1  # a disc of this area is 2.3 times as wide
    thinner = cv2.erode(np.pad(pixels, 1).astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))
    _, _, statistics, _ = cv2.connectedComponentsWithStats(thinner, connectivity=8)
    return bool((statistics[1:, cv2.CC_STAT_AREA] > 0.02 * area).sum() > 1)
