"""Colour patterns for backgrounds and objects."""

from __future__ import annotations

import cv2
import numpy as np

NUM_PATTERNS = 5
MIN_CONTRAST = 80.0  # Euclidean distance of the mean colours of an object and of the pixels below it


def random_texture(rng: np.random.Generator, height: int, width: int, colours: np.ndarray) -> np.ndarray:
    """Mix two colours by a random pattern.

    Args:
        colours: float [2, 3] RGB, 0..255.
    Returns:
        float32 [height, width, 3], not clipped.
    """
    weight = _pattern(rng, height, width)[..., None]  # [height, width, 1] in 0..1
    first, second = colours.astype(np.float32)
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(rng.uniform(2.0, 8.0))
    return np.asarray(first + weight * (second - first) + grain)


def random_colours(rng: np.random.Generator, *, levels: tuple[float, float], spread: float) -> np.ndarray:
    """Draw a base colour within `levels` and a second one at most `spread` from it in each channel: float64 [2, 3]."""
    base = rng.uniform(*levels, 3)
    return np.stack([base, np.clip(base + rng.uniform(-spread, spread, 3), 0.0, 255.0)])


def contrasting_colours(
    rng: np.random.Generator, against: np.ndarray, *, levels: tuple[float, float], spread: float
) -> np.ndarray:
    """Draw colours whose mean differs clearly from the colour `against`, float [3]: float64 [2, 3]."""
    while True:
        colours = random_colours(rng, levels=levels, spread=spread)
        if np.linalg.norm(colours.mean(axis=0) - against) >= MIN_CONTRAST:
            return colours


def _pattern(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    kind = int(rng.integers(NUM_PATTERNS))
    angle, phase = rng.uniform(0, 2 * np.pi, 2).astype(np.float32)
    period = np.float32(rng.uniform(4.0, 24.0))
    y, x = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if kind == 0:  # plain
        return np.zeros((height, width), np.float32)
    if kind == 1:  # gradient
        return np.asarray((along - along.min()) / max(float(np.ptp(along)), 1.0))
    if kind == 2:  # stripes
        return np.asarray(0.5 + 0.5 * np.sin(along * (np.float32(2 * np.pi) / period) + phase))
    if kind == 3:  # checks
        cells = np.floor(along / period + phase) + np.floor(across / period)
        return np.asarray(cells % 2)
    return _clouds(rng, height, width, float(period))


def _clouds(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    coarse = rng.random((int(height / period) + 2, int(width / period) + 2), np.float32)
    return np.asarray(np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1))
