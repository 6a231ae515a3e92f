"""The parts that one process needs to train, in one tuple."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mrcnn_train.config.options import RunConfig
from mrcnn_train.job.distributed import Processes
from mrcnn_train.job.signals import StopSignals
from mrcnn_train.training.datasets import RunData
from mrcnn_train.training.state import TrainingState


class Job(NamedTuple):
    """The parts of a run in one process.

    Attributes:
        config: resolved and frozen.
        data: the data sets, the plan, and the loader of this process.
        state: model and optimizer at the first step of this launch.
        run_dir: run directory; only rank 0 writes into it.
        processes: all processes of the run.
        stop: the signals of this process.
    """

    config: RunConfig
    data: RunData
    state: TrainingState
    run_dir: Path
    processes: Processes
    stop: StopSignals
