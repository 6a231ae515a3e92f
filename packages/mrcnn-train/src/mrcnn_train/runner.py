"""One run: checks and the plan first, then TensorFlow, the model and the loop."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mrcnn_data import CocoDataset, TrainLoader
from mrcnn_model.quiet_tensorflow import import_tensorflow_quietly
from mrcnn_train.config.composition import SAVED_CONFIG, save_config
from mrcnn_train.config.options import RunConfig, asked_processes, check
from mrcnn_train.config.plan import Plan, describe_plan, make_plan
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.distributed import Processes, connect
from mrcnn_train.job.place import launched_place
from mrcnn_train.job.signals import StopSignals
from mrcnn_train.training.data import check_data, check_evaluation, draw_synthetic, make_loader, open_train, open_val

if TYPE_CHECKING:
    from mrcnn_train.training.start import Trainer

PATH_OPTIONS = ("root", "train_annotations", "train_images", "val_annotations", "val_images", "cache_dir")


class Data(NamedTuple):
    """The data sets of a run, and what follows from them."""

    plan: Plan
    described: str  # the plan, as printed
    loader: TrainLoader
    train: CocoDataset
    val: CocoDataset | None


def run(config: RunConfig) -> int:
    """Do what a config asks for, alone or as one of the processes that a launcher started.

    Returns:
        The exit code: 0, or 128 + signal where one ended the run.

    Raises:
        ConfigError, DatasetError: an option cannot work, the run cannot start, or an image cannot be read.
        GroundTruthError: the validation split cannot be scored against.
        DivergedError: a loss is not finite.
        SaveError: the run directory cannot be written any more.
        PeerLostError: another process of the job ended; without a message where that one has said all there is.
    """
    place = launched_place()
    asked = asked_processes(config.launch)
    if place.size > 1 and asked not in (1, place.size):
        raise ConfigError(f"launch asks for {asked} processes, and a launcher has started {place.size}")
    size = max(place.size, asked)
    check(config, processes=size)
    make_paths_absolute(config)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopSignals())
        if place.rank > 0:  # what there is to say, rank 0 says
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        if config.dry_run:
            if config.data.cache_dir is not None and not Path(config.data.cache_dir).is_dir():
                config.data.cache_dir = None  # one that is there saves the time of reading; none is left behind
            if place.rank == 0:
                draw_synthetic(config.data)
                open_data(config, rank=0, size=size).loader.close()
            return 0
        if place.size > 1:
            import_tensorflow_quietly()  # Horovod needs it at once; one process first says what is wrong with its input
        processes = connect(place)
        processes.together(lambda: draw_synthetic(config.data) if place.rank == 0 else None)
        data = processes.together(lambda: open_data(config, rank=place.rank, size=place.size))
        with data.loader, processes.watched(60 * config.distributed.timeout_minutes):
            signals = [number for number in processes.gather(stop.received) if number is not None]
            if signals:  # while the data were checked
                return 128 + signals[0]
            exit_code = _run_with_tensorflow(config, data, processes=processes, stop=stop)
            # Launchers kill the others when the first one ends on a signal: not before rank 0 has written everything.
            processes.barrier()
        return exit_code


def open_data(config: RunConfig, *, rank: int, size: int) -> Data:
    """Open and check the data of one process of so many, and print what the run is going to do."""
    train = open_train(config.data)
    val = open_val(config.data, train)
    loader = make_loader(config.data, config.train, train, rank=rank, num_ranks=size)
    plan = make_plan(config, num_images=loader.num_images, processes=size)
    described = describe_plan(config, plan, train=train, val=val, canvases=list(loader.buckets))
    print(described, flush=True)
    check_weights(config, warn=rank == 0)
    if rank == 0:
        check_data(config.data, train, val)
    if val is not None:
        check_evaluation(config.data, config.eval, val)
    return Data(plan, described, loader, train, val)


def _run_with_tensorflow(config: RunConfig, data: Data, *, processes: Processes, stop: StopSignals) -> int:
    import_tensorflow_quietly()
    try:
        from mrcnn_train.record.disk import disk_errors
        from mrcnn_train.training.loop import train_loop
        from mrcnn_train.training.start import prepare, share
    except ImportError as error:  # mrcnn-ops says in one line which TensorFlow it was built for
        raise ConfigError(str(error)) from error
    trainer = processes.together(lambda: prepare(config, train=data.train, val=data.val, processes=processes))
    trainer = share(trainer, processes)
    made = processes.together(lambda: _make_run_dir(config, trainer) if processes.rank == 0 else None)
    run_dir = processes.broadcast(made)
    assert run_dir is not None
    print(f"{'run directory:':17} {run_dir}\nthe first step compiles the network: it takes longer", flush=True)
    with disk_errors(run_dir):
        return train_loop(
            config,
            data.plan,
            data.loader,
            described_plan=data.described,
            trainer=trainer,
            val=data.val,
            run_dir=run_dir,
            processes=processes,
            stop=stop,
        )


def _make_run_dir(config: RunConfig, trainer: Trainer) -> Path:
    from mrcnn_train.training.initial_weights import write_weights_report

    run_dir = resumed_run_dir(config) or new_run_dir(config)
    if trainer.weights_report is not None:
        write_weights_report(run_dir, trainer.weights_report)
    return run_dir


def make_paths_absolute(config: RunConfig) -> None:
    """Paths are typed relative to the folder of the launch; a run may be resumed or evaluated from another."""
    for name in PATH_OPTIONS:
        path = getattr(config.data, name)
        if path is not None:
            setattr(config.data, name, _absolute(path))
    if config.model.weights is not None:
        config.model.weights = _absolute(config.model.weights)
    if config.resume is not None:
        config.resume = _absolute(config.resume)
    if config.run.dir is not None:
        config.run.dir = _absolute(config.run.dir)


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # shells leave the ~ of option=~/x as it is


def check_weights(config: RunConfig, *, warn: bool = True) -> None:
    """Find out about missing weights before the model is made.

    Raises:
        ConfigError: the file that model.weights names does not exist.
    """
    weights = config.model.weights
    if config.resume is not None:
        return  # a checkpoint of the run takes their place
    if weights is None:
        if config.model.norm == "frozen_bn" and warn:
            print(
                "WARNING: model.norm is frozen_bn and model.weights is null: random weights under a norm that cannot "
                "learn train badly. Give model.weights, or model.norm=gn.",
                file=sys.stderr,
                flush=True,
            )
    elif not Path(weights).exists():
        raise ConfigError(f"model.weights={weights} does not exist (model.weights=null starts from random weights)")


def new_run_dir(config: RunConfig) -> Path:
    """Make the directory of a new run and save the config in it.

    Raises:
        ConfigError: it holds a run already, or cannot be made.
    """
    started = Path.cwd() / "outputs" / str(config.run.name) / time.strftime("%Y-%m-%d_%H-%M-%S")
    run_dir = started if config.run.dir is None else Path(config.run.dir)
    if (run_dir / SAVED_CONFIG).exists() and config.run.dir is not None:
        raise ConfigError(f"run.dir={run_dir} holds a run already: resume={run_dir} continues it")
    try:
        if config.run.dir is None:
            run_dir = _make_unshared(started)
        else:
            run_dir.mkdir(parents=True, exist_ok=True)
        save_config(run_dir / SAVED_CONFIG, config)
    except OSError as error:
        raise ConfigError(f"run.dir={run_dir} cannot be written: {error.strerror}") from error
    return run_dir


def _make_unshared(wanted: Path) -> Path:
    """Make a directory that was not there; of runs that start in the same second all but one get a number."""
    numbered = (wanted.with_name(f"{wanted.name}_{number}") for number in itertools.count(2))
    for path in itertools.chain([wanted], numbered):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("the numbers do not end")


def resumed_run_dir(config: RunConfig) -> Path | None:
    """The directory of the run that goes on; its config becomes this one, the old one is kept beside."""
    if config.resume is None:
        return None
    run_dir = Path(config.resume)
    saved = run_dir / SAVED_CONFIG
    fresh = run_dir / (SAVED_CONFIG + ".partial")
    config.resume = None  # the saved config is that of the run, not of this launch
    try:
        save_config(fresh, config)
        if fresh.read_text() != saved.read_text():
            saved.rename(run_dir / f"config-until-{time.strftime('%Y-%m-%d_%H-%M-%S')}.yaml")
        fresh.replace(saved)
    except OSError as error:
        raise ConfigError(f"resume={run_dir} cannot be written: {error.strerror}") from error
    return run_dir
