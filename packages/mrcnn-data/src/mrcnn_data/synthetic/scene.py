"""Draw an image of objects that partly hide each other, with the exact visible pixels of each."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from mrcnn_data.masks.tracing import pixel_bounds
from mrcnn_data.synthetic.outlines import CLASS_NAMES, outline
from mrcnn_data.synthetic.textures import contrasting_colours, random_colours, random_texture

MIN_OBJECTS, MAX_OBJECTS = 2, 8
MIN_SIZE, MAX_SIZE = 12, 100  # long edge of an object's box, pixels
MIN_VISIBLE = 0.4  # every object keeps at least this share of its pixels visible
OCCLUDED = 0.2  # an object with at least this share of its pixels hidden counts as occluded
# Probability that a new object is placed over another; otherwise it touches no other. So 0.28 of all objects are
# occluded.
OVERLAY_PROBABILITY = 0.38
ATTEMPTS = 30
# All objects are lighter than the background. With the same colours for both, a network trained from scratch needs many
# more steps to tell shapes apart than the demo has (box AP 0.10 after 2,400 images).
BACKGROUND_LEVELS, OBJECT_LEVELS = (10.0, 90.0), (110.0, 240.0)
_SUPERSAMPLING = 4
_SHIFT = 4


@dataclasses.dataclass
class PlacedObject:
    """An object of a scene.

    Attributes:
        class_index: index into `CLASS_NAMES`.
        full_mask, visible_mask: bool [size, size], its pixels before and after later objects hide some of them.
    """

    class_index: int
    full_mask: np.ndarray
    visible_mask: np.ndarray

    @property
    def visible_share(self) -> float:
        return float(self.visible_mask.sum() / self.full_mask.sum())


@dataclasses.dataclass
class Scene:
    """`image`: uint8 [size, size, 3] RGB; later objects lie over earlier ones."""

    image: np.ndarray
    objects: list[PlacedObject]


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw an image of 2 to 8 objects."""
    image = random_texture(rng, size, size, random_colours(rng, levels=BACKGROUND_LEVELS, spread=40.0))
    image = np.clip(image, 0, 255)
    objects: list[PlacedObject] = []
    wanted = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    attempts = 0
    while len(objects) < wanted and (attempts < ATTEMPTS * wanted or len(objects) < MIN_OBJECTS):
        attempts += 1
        _try_to_place(rng, image, objects)
    noise = rng.standard_normal(image.shape, np.float32)  # as of a camera sensor: on objects and background
    image += noise * np.float32(rng.uniform(0.0, 6.0))
    return Scene(np.clip(np.rint(image), 0, 255).astype(np.uint8), objects)


def _try_to_place(rng: np.random.Generator, image: np.ndarray, objects: list[PlacedObject]) -> None:
    size = image.shape[0]
    class_index = int(rng.integers(len(CLASS_NAMES)))
    coverage = _random_coverage(rng, CLASS_NAMES[class_index], max_edge=min(MAX_SIZE, size * 5 // 8))
    height, width = coverage.shape
    victim = _pick_unhidden(rng, objects) if rng.random() < OVERLAY_PROBABILITY else None
    if victim is None:
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
    else:
        y, x = np.argwhere(victim.visible_mask)[rng.integers(victim.visible_mask.sum())]
        top = np.clip(y - rng.integers(height), 0, size - height)
        left = np.clip(x - rng.integers(width), 0, size - width)
    window = np.s_[top : top + height, left : left + width]
    mask = np.zeros((size, size), bool)
    mask[window] = coverage >= 0.5
    if any((other.visible_mask & mask).any() for other in objects if other is not victim):
        return
    if victim is not None:
        if not _is_well_hidden(victim, mask):
            return
        victim.visible_mask &= ~mask
    objects.append(PlacedObject(class_index, mask, mask.copy()))

    under = image[window]
    colours = contrasting_colours(rng, under[coverage >= 0.5].mean(axis=0), levels=OBJECT_LEVELS, spread=50.0)
    texture = np.clip(random_texture(rng, height, width, colours), 0, 255)
    image[window] = under + coverage[..., None] * (texture - under)  # anti-aliased at the border


def _random_coverage(rng: np.random.Generator, class_name: str, *, max_edge: int) -> np.ndarray:
    """Turn, size and stretch a shape at random; return how much it covers each pixel of its box: float32 [h, w]."""
    angle = rng.uniform(0, 2 * np.pi)
    # One more than the minimum: border pixels that are less than half covered are lost.
    edge = rng.uniform(MIN_SIZE + 1, max_edge)
    stretch = np.array([1.0, rng.uniform(0.8, 1.0)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    contours = [contour * stretch @ turn for contour in outline(class_name)]
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    scale = edge / (high - low).max()
    width, height = np.ceil((high - low) * scale).astype(int)
    samples = np.zeros((height * _SUPERSAMPLING, width * _SUPERSAMPLING), np.uint8)
    covered = 240  # a multiple of _SUPERSAMPLING^2: the mean over a pixel is a whole number
    fixed = [
        np.rint((((contour - low) * scale) * _SUPERSAMPLING - 0.5) * (1 << _SHIFT)).astype(np.int32)
        for contour in contours
    ]
    cv2.fillPoly(samples, fixed, covered, shift=_SHIFT)  # even-odd rule: a second contour is a hole
    return cv2.resize(samples, (int(width), int(height)), interpolation=cv2.INTER_AREA).astype(np.float32) / covered


def _pick_unhidden(rng: np.random.Generator, objects: list[PlacedObject]) -> PlacedObject | None:
    unhidden = [one for one in objects if one.visible_share > 1 - OCCLUDED]
    return unhidden[int(rng.integers(len(unhidden)))] if unhidden else None


def _is_well_hidden(victim: PlacedObject, mask: np.ndarray) -> bool:
    """Return whether `mask`, placed over the victim, hides at least OCCLUDED of it and leaves enough of it visible."""
    left = victim.visible_mask & ~mask
    if not MIN_VISIBLE * victim.full_mask.sum() <= left.sum() <= (1 - OCCLUDED) * victim.full_mask.sum():
        return False
    x1, y1, x2, y2 = pixel_bounds(left)
    return max(x2 - x1, y2 - y1) >= MIN_SIZE
