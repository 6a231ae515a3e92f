"""The options of augmentation, and the random geometry of one sample."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mrcnn_data.errors import OptionError
from mrcnn_data.images.geometry import Geometry, resized_sizes


@dataclasses.dataclass
class Augmentation:
    """Probabilities and ranges of random changes; the default, as in Tensorpack, is only a horizontal flip.

    Attributes:
        horizontal_flip, vertical_flip: probability.
        rotate90: probability of turning by 0, 90, 180 or 270 degrees, all equally likely.
        scale_range: [low, high] of a factor on the short edge and the size limit, drawn uniformly. With `crop_size`
            this is large-scale jitter, for example [0.1, 2.0] and 1024.
        crop_size: edge of a random square crop of the resized image, pixels; smaller images are padded to it. 0 = off.
            Every training batch is then crop_size x crop_size.
        brightness, contrast, saturation: x of a factor drawn from [1 - x, 1 + x], 0 <= x <= 1; 0 = off.
        hue: largest turn of the colours, as a share of the circle, at most 0.5; 0 = off.
        copy_paste: probability of pasting objects of another image, which is augmented in the same way.
    """

    horizontal_flip: float = 0.5
    vertical_flip: float = 0.0
    rotate90: float = 0.0
    scale_range: list[float] = dataclasses.field(default_factory=lambda: [1.0, 1.0])
    crop_size: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    copy_paste: float = 0.0

    @property
    def changes_colour(self) -> bool:
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    def check(self) -> None:
        """Raise OptionError, naming the option, if a value cannot work."""
        for name in ("horizontal_flip", "vertical_flip", "rotate90", "copy_paste"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise OptionError(f"augmentation.{name}={getattr(self, name)} must be between 0 and 1")
        for name, most in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0.0 <= getattr(self, name) <= most:
                raise OptionError(f"augmentation.{name}={getattr(self, name)} must be between 0 and {most:g}")
        if len(self.scale_range) != 2 or not 0.0 < self.scale_range[0] <= self.scale_range[1] < math.inf:
            raise OptionError(
                f"augmentation.scale_range={list(self.scale_range)} must be [low, high] with 0 < low <= high"
            )
        if self.crop_size < 0:
            raise OptionError(f"augmentation.crop_size={self.crop_size} must be 0 (off) or more")
        if self.crop_size == 0 and self.scale_range[1] > 1.0:
            raise OptionError(
                f"augmentation.scale_range={list(self.scale_range)} would make images larger than their bucket: "
                "keep it at most 1, or set augmentation.crop_size"
            )


def draw_geometry(
    augmentation: Augmentation,
    rng: np.random.Generator,
    *,
    source_size: tuple[int, int],
    turns: int,
    short_edges: Sequence[int],
    max_size: int,
) -> Geometry:
    """Choose the geometry of one sample at random.

    Every random number is drawn, also for an option that is off, so that an option does not change the others' numbers.
    """
    factor = rng.uniform(augmentation.scale_range[0], augmentation.scale_range[1])
    short_edge = short_edges[int(rng.integers(len(short_edges)))]
    flips_x, flips_y, crop_x, crop_y = rng.random(4)
    # Counter-clockwise quarter turns, as numpy.rot90: transpose, then flip.
    transpose = turns % 2 == 1
    flip_x = (turns in (2, 3)) != (flips_x < augmentation.horizontal_flip)
    flip_y = (turns in (1, 2)) != (flips_y < augmentation.vertical_flip)
    turned_size = source_size[::-1] if transpose else source_size
    height, width = map(
        int, resized_sizes(np.array(turned_size), short_edge=short_edge * factor, max_size=max_size * factor)
    )
    origin, output_size = (0, 0), (height, width)
    if augmentation.crop_size:
        crop = augmentation.crop_size
        output_size = (min(crop, height), min(crop, width))
        origin = (int(crop_x * (width - output_size[1] + 1)), int(crop_y * (height - output_size[0] + 1)))
    return Geometry(source_size, transpose, bool(flip_x), bool(flip_y), (height, width), origin, output_size)
