"""A TensorFlow profile of some steps, for TensorBoard's profile page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from mrcnn_train.training.step import Metrics


class StepProfile:
    """Records from the first to the last of some steps, numbered from 1; none where `steps` is None.

    Args:
        steps: (first, last).
        directory: of TensorBoard; the profile goes below it.
    """

    def __init__(self, steps: Sequence[int] | None, directory: Path) -> None:
        self._first, self._last = (0, 0) if steps is None else steps
        self._directory = directory
        self._is_running = False

    def begin(self, number: int) -> None:
        """Note that the step of this number comes next."""
        if number == self._first:
            tf.profiler.experimental.start(str(self._directory))
            self._is_running = True

    def end(self, number: int, metrics: Metrics) -> None:
        """Note that this step was launched; after the last one, wait for it and write."""
        if number == self._last and self._is_running:
            metrics["total"].numpy()
            self.close()

    def close(self) -> None:
        """Write what there is, of a run that ended before the last of the steps too."""
        if self._is_running:
            tf.profiler.experimental.stop()
            self._is_running = False
