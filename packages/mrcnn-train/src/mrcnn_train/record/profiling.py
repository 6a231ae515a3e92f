"""A TensorFlow profile of some steps, for TensorBoard's profile page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from mrcnn_train.training.step import StepMetrics


class StepProfile:
    """Records a profile from the first to the last of some steps.

    Args:
        steps: (first, last), numbered from 1; None for no profile.
        directory: of TensorBoard.
    """

    def __init__(self, steps: Sequence[int] | None, directory: Path) -> None:
        self._first, self._last = (0, 0) if steps is None else steps
        self._directory = directory
        self._is_running = False

    def begin(self, number: int) -> None:
        """Start the profile if the step of this number is the first one."""
        if number == self._first:
            tf.profiler.experimental.start(str(self._directory))
            self._is_running = True

    def end(self, number: int, metrics: StepMetrics) -> None:
        """Write the profile if this step was the last one, after waiting for it."""
        if number == self._last and self._is_running:
            metrics.measured.total.numpy()
            self.close()

    def close(self) -> None:
        """Write the profile so far, also of a run that ended before the last of the steps."""
        if self._is_running:
            tf.profiler.experimental.stop()
            self._is_running = False
