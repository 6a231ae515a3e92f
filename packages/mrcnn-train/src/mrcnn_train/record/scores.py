"""The numbers of an evaluation that a run logs: AP of boxes and, if the model has masks, of masks."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from mrcnn_eval import EvalResult

IOU_TYPES = {"box": "bbox", "mask": "segm"}
AP_NAMES = tuple(f"{what}_{name}" for what in IOU_TYPES for name in ("AP", "AP50", "AP75"))


def logged_numbers(results: Mapping[str, EvalResult]) -> dict[str, float]:
    """Return the numbers of AP_NAMES that an evaluation has. With several sets: their means, and each as SET/NAME.

    Args:
        results: by name of the validation set.
    """
    by_set = {name: _numbers(result) for name, result in results.items()}
    if len(by_set) == 1:
        return next(iter(by_set.values()))
    first, *_ = by_set.values()
    means = {key: _mean([numbers[key] for numbers in by_set.values()]) for key in first}
    return means | {f"{name}/{key}": value for name, numbers in by_set.items() for key, value in numbers.items()}


def _numbers(result: EvalResult) -> dict[str, float]:
    return {
        f"{what}_{name}": result.stats[iou_type][name]
        for what, iou_type in IOU_TYPES.items()
        if iou_type in result.stats
        for name in ("AP", "AP50", "AP75")
    }


def _mean(values: Sequence[float]) -> float:
    """Average without the -1 of sets that have no objects to find."""
    return statistics.fmean([value for value in values if value >= 0] or [-1.0])


def total_ap(numbers: Mapping[str, float]) -> float:
    """Return box AP plus mask AP, which decides the best evaluation; -1 if neither is defined."""
    defined = [value for what in IOU_TYPES if (value := numbers.get(f"{what}_AP", -1.0)) >= 0]
    return sum(defined) if defined else -1.0


def describe_ap(numbers: Mapping[str, float]) -> str:
    """Write "box AP 0.123, mask AP 0.123"; with several validation sets, also those of each."""
    text = _describe(numbers)
    sets = sorted({key.partition("/")[0] for key in numbers if "/" in key})
    if not sets:
        return text
    each = (f"{name}: {_describe({key: numbers.get(f'{name}/{key}') for key in AP_NAMES})}" for name in sets)
    return f"{text} (mean of {len(sets)} sets; {'; '.join(each)})"


def _describe(numbers: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"{what} AP {value:.3f}" if value >= 0 else f"{what} AP undefined"
        for what in IOU_TYPES
        if (value := numbers.get(f"{what}_AP")) is not None
    )
