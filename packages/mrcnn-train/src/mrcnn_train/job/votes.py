"""Reasons to stop before the end, obeyed by all processes after the same step."""

from __future__ import annotations

import signal

import tensorflow as tf

from mrcnn_train.job.distributed import Processes
from mrcnn_train.job.signals import StopSignals
from mrcnn_train.training.step import STOP, Metrics

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopVotes:
    """What one process knows, a signal or a target that was reached, made known to all.

    A single process acts on it at once. Of many, each sends its votes with the metrics of its next step; they are read
    one step later, when the device has them, so that the host never waits for the step in flight.

    Attributes:
        has_reached_target: set by who finds out.
        signal: that all processes have agreed to end for, None so far.
        target: whether all have agreed that the target is reached.
    """

    def __init__(self, processes: Processes, stop: StopSignals) -> None:
        self._is_alone = processes.size == 1
        self._stop = stop
        self._travelling: list[tf.Tensor] = []  # of the step before
        self.has_reached_target = False
        self.signal: int | None = None
        self.target = False

    def mine(self) -> list[bool]:
        """The votes of this process, for `TrainStep`."""
        return [*(self._stop.received == number for number in SIGNALS), self.has_reached_target]

    def count(self, metrics: Metrics) -> None:
        """Take the votes out of the metrics of a step; obey those of the step before, or one's own when alone."""
        arriving = [metrics.pop(f"{STOP}{number}") for number in range(len(SIGNALS) + 1)]
        if self._is_alone:
            agreed = self.mine()
        else:
            agreed = [float(share) > 0 for share in self._travelling] or [False] * len(arriving)
            self._travelling = arriving
        for number, vote in zip(SIGNALS, agreed, strict=False):
            if vote:
                self.signal = number
        self.target = agreed[-1]
