"""Draw objects over images, and put images together into a sheet.

Images are uint8 RGB [h, w, 3]; masks uint8 [h, w], 0 or 1; pixel (x, y) spans [x, x + 1) x [y, y + 1).
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mrcnn_data.outputs import write_output
from mrcnn_data.text import visible

# Limits of a picture's longer edge: in a smaller one, text covers the objects; larger ones make a sheet too big.
MIN_EDGE, MAX_EDGE = 480, 720
MASK_ALPHA = 0.45
GAP = 8  # pixels between pictures
TITLE_HEIGHT = 22
MAX_LABEL, MAX_TITLE = 40, 200  # characters; of longer text the middle is left out
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.42
GREY = (150, 150, 150)  # crowds


class Instance(NamedTuple):
    """One object to draw.

    Attributes:
        box: (x1, y1, x2, y2), pixels of the image; None for a mask alone.
        mask: of the image's size; None for a box alone.
        label: text at the box; "" for none.
        color: RGB, 0 to 255.
    """

    box: tuple[float, float, float, float] | None
    mask: np.ndarray | None
    label: str
    color: tuple[int, int, int]


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB [h, w, 3].

    Raises:
        OutputError: the file exists and was not written by this product, or the disk refuses.
    """
    ok, png = cv2.imencode(".png", picture[..., ::-1])
    assert ok
    write_output(path, png.tobytes())


