"""One run: checks and the plan first, then TensorFlow, the model and the loop."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mrcnn_data import visible
from mrcnn_model import CheckpointError, choose_precision, import_tensorflow_quietly, require_weights
from mrcnn_train.config.composition import require_types
from mrcnn_train.config.going_on import (
    CHECKPOINTS_DIR,
    complete_checkpoints,
    describe_resume,
    describe_target,
    last_step,
    read_end,
)
from mrcnn_train.config.options import LaunchOptions, RunConfig
from mrcnn_train.config.plan import plan_line
from mrcnn_train.config.position import newest_position
from mrcnn_train.config.precision import needs_choice, settle_precision
from mrcnn_train.config.resolving import resolve
from mrcnn_train.config.values import asked_processes
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.devices import describe_devices
from mrcnn_train.job.distributed import Processes, connect
from mrcnn_train.job.place import Place, launched_place
from mrcnn_train.job.signals import NAMES, StopRequested, StopSignals
from mrcnn_train.planning.auto import AutoPlan, plan_auto, write_auto_plan
from mrcnn_train.planning.timetable import read_timetables
from mrcnn_train.record.environment import process_facts, write_environment
from mrcnn_train.record.run_dir import check_run_dir, lock_resumed, open_run_dir
from mrcnn_train.training.datasets import RunData, open_data
from mrcnn_train.training.synthetic import draw_synthetic


def run(config: RunConfig, processes: Processes | None = None) -> int:
    """Train by a config, alone or as one of the processes that a launcher started.

    Args:
        config: is not changed. If there are several processes, that of rank 0 is used.
        processes: those of the job, if this process has joined them already.

    Returns:
        The exit code: 0, or 128 + number of the signal that ended the run.

    Raises:
        ConfigError, DatasetError: an option cannot work, the run cannot start, or an image cannot be read.
        GroundTruthError: a validation set cannot be scored against.
        DivergedError: a loss is not finite.
        SaveError: the run directory can no longer be written.
        PeerLostError: another process of the job ended; the message is empty if that process has printed the cause.
    """
    place = launched_place() if processes is None else processes.place
    size = number_of_processes(config.launch, place)
    require_types(config)
    config = resolve(config, processes=size)
    with StopSignals(speaks=place.rank == 0) as stop, _quiet_unless_first(place):
        try:
            if not config.dry_run:
                return _run(
                    config,
                    processes or meet(place, bind_cores=config.distributed.bind_cores, device=config.device),
                    stop,
                )
            with stop.raising():
                if place.rank == 0:
                    _prepare_folders(config)
                    # As many processes as the job will have on this machine: there may be fewer GPUs.
                    processes = Processes(place._replace(local_size=1 if config.launch.hosts else size))
                    config, _ = plan_auto(config, processes)
                    data = _open(config, rank=0, size=size)
                    with data.loader:
                        _has_finished(config, data)
                        _settle_precision(config, _settle_device(config, data, processes), processes)
                return 0
        except StopRequested as request:
            if stop.received is not None:  # otherwise another process received it
                stop.wait_for_first_line()
            print(f"Stopped by {NAMES[request.number]} before the first step.", flush=True)
            return request.exit_code


def _run(config: RunConfig, processes: Processes, stop: StopSignals) -> int:
    """Prepare and train.

    Raises:
        StopRequested: a signal arrived before the first step.
    """
    place = processes.place
    config = processes.broadcast(config)
    with contextlib.ExitStack() as stack:
        # Several processes stop together, so they wait until the data are checked.
        with stop.raising() if place.size == 1 else contextlib.nullcontext():
            if config.resume is not None and place.rank == 0:
                stop.describe_resume = functools.partial(describe_resume, Path(config.resume))
            processes.together(lambda: _prepare_folders(config, stack) if place.rank == 0 else None)
            config, auto = plan_auto(config, processes)
            data = processes.together(lambda: _open(config, rank=place.rank, size=place.size))
        with data.loader, processes.watched(60 * config.distributed.timeout_minutes):
            _leave_together(processes, stop)
            finished = processes.together(lambda: _has_finished(config, data) if place.rank == 0 else None)
            if processes.broadcast(finished):
                return 0
            data = _settle_device(config, data, processes)
            config, data = _settle_precision(config, data, processes)
            exit_code = _train(config, data, processes=processes, stop=stop, auto=auto)
            # A launcher kills the other processes when one ends by a signal, so rank 0 must have written everything.
            processes.barrier()
        return exit_code


def _leave_together(processes: Processes, stop: StopSignals) -> None:
    """Raise StopRequested on all processes if one has received a signal."""
    for number in processes.gather(stop.received):
        if number is not None:
            raise StopRequested(number)


def meet(place: Place, *, bind_cores: bool = True, device: str = "auto") -> Processes:
    """Join the other processes of the job, if there are any.

    Raises:
        ConfigError, PeerLostError: see `connect`.
    """
    if place.size > 1:
        import_tensorflow_quietly()  # Horovod needs it; a single process imports it after checking its input
    return connect(place, bind_cores=bind_cores, device=device)


def _has_finished(config: RunConfig, data: RunData) -> bool:
    """Return whether the resumed run is finished, and print that it is.

    Raises:
        ConfigError: the run has done more steps than the options now ask for.
    """
    if config.resume is None:
        return False
    run_dir = Path(config.resume)
    done = last_step(run_dir)
    total = _total_steps(config, data, run_dir, done=done)
    if done > total:
        newest = complete_checkpoints(run_dir / CHECKPOINTS_DIR)[-1]
        raise ConfigError(
            f"resume={run_dir}: the run has done {done} steps, but the options ask for {total}: raise train.max_steps "
            f"or train.epochs above {done} steps, or start a new run with model.weights={newest}"
        )
    end = read_end(run_dir)
    is_target = end is not None and end.target != "" and end.target == describe_target(config.stop_at)
    if end is None or end.step != done or (done < total and not is_target):
        return False
    print(
        f"the run in {visible(run_dir, limit=2000)} has finished after {done} steps: nothing is left to do. "
        f"To continue it, raise {'train.minutes' if config.train.minutes else 'train.max_steps or train.epochs'}",
        flush=True,
    )
    return True


def _total_steps(config: RunConfig, data: RunData, run_dir: Path, *, done: int) -> int:
    """Return the steps of a resumed run; with a time budget, those of its last timetable if that is of this budget."""
    timetables = read_timetables(run_dir, until=done) if config.train.minutes is not None else []
    if timetables and timetables[-1].minutes == config.train.minutes:
        return timetables[-1].total_steps
    return data.plan.total_steps


def number_of_processes(launch: LaunchOptions, place: Place) -> int:
    """Return how many processes the job has, by its launcher or by the options `launch`.

    Raises:
        ConfigError: the two differ.
    """
    asked = asked_processes(launch)
    if place.size > 1 and asked not in (1, place.size):
        raise ConfigError(
            f"launch asks for {asked} processes, but a launcher has started {place.size}: leave launch.processes and "
            "launch.hosts out"
        )
    return max(place.size, asked)


@contextlib.contextmanager
def _quiet_unless_first(place: Place) -> Iterator[None]:
    """Suppress what is printed on all processes except rank 0."""
    if place.rank == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _prepare_folders(config: RunConfig, stack: contextlib.ExitStack | None = None) -> None:
    """Check the run directory, or lock it if the run is resumed, and draw synthetic data.

    Args:
        stack: holds the lock; None for a dry run, which takes none.
    """
    if config.resume is None:
        check_run_dir(config)
    elif stack is not None:
        stack.enter_context(lock_resumed(config))
    if config.resume is not None:
        newest_position(Path(config.resume))  # a damaged one is found before TensorFlow is imported
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
    elif not os.path.exists(weights):
        raise ConfigError(f"model.weights={weights} does not exist (model.weights=null starts from random weights)")
    else:
        try:
            require_weights(weights)
        except CheckpointError as error:
            raise ConfigError(f"model.weights: {error}") from error


def _settle_device(config: RunConfig, data: RunData, processes: Processes) -> RunData:
    """Choose the device of a single process, add the line about the devices to the plan, and print it.

    Raises:
        ConfigError: see `use_own_device`.
    """
    import_tensorflow_quietly()
    return _with_line(data, "device", describe_devices(processes.devices(config.device, tf32=config.tf32)))


def _with_line(data: RunData, what: str, text: str) -> RunData:
    line = plan_line(what, text)
    print(line, flush=True)
    return data._replace(described=f"{data.described}\n{line}")


def _settle_precision(config: RunConfig, data: RunData, processes: Processes) -> tuple[RunConfig, RunData]:
    """Replace `precision=auto`, and add the line about the precision to the plan and print it.

    Raises:
        ConfigError: the machines of the job would choose different precisions.
    """
    choices = []
    if needs_choice(config):
        import_tensorflow_quietly()
        choices = processes.gather(processes.together(choose_precision))
    config, text = processes.together(lambda: settle_precision(config, choices))
    return config, _with_line(data, "precision", text)


def _train(config: RunConfig, data: RunData, *, processes: Processes, stop: StopSignals, auto: AutoPlan | None) -> int:
    import_tensorflow_quietly()
    try:
        from mrcnn_train.record.disk import disk_errors
        from mrcnn_train.training.initial_weights import write_weights_report
        from mrcnn_train.training.job import Job
        from mrcnn_train.training.loop import train_loop
        from mrcnn_train.training.state import prepare, share
    except ImportError as error:  # mrcnn-ops says in one line which TensorFlow it was built for
        raise ConfigError(str(error)) from error
    state = share(processes.together(lambda: prepare(config, data.train, processes)), processes)
    facts = processes.gather(process_facts(processes.place))
    stop.steps_begin()
    _leave_together(processes, stop)
    with contextlib.ExitStack() as stack:

        def open_dir() -> Path | None:
            if processes.rank > 0:
                return None
            run_dir = stack.enter_context(open_run_dir(config))
            stop.describe_resume = functools.partial(describe_resume, run_dir)
            with disk_errors(run_dir):
                write_environment(run_dir, facts)
                if auto is not None:
                    write_auto_plan(run_dir, auto)
                if state.weights_report is not None:
                    write_weights_report(run_dir, state.weights_report)
            return run_dir

        run_dir = processes.broadcast(processes.together(open_dir))
        assert run_dir is not None
        print(f"{'run directory:':17} {visible(run_dir, limit=2000)}", flush=True)
        print("the first step compiles the network and takes longer", flush=True)
        with disk_errors(run_dir) if processes.rank == 0 else contextlib.nullcontext():
            return train_loop(Job(config, data, state, run_dir, processes, stop))
