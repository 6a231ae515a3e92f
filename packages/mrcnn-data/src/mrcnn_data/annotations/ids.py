"""Ids of images and categories; the same id may be written as a number in one place and as text in another.

Legend: A annotations.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrcnn_data.annotations.columns import Id, compact_ids, ids_of

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(?:\.0*)?")


def whole_number(value: Any) -> int | None:
    """Return a whole number, also from text ("5") or a float (5.0); None for anything else."""
    if isinstance(value, str):
        text = value.strip()
        return int(text.partition(".")[0]) if _WHOLE_NUMBER.fullmatch(text) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def as_id(value: Any) -> Id | None:
    """Return text or a whole number as it is, a float such as 1.0 as 1; None for anything else."""
    return value if isinstance(value, str) else whole_number(value)


def as_numbers(ids: Sequence[Id]) -> tuple[list[Id], list[int]]:
    """Turn text ids into numbers, if a list has both, all text is a number, and different ids stay different.

    Returns:
        The ids, and the places of those that were changed.
    """
    places = [place for place, item in enumerate(ids) if isinstance(item, str)]
    numbers = [whole_number(item) for item in ids] if 0 < len(places) < len(ids) else []
    if not numbers or None in numbers or len(set(numbers)) < len(set(ids)):
        return list(ids), []
    return [number for number in numbers if number is not None], places


def places_of(known: Sequence[Id], wanted: np.ndarray | list[Id | None]) -> tuple[np.ndarray, np.ndarray]:
    """Find ids in a list. If an id is not in it, the one with the same number in another type ("5" for 5) is taken.

    Returns:
        int64 [A]: the place of each of `wanted` in `known`, -1 where it has none.
        int64: rows of `wanted` that were found by their number only.
    """
    places = _exact_places(known, wanted)
    missing = np.flatnonzero(places < 0)
    if not missing.size:
        return places, missing
    place_of_number: dict[int | None, int] = {}
    for place, item in enumerate(known):
        number = whole_number(item)
        if number is not None:
            place_of_number[number] = -1 if number in place_of_number else place
    numbers = map(whole_number, ids_of(wanted, missing))
    found = np.fromiter(map(place_of_number.get, numbers, itertools.repeat(-1)), np.int64, len(missing))
    places[missing] = found
    return places, missing[found >= 0]


def _exact_places(known: Sequence[Id], wanted: np.ndarray | list[Id | None]) -> np.ndarray:
    numbers = compact_ids(known)
    if isinstance(numbers, np.ndarray) and isinstance(wanted, np.ndarray) and len(numbers):
        order = np.argsort(numbers)
        nearest = np.searchsorted(numbers, wanted, sorter=order)
        places = order[np.minimum(nearest, len(order) - 1)]
        return np.where(numbers[places] == wanted, places, -1)
    place_of: dict[Id | None, int] = {item: place for place, item in enumerate(known)}
    items = ids_of(wanted, np.arange(len(wanted)))
    return np.fromiter(map(place_of.get, items, itertools.repeat(-1)), np.int64, len(items))


def repeated(ids: Sequence[Id | None]) -> list[int]:
    """Return the places of ids that occur earlier in the list too; None is not an id."""
    seen: set[Id] = set()
    places = []
    for place, item in enumerate(ids):
        if item is None:
            continue
        if item in seen:
            places.append(place)
        seen.add(item)
    return places
