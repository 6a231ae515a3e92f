"""The steps since the last log line. Their numbers stay on the device until the line is written."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mrcnn_train.errors import DivergedError
from mrcnn_train.step import LOSS_NAMES, Metrics


class _Step(NamedTuple):
    step: int
    metrics: Metrics
    learning_rate: float
    image_ids: list[Any]


class Window:
    """Collects steps, and time spent on them and on waiting for their data."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self.data_wait = 0.0  # seconds
        self._start = time.perf_counter()

    def add(self, step: int, metrics: Metrics, *, learning_rate: float, image_ids: Sequence[Any]) -> None:
        self._steps.append(_Step(step, metrics, learning_rate, list(image_ids)))

    def read(self) -> dict[str, float]:
        """Fetch the numbers and begin anew.

        Returns:
            Means over the steps, `images_per_second`, `data_wait` (seconds a step) and the last learning rate.

        Raises:
            DivergedError: a loss of one of the steps is not finite.
        """
        steps, values = self._steps, [{k: float(v) for k, v in one.metrics.items()} for one in self._steps]
        for one, numbers in zip(steps, values, strict=True):
            _require_finite(one, numbers)
        seconds = time.perf_counter() - self._start
        row = {name: float(np.mean([numbers[name] for numbers in values])) for name in values[0]}
        row["learning_rate"] = steps[-1].learning_rate
        row["images_per_second"] = sum(len(one.image_ids) for one in steps) / seconds
        row["data_wait"] = self.data_wait / len(steps)
        self.restart()
        return row

    def restart(self) -> None:
        """Forget the steps, and the time that has passed (for evaluations and checkpoints, which are not training)."""
        self._steps, self.data_wait, self._start = [], 0.0, time.perf_counter()

    def __len__(self) -> int:
        return len(self._steps)


def _require_finite(one: _Step, numbers: dict[str, float]) -> None:
    for name in (*LOSS_NAMES, "total", "gradient_norm"):
        if not math.isfinite(numbers[name]):
            raise DivergedError(
                f"diverged at step {one.step}: {name} is {numbers[name]}, learning rate {one.learning_rate:.6g}, "
                f"images {', '.join(map(str, one.image_ids))}; a lower optimizer.base_lr, a longer warm-up or "
                "optimizer.clip_norm may help"
            )