def spread(items: Sequence[Any], *, count: int) -> list[Any]:
    """Return at most `count` items, evenly spread from the first to the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(position)] for position in np.linspace(0, len(items) - 1, count)]


def class_color(category: int) -> tuple[int, int, int]:
    """Return the RGB color of a class, the same in every picture; neighbours in number are far apart in hue."""
    hue = category * 0.618034 % 1.0  # the golden ratio spreads any number of hues
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def told_apart(instances: Sequence[Instance]) -> list[Instance]:
    """Give each instance another color, so that objects of one class can be told apart; crowds stay grey."""
    return [
        one if one.color == GREY else one._replace(color=class_color(number)) for number, one in enumerate(instances)
    ]


def picture_scale(height: int, width: int, *, max_edge: int = MAX_EDGE) -> float:
    """Return the factor to draw an image at: a whole number for small images, so that mask pixels become squares."""
    longer = max(height, width)
    if longer < MIN_EDGE:
        return math.ceil(MIN_EDGE / longer)
    return min(1.0, max_edge / longer)


def draw_instances(image: np.ndarray, instances: Sequence[Instance], *, max_edge: int = MAX_EDGE) -> np.ndarray:
    """Draw masks, boxes and labels over an image.

    Args:
        image: uint8 RGB [h, w, 3].
        instances: in the order of drawing.
        max_edge: longest edge of the picture, pixels; larger images are reduced.

    Returns:
        uint8 RGB, enlarged or reduced by `picture_scale`; without instances, the scaled image.
    """
    scale = picture_scale(*image.shape[:2], max_edge=max_edge)
    picture = resize_image(image, scale)
    masks = [None if instance.mask is None else resize_mask(instance.mask, scale) for instance in instances]
    for instance, mask in zip(instances, masks, strict=True):
        if mask is not None:
            tint(picture, mask, instance.color)
    for instance, mask in zip(instances, masks, strict=True):
        if mask is not None:
            picture[outline(mask)] = instance.color
        if instance.box is not None:
            frame(picture, instance.box, instance.color, scale=scale)
    _draw_labels(picture, instances, scale=scale)
    return picture


def resize_image(image: np.ndarray, scale: float) -> np.ndarray:
    """Scale an image; with scale 1, copy it."""
    if scale == 1:
        return image.copy()
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return cv2.resize(image, _scaled_size(image, scale), interpolation=interpolation)


def resize_mask(mask: np.ndarray, scale: float) -> np.ndarray:
    """Scale a mask to bool: enlarged, its pixels become squares; reduced, a pixel is set if half of it is covered."""
    if scale >= 1:
        factor = int(scale)
        return mask.astype(bool).repeat(factor, axis=0).repeat(factor, axis=1)
    return cv2.resize(mask * 255, _scaled_size(mask, scale), interpolation=cv2.INTER_AREA) >= 128


def _scaled_size(image: np.ndarray, scale: float) -> tuple[int, int]:
    return max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))  # (w, h), the order of OpenCV


def tint(picture: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> None:
    """Blend a color into the pixels of a bool mask, in place."""
    picture[mask] = (picture[mask] * (1 - MASK_ALPHA) + np.array(color) * MASK_ALPHA).astype(np.uint8)


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a bool mask at its border, inside the mask: an outline outside would make it look larger."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    return mask & (cv2.erode(mask.astype(np.uint8), cross) == 0)


def frame(
    picture: np.ndarray, box: tuple[float, float, float, float], color: tuple[int, int, int], *, scale: float
) -> None:
    """Draw a box with lines one pixel wide, in place, along the first and last pixels inside [x1, x2) and [y1, y2)."""
    x1, y1, x2, y2 = (round(value * scale) for value in box)
    cv2.rectangle(picture, (x1, y1), (max(x2 - 1, x1), max(y2 - 1, y1)), color)


def _draw_labels(picture: np.ndarray, instances: Sequence[Instance], *, scale: float) -> None:
    """Draw labels, the last instance first; leave out a label that would cover another."""
    taken = np.zeros(picture.shape[:2], bool)
    for instance in reversed(instances):
        anchor, label = _label_anchor(instance), visible(instance.label, limit=MAX_LABEL)
        if anchor is None or not label:
            continue
        (text_width, text_height), descent = cv2.getTextSize(label, FONT, FONT_SCALE, 1)
        width, height = text_width + 4, text_height + descent + 2
        x = max(0, min(round(anchor[0] * scale), picture.shape[1] - width))
        y = max(0, min(round(anchor[1] * scale) - height, picture.shape[0] - height))
        area = (slice(y, y + height), slice(x, x + width))
        if taken[area].any():
            continue
        taken[area] = True
        picture[area] = instance.color
        _write(picture, label, (x + 2, y + height - descent), text_color(instance.color))


def _label_anchor(instance: Instance) -> tuple[float, float] | None:
    """Return the top left corner (x, y) of the box, or of the mask if there is no box."""
    if instance.box is not None:
        return instance.box[0], instance.box[1]
    if instance.mask is None or not instance.mask.any():
        return None
    rows, columns = np.nonzero(instance.mask)
    return float(columns.min()), float(rows.min())


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, whichever is easier to read on the background."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def _write(picture: np.ndarray, text: str, origin: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, origin, FONT, FONT_SCALE, color, 1, cv2.LINE_AA)


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """Put a line of text above a picture."""
    title = visible(title, limit=MAX_TITLE)
    (width, _), _ = cv2.getTextSize(title, FONT, FONT_SCALE, 1)
    page = np.full((picture.shape[0] + TITLE_HEIGHT, max(picture.shape[1], width + 4), 3), 255, np.uint8)
    _write(page, title, (2, TITLE_HEIGHT - 7), (0, 0, 0))
    page[TITLE_HEIGHT:, : picture.shape[1]] = picture
    return page


def stack(pictures: Sequence[np.ndarray], *, axis: int) -> np.ndarray:
    """Put pictures below (axis 0) or beside (axis 1) each other, on white, with a gap between them."""
    other = 1 - axis
    extent = max(picture.shape[other] for picture in pictures)
    padded = []
    for number, picture in enumerate(pictures):
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[axis] = (GAP if number else 0, 0)
        padding[other] = (0, extent - picture.shape[other])
        padded.append(np.pad(picture, padding, constant_values=255))
    return np.concatenate(padded, axis=axis)
