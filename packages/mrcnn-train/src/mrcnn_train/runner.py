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
from mrcnn_train.data import draw_synthetic, make_loader, open_train, open_val
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
        from mrcnn_train.loop import train_loop
        from mrcnn_train.start import prepare
    except ImportError as error:  # mrcnn-ops says in one line which TensorFlow it was built for
        raise ConfigError(str(error)) from error
    trainer = prepare(config, train=train, val=val)
    run_dir = resumed_run_dir(config) or new_run_dir(config)
    print(f"{'run directory:':17} {run_dir}", flush=True)
    return train_loop(config, plan, loader, trainer=trainer, val=val, run_dir=run_dir, stop=stop)


def make_paths_absolute(config: RunConfig) -> None:
    """Paths are typed relative to the folder of the launch; a run may be resumed or evaluated from another."""
    for name in PATH_OPTIONS:
        path = getattr(config.data, name)
        if path is not None:
            setattr(config.data, name, os.path.abspath(path))
    if config.model.weights is not None:
        config.model.weights = os.path.abspath(config.model.weights)
    if config.resume is not None:
        config.resume = os.path.abspath(config.resume)
    if config.run.dir is not None:
        config.run.dir = os.path.abspath(config.run.dir)


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


def print_findings(train: CocoDataset) -> None:
    """Say what of the annotations is dropped or repaired: nothing goes without a word."""
    if int(train.num_objects().sum()) > MAX_OBJECTS_CHECKED:
        print(f"annotations:      mrcnn-data check lists what is odd in {train.annotation_path.name}")
        return
    for finding in train.report.findings:
        if finding.severity != "note":
            print(f"annotations:      {finding}")


def new_run_dir(config: RunConfig) -> Path:
    """Make the directory of a new run and save the config in it.

    Raises:
        ConfigError: it holds a run already, or cannot be made.
    """
    if config.run.dir is not None:
        run_dir = Path(config.run.dir)
    else:
        started = Path.cwd() / "outputs" / str(config.run.name) / time.strftime("%Y-%m-%d_%H-%M-%S")
        numbered = (started.with_name(f"{started.name}_{number}") for number in itertools.count(2))
        run_dir = next(path for path in itertools.chain([started], numbered) if not path.exists())
    if (run_dir / SAVED_CONFIG).exists():
        raise ConfigError(f"run.dir={run_dir} holds a run already: resume={run_dir} continues it")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run.dir={run_dir} cannot be made: {error.strerror}") from error
    save_config(run_dir / SAVED_CONFIG, config)
    return run_dir


def resumed_run_dir(config: RunConfig) -> Path | None:
    """The directory of the run that goes on; its config becomes this one, the old one is kept beside."""
    if config.resume is None:
        return None
    run_dir = Path(config.resume)
    saved = run_dir / SAVED_CONFIG
    fresh = run_dir / (SAVED_CONFIG + ".partial")
    config.resume = None  # the saved config is that of the run, not of this launch
    save_config(fresh, config)
    if fresh.read_text() != saved.read_text():
        saved.rename(run_dir / f"config-until-{time.strftime('%Y-%m-%d_%H-%M-%S')}.yaml")
    fresh.replace(saved)
    return run_dir
