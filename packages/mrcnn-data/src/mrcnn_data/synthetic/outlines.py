"""The outlines of the classes: polygons that touch the circle of radius 1 around the origin."""

from __future__ import annotations

import math

import numpy as np

# Convex, concave and ringed shapes that can be told apart at 12 px, at any rotation.
CLASS_NAMES = ("crescent", "cross", "disc", "ring", "square", "triangle")

_ARC_VERTICES = 64
_CROSS_ARM = 0.34  # half width of an arm
_RING_HOLE = 0.55  # radius of the hole
_CRESCENT_BITE = (0.6, 0.8)  # centre and radius of the disc that is cut out


def outline(class_name: str) -> list[np.ndarray]:
    """List the contours of a class, each float64 [V, 2]; by the even-odd rule, a second contour is a hole."""
    if class_name == "disc":
        return [_circle(1.0)]
    if class_name == "ring":
        return [_circle(1.0), _circle(_RING_HOLE)]
    if class_name == "square":
        return [_regular(4)]
    if class_name == "triangle":
        return [_regular(3)]
    if class_name == "cross":
        return [_cross()]
    if class_name == "crescent":
        return [_crescent()]
    raise ValueError(f"class_name={class_name!r} is not one of {', '.join(CLASS_NAMES)}")


def _regular(num_corners: int) -> np.ndarray:
    return _arc(0.0, 2 * math.pi * (1 - 1 / num_corners), num_corners)


def _circle(radius: float) -> np.ndarray:
    return radius * _regular(_ARC_VERTICES)


def _arc(start: float, end: float, num_vertices: int) -> np.ndarray:
    angles = np.linspace(start, end, num_vertices)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _cross() -> np.ndarray:
    arm, reach = _CROSS_ARM, math.sqrt(1 - _CROSS_ARM**2)
    quarter = np.array([[reach, -arm], [reach, arm], [arm, arm]])
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


def _crescent() -> np.ndarray:
    centre, radius = _CRESCENT_BITE
    # Where the unit circle and the bite meet: x from (x - centre)^2 - radius^2 = x^2 - 1.
    x = (1 + centre**2 - radius**2) / (2 * centre)
    y = math.sqrt(1 - x**2)
    outer_tip, inner_tip = math.atan2(y, x), math.atan2(y, x - centre)
    outer = _arc(outer_tip, 2 * math.pi - outer_tip, _ARC_VERTICES)
    inner = np.array([centre, 0.0]) + radius * _arc(2 * math.pi - inner_tip, inner_tip, _ARC_VERTICES)
    return np.concatenate([outer, inner[1:-1]])
