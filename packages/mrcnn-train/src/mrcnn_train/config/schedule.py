"""The learning rate: a pure function of the step."""

import math
from collections.abc import Sequence
from typing import NamedTuple

# Tensorpack starts every recipe at 0.00333, a third of the rate of its 8-image recipe. With fewer than 8 images that
# would be more than a third of the rate (with 2 images more than the rate), so warm-up then starts at a third.
MAX_START_SHARE = 1 / 3


class Schedule(NamedTuple):
    """Linear warm-up, then a rate that drops at some steps, or falls along a cosine.

    Attributes:
        peak: rate after warm-up.
        warmup_start: rate of step 0.
        warmup_steps: step at which the peak is reached.
        drop_steps: from each of these steps on, the rate is multiplied by `drop_factor`.
        drop_factor: the same for every drop.
        cosine_end: step at which a cosine that starts after warm-up reaches 0 (Loshchilov and Hutter 2017, without
            restarts); None for a rate that only drops.
        epoch_steps: number of steps of an epoch; after warm-up an epoch keeps the rate of its first step. None: the
            rate may change at each step.
        warmup_begin: step up to which the rate stays at its start.
    """

    peak: float
    warmup_start: float
    warmup_steps: int
    drop_steps: tuple[int, ...]
    drop_factor: float
    cosine_end: int | None = None
    epoch_steps: float | None = None
    warmup_begin: int = 0


def make_schedule(
    *,
    base_lr: float,
    global_batch: int,
    warmup_steps: int,
    warmup_start_lr: float,
    drop_steps: Sequence[int],
    drop_factor: float,
    cosine_end: int | None = None,
    epoch_steps: float | None = None,
) -> Schedule:
    """Scale the rate linearly with the global batch (Goyal et al. 2017).

    Args:
        base_lr: rate per image of the global batch.
        warmup_start_lr: rate of step 0, lowered to a third of the scaled rate if it is higher.
    """
    peak = base_lr * global_batch
    return Schedule(
        peak=peak,
        warmup_start=min(warmup_start_lr, peak * MAX_START_SHARE),
        warmup_steps=warmup_steps,
        drop_steps=tuple(drop_steps),
        drop_factor=drop_factor,
        cosine_end=cosine_end,
        epoch_steps=epoch_steps,
    )


def learning_rate(step: int, schedule: Schedule) -> float:
    """Return the rate of a step; the first step is 0."""
    if step < schedule.warmup_steps:
        begin = schedule.warmup_begin
        progress = max(0, step - begin) / (schedule.warmup_steps - begin)
        risen = schedule.warmup_start + (schedule.peak - schedule.warmup_start) * progress
        return min(_dropped(step, schedule), risen)
    if schedule.epoch_steps is not None:
        step = max(schedule.warmup_steps, math.ceil(math.floor(step / schedule.epoch_steps) * schedule.epoch_steps))
    if schedule.cosine_end is None:
        return _dropped(step, schedule)
    progress = (step - schedule.warmup_steps) / max(1, schedule.cosine_end - schedule.warmup_steps)
    return schedule.peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _dropped(step: int, schedule: Schedule) -> float:
    return schedule.peak * schedule.drop_factor ** sum(step >= drop for drop in schedule.drop_steps)


def steps_of_epochs(epochs: float, *, num_images: int, global_batch: int) -> int:
    """Return the number of steps in which every image is seen `epochs` times on average, rounded up.

    >>> steps_of_epochs(2, num_images=10, global_batch=4)
    5
    """
    return math.ceil(round(epochs * num_images / global_batch, 6))  # rounding errors must not add a step


def crosses(every: float | None, epoch_before: float, epoch_after: float) -> bool:
    """Return whether a multiple of `every` is more than `epoch_before` and at most `epoch_after`; None: never."""
    if every is None:
        return False
    tolerance = 1e-9  # 3 * 0.1 is more than 0.3
    return math.floor(epoch_after / every + tolerance) > math.floor(epoch_before / every + tolerance)


def evaluation_steps(total: int, times: int, *, begin: int = 0) -> tuple[int, ...]:
    """Spread evaluations evenly over the steps after `begin`; the last is at the end.

    >>> evaluation_steps(100, 4)
    (25, 50, 75, 100)
    """
    steps = {begin + round((total - begin) * number / times) for number in range(1, times + 1)}
    return tuple(sorted(steps - {begin}))
