"""One run: checks and the plan first, then TensorFlow, the model and the loop."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

from mrcnn_data import CocoDataset, TrainLoader
from mrcnn_train.composition import SAVED_CONFIG, save_config
from mrcnn_train.config import RunConfig, check
from mrcnn_train.data import check_evaluation, draw_synthetic, make_loader, open_train, open_val
from mrcnn_train.errors import ConfigError
from mrcnn_train.plan import Plan, describe_plan, make_plan
from mrcnn_train.signals import StopSignals

# Decoding every segmentation takes about 0.2 ms an object: minutes for train2017, which is known to be sound.
MAX_OBJECTS_CHECKED = 20_000
PATH_OPTIONS = ("root", "train_annotations", "train_images", "val_annotations", "val_images")


def run(config: RunConfig) -> int:
    """Do what a config asks for.

    Returns:
        The exit code: 0, or 128 + signal where one ended the run.

    Raises:
        ConfigError, DatasetError: an option cannot work, the run cannot start, or an image cannot be read.
        GroundTruthError: the validation split cannot be scored against.
        DivergedError: a loss is not finite.
    """
    check(config)
    make_paths_absolute(config)
    with StopSignals() as stop:
        draw_synthetic(config.data)
        train = open_train(config.data)
        val = open_val(config.data, train)
        with make_loader(config.data, config.train, train) as loader:
            plan = make_plan(config, num_images=loader.num_images)
            print(describe_plan(config, plan, train=train, val=val, canvases=list(loader.canvases)), flush=True)
            print_findings(train)
            check_weights(config)
            if val is not None:
                print_findings(val)
                check_evaluation(config.data, config.eval, val)
            if config.dry_run:
                return 0
            return _run_with_tensorflow(config, plan, loader, train=train, val=val, stop=stop)


def _run_with_tensorflow(
    config: RunConfig,
    plan: Plan,
    loader: TrainLoader,
    *,
    train: CocoDataset,
    val: CocoDataset | None,
    stop: StopSignals,
) -> int:
    try:
        from mrcnn_train.initial_weights import write_weights_report
        from mrcnn_train.loop import train_loop
        from mrcnn_train.start import prepare
    except ImportError as error:  # mrcnn-ops says in one line which TensorFlow it was built for
        raise ConfigError(str(error)) from error
    trainer = prepare(config, train=train, val=val)
    run_dir = resumed_run_dir(config) or new_run_dir(config)
    print(f"{'run directory:':17} {run_dir}", flush=True)
    if trainer.weights_report is not None:
        write_weights_report(run_dir, trainer.weights_report)
    return train_loop(config, plan, loader, trainer=trainer, val=val, run_dir=run_dir, stop=stop)


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


def check_weights(config: RunConfig) -> None:
    """Find out about missing weights before TensorFlow is loaded.

    Raises:
        ConfigError: the file that model.weights names does not exist.
    """
    weights = config.model.weights
    if config.resume is not None:
        return  # a checkpoint of the run takes their place
    if weights is None:
        if config.model.norm == "frozen_bn":
            print(
                "WARNING: model.norm is frozen_bn and model.weights is null: random weights under a norm that cannot "
                "learn train badly. Give model.weights, or model.norm=gn.",
                file=sys.stderr,
                flush=True,
            )
    elif not Path(weights).exists():
        raise ConfigError(f"model.weights={weights} does not exist (model.weights=null starts from random weights)")


def print_findings(dataset: CocoDataset) -> None:
    """Say what of the annotations is dropped or repaired: nothing goes without a word."""
    name = dataset.annotation_path.name
    is_large = int(dataset.num_objects().sum()) > MAX_OBJECTS_CHECKED
    report = dataset.opening_report if is_large else dataset.report
    for finding in report.findings:
        if finding.severity != "note":
            print(f"{'annotations:':17} {name}: {finding}")
    if is_large:
        print(f"{'annotations:':17} {name}: segmentations are not looked at here; mrcnn-data check does")


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
