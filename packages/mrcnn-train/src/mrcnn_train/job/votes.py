"""Stop all processes before the end of the run, after the same step."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from mrcnn_train.job.distributed import Processes
from mrcnn_train.job.signals import StopSignals

if TYPE_CHECKING:
    import tensorflow as tf

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopVotes:
    """Shares a signal or a reached target, which one process has noticed, with all processes.

    A single process acts on it at once. Several processes send their votes with the metrics of the next step and read
    them one step later, when the device has computed them, so that the host never waits for the current step.

    Attributes:
        has_reached_target: set by the process that scores.
        signal: number of the signal that ends all processes; None before that.
        target: whether the target ends all processes.
    """

    def __init__(self, processes: Processes, stop: StopSignals) -> None:
        self._is_alone = processes.size == 1
        self._stop = stop
        self._shares: tf.Tensor | None = None  # of the step before
        self.has_reached_target = False
        self.signal: int | None = None
        self.target = False

    def mine(self) -> list[bool]:
        """Return the votes of this process for `TrainStep`: one for each of SIGNALS, then one for the target."""
        return [*(self._stop.received == number for number in SIGNALS), self.has_reached_target]

    def count(self, shares: tf.Tensor) -> None:
        """Read the votes of the step before; a single process uses its current ones.

        Args:
            shares: float32 [votes], the share of the processes that voted for each reason in this step.
        """
        if self._is_alone:
            agreed = self.mine()
        else:
            agreed = [False] * len(self.mine()) if self._shares is None else [s > 0 for s in self._shares.numpy()]
            self._shares = shares
        for number, vote in zip(SIGNALS, agreed, strict=False):
            if vote:
                self.signal = number
        self.target = agreed[-1]
