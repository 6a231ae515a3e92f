"""The steps since the last log line, whose numbers stay on the device until it is written; and those of an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn_train.errors import DivergedError
from mrcnn_train.training.loss_scale import MINIMUM
from mrcnn_train.training.step import LOSS_NAMES, Metrics

COUNTS = ("valid_proposals", "foreground_anchors", "foreground_rois")  # of an image, on average over those of a step
LATEST = ("loss_scale", "skipped_steps")  # not averaged: the last value says all


class _Step(NamedTuple):
    step: int
    metrics: Metrics
    learning_rate: float
    image_ids: list[Any]


class Numbers(NamedTuple):
    """What the steps of a window measured.

    Attributes:
        means: over the steps, `images_per_second` of all processes, `data_wait` (seconds a step) and the last
            learning rate. With a loss scale the steps that it skipped have no part in the mean of `gradient_norm`,
            which is missing where all of them were skipped; `loss_scale` and `skipped_steps` are the last ones.
        counts: of every step, of what there are COUNTS.
    """

    means: dict[str, float]
    counts: dict[str, list[float]]


class Window:
    """Collects steps, and time spent on them and on waiting for their data.

    Args:
        images_per_step: of all processes.
        gather: tells the image ids of a step to all processes, which come to it together: they saw the same numbers.
    """

    def __init__(self, *, images_per_step: int, gather: Callable[[list[Any]], list[list[Any]]]) -> None:
        self._images_per_step = images_per_step
        self._gather = gather
        self._steps: list[_Step] = []
        self.data_wait = 0.0  # seconds
        self._start = time.perf_counter()

    def add(self, step: int, metrics: Metrics, *, learning_rate: float, image_ids: Sequence[Any]) -> None:
        self._steps.append(_Step(step, metrics, learning_rate, list(image_ids)))

    def read(self) -> Numbers:
        """Fetch the numbers and begin anew.

        Raises:
            DivergedError: a loss of one of the steps is not finite.
        """
        steps, values = self._steps, [{k: float(v) for k, v in one.metrics.items()} for one in self._steps]
        for one, numbers in zip(steps, values, strict=True):
            self._require_finite(one, numbers)
        seconds = time.perf_counter() - self._start
        means = {name: _summary(name, [numbers[name] for numbers in values]) for name in values[0]}
        means = {name: value for name, value in means.items() if math.isfinite(value)}
        means["learning_rate"] = steps[-1].learning_rate
        means["images_per_second"] = len(steps) * self._images_per_step / seconds
        means["data_wait"] = self.data_wait / len(steps)
        self.restart()
        return Numbers(means, {name: [numbers[name] for numbers in values] for name in COUNTS})

    def restart(self) -> None:
        """Forget the steps, and the time that has passed (for evaluations and checkpoints, which are not training)."""
        self._steps, self.data_wait, self._start = [], 0.0, time.perf_counter()

    def __len__(self) -> int:
        return len(self._steps)

    def _require_finite(self, one: _Step, numbers: dict[str, float]) -> None:
        is_skipped = numbers.get("loss_scale", 0.0) > MINIMUM  # a lower scale may still help
        for name in (*LOSS_NAMES, "total", *(() if is_skipped else ("gradient_norm",))):
            if not math.isfinite(numbers[name]):
                image_ids = [image_id for ids in self._gather(one.image_ids) for image_id in ids]
                raise DivergedError(
                    f"diverged at step {one.step}: {name} is {numbers[name]}, learning rate {one.learning_rate:.6g}, "
                    f"images {', '.join(map(str, image_ids))}; a lower optimizer.base_lr, a longer warm-up or "
                    "optimizer.clip_norm may help"
                )


class EpochMeter:
    """Adds up the time of the steps of an epoch; that of evaluations and checkpoints is not theirs.

    Args:
        images_per_step: of all processes.
    """

    def __init__(self, *, images_per_step: int) -> None:
        self._images_per_step = images_per_step
        self._steps, self._seconds, self._data_wait = 0, 0.0, 0.0

    def add(self, *, seconds: float, data_wait: float) -> None:
        """Note a step: its time, and how much of that was spent waiting for data."""
        self._steps += 1
        self._seconds += seconds
        self._data_wait += data_wait

    def read(self) -> dict[str, float] | None:
        """Images per second and seconds of a step that data were waited for, and begin anew; without steps None."""
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
