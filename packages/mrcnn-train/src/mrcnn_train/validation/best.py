"""Which evaluation of a run is the best, how long ago it was, and a sentence about it. Rows are those of metrics.jsonl.

Undefined APs, -1 or NaN, are never the best: AP is -1 without objects to find, and may be so at first only.
"""

from __future__ import annotations

from collections.abc import Sequence

from mrcnn_train.record.metrics_log import Row
from mrcnn_train.record.scores import IOU_TYPES, describe_ap, total_ap


def value_of(row: Row, *, best_by: str) -> float:
    """Return the number that decides the best evaluation, -1 if it is undefined.

    Args:
        best_by: "mask" for mask AP, or box AP where there are no masks; "sum" for box AP + mask AP.
    """
    if best_by == "mask":
        values = [value for what in ("mask", "box") if (value := row.get(f"{what}_AP", -1.0)) >= 0]
        return values[0] if values else -1.0
    return total_ap(row)


def best_of(rows: Sequence[Row], *, best_by: str) -> Row | None:
    """Return the first of the best evaluations; None if no AP is defined yet."""
    evaluations = [row for row in rows if row["kind"] == "evaluation" and value_of(row, best_by=best_by) >= 0]
    return max(evaluations, key=lambda row: value_of(row, best_by=best_by), default=None)


def evaluations_since_best(rows: Sequence[Row], *, best_by: str) -> int:
    """Return how many evaluations have not been better than the best so far, 0 before the first AP above 0."""
    values = [value_of(row, best_by=best_by) for row in rows if row["kind"] == "evaluation"]
    best = max(values, default=-1.0)
    return len(values) - 1 - values.index(best) if best > 0 else 0


def verdict(rows: Sequence[Row], *, best_by: str, total_steps: int) -> str | None:
    """Write a sentence about the best evaluation and the last one; None if no AP is defined."""
    best = best_of(rows, best_by=best_by)
    if best is None:
        return None
    last = [row for row in rows if row["kind"] == "evaluation"][-1]
    text = f"best: {describe_ap(best)} at step {best['step']} of {total_steps}"
    if best is last:
        text += ", the last evaluation"
    else:
        since = evaluations_since_best(rows, best_by=best_by)
        later = "the one evaluation" if since == 1 else f"the {since} evaluations"
        text += f"; {later} after it {'was' if since == 1 else 'were'} not better, the last had {describe_ap(last)}"
    for what in IOU_TYPES:
        if f"{what}_AP_low" in best:
            low, high = best[f"{what}_AP_low"], best[f"{what}_AP_high"]
            text += (
                f"\n{what} AP with other validation images: between {low:.3f} and {high:.3f} in nine of ten resamples "
                f"of these {best['val_images']:.0f}"
            )
    return text


def describe_losses(rows: Sequence[Row]) -> str:
    """Write the validation loss of the last row beside the training loss before it; empty without one."""
    loss = rows[-1].get("val_total") if rows else None
    if loss is None:
        return ""
    train = next((row["total"] for row in reversed(rows) if row["kind"] == "train"), None)
    beside = "" if train is None else f" (training {train:.3f})"
    return f", validation loss {loss:.3f}{beside}"
