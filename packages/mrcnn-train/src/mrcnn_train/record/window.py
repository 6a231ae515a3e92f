"""The numbers of the steps since the last log line, and the throughput of an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn_train.errors import DivergedError
from mrcnn_train.training.loss_scale import MINIMUM
from mrcnn_train.training.step import LOSS_NAMES, StepMetrics

COUNTS = ("valid_proposals", "foreground_anchors", "foreground_rois")  # averages over the images of a step
LATEST = ("loss_scale", "skipped_steps")  # not averaged: the last value is logged


class _Step(NamedTuple):
    step: int
    metrics: StepMetrics
    learning_rate: float
    image_ids: list[Any]


class Numbers(NamedTuple):
    """What the steps of a window measured.

    Attributes:
        means: losses and statistics, averaged over the steps. `gradient_norm` leaves out steps that the loss scale
            skipped; it is missing if all were. Also `images_per_second` of all processes, `data_wait` of rank 0 in
            seconds per step, the last `learning_rate`, `loss_scale` and `skipped_steps`, and with several processes
            `slowest_rank`, which waited longest for its data, and its `slowest_data_wait` in seconds per step.
        counts: the number of each step for each of COUNTS.
    """

    means: dict[str, float]
    counts: dict[str, list[float]]


class Window:
    """Collects the numbers of steps, which stay on the device until they are read, and measures time.

    Args:
        images_per_step: of all processes.
        gather: returns the image ids of all processes. It is called if a loss is not finite, which all processes see
            at the same step.
    """

    def __init__(self, *, images_per_step: int, gather: Callable[[list[Any]], list[list[Any]]]) -> None:
        self._images_per_step = images_per_step
        self._gather = gather
        self.restart()

    def add(
        self, step: int, metrics: StepMetrics, *, learning_rate: float, image_ids: Sequence[Any], data_wait: float = 0.0
    ) -> None:
        """Add a step and the seconds that this process waited for its data."""
        self._steps.append(_Step(step, metrics, learning_rate, list(image_ids)))
        self._data_wait += data_wait

    def read(self) -> Numbers:
        """Fetch the numbers, and start over.

        Raises:
            DivergedError: a loss of one of the steps is not finite.
        """
        steps, values = self._steps, [one.metrics.scalars() for one in self._steps]
        for one, numbers in zip(steps, values, strict=True):
            self._require_finite(one, numbers)
        seconds = time.perf_counter() - self._start
        means = {name: _summary(name, [numbers[name] for numbers in values]) for name in values[0]}
        means = {name: value for name, value in means.items() if math.isfinite(value)}
        means["learning_rate"] = steps[-1].learning_rate
        means["images_per_second"] = len(steps) * self._images_per_step / seconds
        means["data_wait"] = self._data_wait / len(steps)
        means |= _slowest([one.metrics.waits.numpy() for one in steps])
        self.restart()
        return Numbers(means, {name: [numbers[name] for numbers in values] for name in COUNTS})

    def restart(self) -> None:
        """Discard the steps and the time so far: evaluations and checkpoints do not count as training."""
        self._steps: list[_Step] = []
        self._data_wait = 0.0
        self._start = time.perf_counter()

    def _require_finite(self, one: _Step, numbers: dict[str, float]) -> None:
        is_skipped = numbers.get("loss_scale", 0.0) > MINIMUM  # a lower scale can still help
        for name in (*LOSS_NAMES, "total", *(() if is_skipped else ("gradient_norm",))):
            if not math.isfinite(numbers[name]):
                image_ids = [image_id for ids in self._gather(one.image_ids) for image_id in ids]
                raise DivergedError(
                    f"diverged at step {one.step}: {name} is {numbers[name]}, learning rate {one.learning_rate:.6g}, "
                    f"images {', '.join(map(str, image_ids))}; a lower optimizer.base_lr, a longer warm-up or "
                    "optimizer.clip_norm may help"
                )


def _slowest(waits: Sequence[np.ndarray]) -> dict[str, float]:
    """Return which process waited longest for its data, and how long in seconds per step; {} for a single process.

    All processes finish a step together, so the slowest one decides how long it takes.
    """
    means = np.mean(waits, axis=0)  # [processes]
    if len(means) == 1:
        return {}
    slowest = int(means.argmax())
    return {"slowest_rank": slowest, "slowest_data_wait": float(means[slowest])}


class EpochMeter:
    """Adds up the time of the steps of an epoch, without evaluations and checkpoints.

    Args:
        images_per_step: of all processes.
    """

    def __init__(self, *, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._steps, self._seconds, self._data_wait = 0, 0.0, 0.0

    def add(self, *, seconds: float, data_wait: float) -> None:
        """Add the time of a step, and how much of it was spent waiting for data."""
        self._steps += 1
        self._seconds += seconds
        self._data_wait += data_wait

    def read(self) -> dict[str, float] | None:
        """Return images per second and the wait for data in seconds per step, and start over; None without steps."""
        steps, seconds, data_wait = self._steps, self._seconds, self._data_wait
        self._steps, self._seconds, self._data_wait = 0, 0.0, 0.0
        if steps == 0:
            return None
        return {"images_per_second": steps * self._images_per_step / seconds, "data_wait": data_wait / steps}


def _summary(name: str, values: Sequence[float]) -> float:
    if name in LATEST:
        return values[-1]
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan
