"""What a run shows of an evaluation: APs of boxes and, where the model has masks, of masks."""

from __future__ import annotations

from collections.abc import Mapping

from mrcnn_eval import EvalResult

IOU_TYPES = {"box": "bbox", "mask": "segm"}
AP_NAMES = tuple(f"{what}_{name}" for what in IOU_TYPES for name in ("AP", "AP50", "AP75"))


def headline(result: EvalResult) -> dict[str, float]:
    """The numbers that are logged, under those of AP_NAMES that the evaluation has."""
    return {
        f"{what}_{name}": result.stats[iou_type][name]
        for what, iou_type in IOU_TYPES.items()
        if iou_type in result.stats
        for name in ("AP", "AP50", "AP75")
    }


def total_ap(numbers: Mapping[str, float]) -> float:
    """Box AP plus mask AP: by this the best evaluation is chosen."""
    return sum(numbers[f"{what}_AP"] for what in IOU_TYPES if f"{what}_AP" in numbers)


def describe_ap(numbers: Mapping[str, float]) -> str:
    """Write "box AP 0.123, mask AP 0.123"."""
    return ", ".join(f"{what} AP {numbers[f'{what}_AP']:.3f}" for what in IOU_TYPES if f"{what}_AP" in numbers)
