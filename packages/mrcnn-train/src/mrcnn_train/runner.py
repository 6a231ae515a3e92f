"""One run: checks and the plan first, then TensorFlow, the model and the loop."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mrcnn_model import import_tensorflow_quietly
from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.resolving import resolve
from mrcnn_train.config.values import asked_processes
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.distributed import Processes, connect
from mrcnn_train.job.place import Place, launched_place
from mrcnn_train.job.signals import StopSignals
from mrcnn_train.record.run_dir import check_run_dir, make_run_dir, reopen_run_dir
from mrcnn_train.training.datasets import RunData, open_data
from mrcnn_train.training.synthetic import draw_synthetic

if TYPE_CHECKING:
    from mrcnn_train.training.state import TrainingState


def run(config: RunConfig) -> int:
    """Train as a config says, alone or as one of the processes that a launcher started.

    Args:
        config: stays as it is.

    Returns:
        The exit code: 0, or 128 + signal if one ended the run.

    Raises:
        ConfigError, DatasetError: an option cannot work, the run cannot start, or an image cannot be read.
        GroundTruthError: a validation set cannot be scored against.
        DivergedError: a loss is not finite.
        SaveError: the run directory cannot be written any more.
        PeerLostError: another process of the job ended; without a message if that process has told the cause.
    """
    place = launched_place()
    size = _number_of_processes(config, place)
    config = resolve(config, processes=size)
    with StopSignals() as stop, _quiet_unless_first(place):
        if config.dry_run:
            if place.rank == 0:
                _prepare_folders(config)
                _open(config, rank=0, size=size).loader.close()
            return 0
        if place.size > 1:
            import_tensorflow_quietly()  # Horovod needs it; a single process checks its input first
        processes = connect(place)
        processes.together(lambda: _prepare_folders(config) if place.rank == 0 else None)
        data = processes.together(lambda: _open(config, rank=place.rank, size=place.size))
        with data.loader, processes.watched(60 * config.distributed.timeout_minutes):
            signals = [number for number in processes.gather(stop.received) if number is not None]
            if signals:  # while the data were checked
                return 128 + signals[0]
            exit_code = _train(config, data, processes=processes, stop=stop)
            processes.barrier()  # launchers kill the others when one ends on a signal: rank 0 must have written all
        return exit_code


def _number_of_processes(config: RunConfig, place: Place) -> int:
    asked = asked_processes(config.launch)
    if place.size > 1 and asked not in (1, place.size):
        raise ConfigError(f"launch asks for {asked} processes, but a launcher has started {place.size}")
    return max(place.size, asked)


@contextlib.contextmanager
def _quiet_unless_first(place: Place) -> Iterator[None]:
    """Drop what is printed on all processes but rank 0."""
    if place.rank == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _prepare_folders(config: RunConfig) -> None:
    if config.resume is None:
        check_run_dir(config)
    draw_synthetic(config.data)


def _open(config: RunConfig, *, rank: int, size: int) -> RunData:
    _check_weights(config, warn=rank == 0)
    return open_data(config, rank=rank, size=size)


def _check_weights(config: RunConfig, *, warn: bool) -> None:
    weights = config.model.weights
    if config.resume is not None:
        return  # the weights come from the run's checkpoint
    if weights is None:
        if config.model.norm == "frozen_bn" and warn:
            print(
                "WARNING: model.norm is frozen_bn and model.weights is null: random weights train badly with a norm "
                "that does not learn. Give model.weights, or model.norm=gn.",
                file=sys.stderr,
                flush=True,
            )
    elif not Path(weights).exists():
        raise ConfigError(f"model.weights={weights} does not exist (model.weights=null starts from random weights)")


def _train(config: RunConfig, data: RunData, *, processes: Processes, stop: StopSignals) -> int:
    import_tensorflow_quietly()
    try:
        from mrcnn_train.record.disk import disk_errors
        from mrcnn_train.training.job import Job
        from mrcnn_train.training.loop import train_loop
        from mrcnn_train.training.state import prepare, share
    except ImportError as error:  # mrcnn-ops says in one line which TensorFlow it was built for
        raise ConfigError(str(error)) from error
    state = share(processes.together(lambda: prepare(config, data.train, processes)), processes)
    made = processes.together(lambda: _open_run_dir(config, state) if processes.rank == 0 else None)
    run_dir = processes.broadcast(made)
    assert run_dir is not None
    print(f"{'run directory:':17} {run_dir}\nthe first step compiles the network and takes longer", flush=True)
    with disk_errors(run_dir):
        return train_loop(Job(config, data, state, run_dir, processes, stop))


def _open_run_dir(config: RunConfig, state: TrainingState) -> Path:
    from mrcnn_train.training.initial_weights import write_weights_report

    run_dir = reopen_run_dir(config) if config.resume is not None else make_run_dir(config)
    if state.weights_report is not None:
        write_weights_report(run_dir, state.weights_report)
    return run_dir
