"""Convert layers over classes whose rows are category ids, as in torchvision's COCO detectors.

COCO's ids have gaps, and these detectors have rows for them too. The last axis of such an array runs over rows of one
number (scores, masks) or four (boxes). Row 0 of scores and boxes is the background; masks start at row 1.
"""

from collections.abc import Sequence

import keras
import numpy as np

NEVER = -1e4  # logit of a row without a class: its score is 0, in float16 too


def runs_over_classes(key: str) -> bool:
    """Return whether a variable belongs to a layer over classes (scores, boxes, masks)."""
    layer = key.rpartition(".")[0]
    return layer == "mask_head.logits" or (layer.startswith("box_head") and layer.endswith((".logits", ".deltas")))


def count_rows(key: str, array: np.ndarray | keras.Variable) -> int:
    """Return the number of rows of an array over classes, with background."""
    return array.shape[-1] // _row_size(key) + _first_row(key)


def rows_without_class(category_ids: Sequence[int], count: int) -> list[int]:
    """Return which of `count` rows belong neither to the background nor to a category id.

    >>> rows_without_class([1, 2, 4], 6)
    [3, 5]
    """
    return sorted(set(range(1, count)) - set(category_ids))


def take_classes(key: str, array: np.ndarray, category_ids: Sequence[int]) -> np.ndarray:
    """Keep the background and the rows of these category ids, in their order.

    Args:
        key: name of one of our variables; an array that does not run over classes is returned unchanged.
        array: in our layout.
    """
    if not has_class_rows(key, array):
        return array
    return _flat(_by_row(key, array)[..., _places(key, category_ids), :])


def spread_classes(key: str, array: np.ndarray, category_ids: Sequence[int]) -> np.ndarray:
    """Invert `take_classes`, with as many rows as the largest id needs.

    Rows without a class are zeros; the bias of their scores is so low that they are never found.
    """
    if not has_class_rows(key, array):
        return array
    fill = NEVER if key.startswith("box_head") and key.endswith(".logits.bias") else 0.0
    rows = _by_row(key, array)
    count = max(category_ids) + 1 - _first_row(key)
    spread = np.full((*rows.shape[:-2], count, rows.shape[-1]), fill, array.dtype)
    spread[..., _places(key, category_ids), :] = rows
    return _flat(spread)


def has_class_rows(key: str, array: np.ndarray | keras.Variable) -> bool:
    """Return whether the last axis of an array runs over classes, which is not so for a box that all classes share."""
    is_shared_box = ".deltas." in key and array.shape[-1] == 4
    return runs_over_classes(key) and not is_shared_box


def _first_row(key: str) -> int:
    return 1 if key.startswith("mask_head") else 0


def _row_size(key: str) -> int:
    return 4 if ".deltas." in key else 1


def _places(key: str, category_ids: Sequence[int]) -> list[int]:
    first = _first_row(key)
    return [row - first for row in (0, *category_ids) if row >= first]


def _by_row(key: str, array: np.ndarray) -> np.ndarray:
    return array.reshape(*array.shape[:-1], -1, _row_size(key))


def _flat(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(*rows.shape[:-2], -1)
