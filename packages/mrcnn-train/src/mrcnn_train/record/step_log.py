"""Show and record the numbers of the steps when they are due."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mrcnn_data import Batch
from mrcnn_train.job.gpu_use import GpuUse
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.record.run_record import RunRecord
from mrcnn_train.record.window import EpochMeter, Window
from mrcnn_train.training.due import Due
from mrcnn_train.training.step import StepMetrics


class StepLog:
    """Collects the numbers of the steps.

    Args:
        record: None on all processes except rank 0.
        images_per_step: of all processes.
        gather: see `Window`.
        gpu: None without a GPU.
    """

    def __init__(
        self,
        record: RunRecord | None,
        display: ProgressDisplay,
        *,
        images_per_step: int,
        gather: Callable[[list[Any]], list[list[Any]]],
        gpu: GpuUse | None = None,
    ) -> None:
        self._record = record
        self._display = display
        self._gpu = gpu
        self._window = Window(images_per_step=images_per_step, gather=gather)
        self._meter = EpochMeter(images_per_step=images_per_step)
        self._images_per_step = images_per_step
        self._is_first = True
        self._first = 0  # number of the first step

    def add(
        self, done: int, metrics: StepMetrics, batches: Sequence[Batch], *, learning_rate: float, data_wait: float
    ) -> None:
        """Add a step; its numbers stay on the device.

        Args:
            data_wait: seconds that the step waited for its batches.
        """
        image_ids = [image_id for batch in batches for image_id in batch.image_ids]
        self._window.add(done, metrics, learning_rate=learning_rate, image_ids=image_ids, data_wait=data_wait)
        self._data_wait, self._last = data_wait, metrics
        self._first = done if self._is_first else self._first

    def write(self, done: int, due: Due, *, epoch: float, began: float) -> None:
        """Show and record what is due after a step, which began when `time.perf_counter()` was `began`.

        Raises:
            DivergedError: a loss is not finite.
        """
        if due.log:  # the host waits for the device here
            numbers = self._window.read()
            if self._record is not None:
                if self._gpu is not None:
                    numbers.means.update(self._gpu.read())
                self._record.training(done, numbers, epoch=epoch)
            self._display.log(
                done, numbers.means, epoch=epoch, images_per_step=self._images_per_step, is_first=self._is_first
            )
        elif done == self._first + 1:
            self._last.measured.total.numpy()  # waits for the device
            self._display.second_step(done, seconds=time.perf_counter() - began)
        if not self._is_first:  # the first step compiles
            self._meter.add(seconds=time.perf_counter() - began, data_wait=self._data_wait)
        self._is_first = False
        if due.log_epoch and (throughput := self._meter.read()) is not None and self._record is not None:
            self._record.epoch(done, throughput, epoch=epoch)

    def restart(self) -> None:
        """Start to measure time again: saving and evaluating do not count as training."""
        self._window.restart()
