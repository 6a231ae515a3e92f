"""Record a TensorFlow profile of some steps, for TensorBoard's profile page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from mrcnn_train.training.step import StepMetrics


class StepProfile:
    """Records a profile of a range of steps.

    Args:
        steps: (first, last), numbered from 1; None for no profile.
        directory: where TensorBoard's files are.
    """

    def __init__(self, steps: Sequence[int] | None, directory: Path) -> None:
        self._first, self._last = (0, 0) if steps is None else steps
        self._directory = directory
        self._is_running = False

    def begin(self, number: int) -> None:
        """Start the profile if this is the first step of the range."""
        if number == self._first:
            tf.profiler.experimental.start(str(self._directory))
            self._is_running = True

    def end(self, number: int, metrics: StepMetrics) -> None:
        """After the last step of the range, wait for it and write the profile."""
        if number == self._last and self._is_running:
            metrics.measured.total.numpy()
            self.close()

    def close(self) -> None:
        """Write the profile so far, if the run ended before the last step of the range."""
        if self._is_running:
            tf.profiler.experimental.stop()
            self._is_running = False
