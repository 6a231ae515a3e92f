"""Training as one call, for notebooks and programs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mrcnn_train.config.composition import composed_config, option_names
from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.values import asked_processes
from mrcnn_train.errors import ConfigError
from mrcnn_train.record.run_dir import new_run_dir
from mrcnn_train.runner import run


def train(data: str | os.PathLike[str] | None = None, *, experiment: str = "auto", **options: Any) -> Path:
    """Train on a folder of images with COCO annotations, and return the run directory.

    This is the command `python -m mrcnn_train +experiment=EXPERIMENT data.root=DATA NAME=VALUE ...`, in this process.
    Ctrl-C, and "interrupt" in a notebook, end it with a checkpoint.

    Args:
        data: the folder; None if the options say where the data are.
        experiment: the name of an experiment, which `python -m mrcnn_train --help` lists. "auto" chooses options by the
            data and the machine, and keeps those that are given.
        options: options by their names. Names with a dot are given as `**{"data.short_edge": 320}`; `minutes`,
            `max_steps`, `epochs` and other options of `train` are found without their group.

    Returns:
        The run directory; `mrcnn_eval.load` takes it.

    Raises:
        ConfigError: an option does not exist, has the wrong type or cannot work; the run cannot start; or several
            processes are asked for, which only the command starts.
        KeyboardInterrupt: the run was stopped by Ctrl-C; its message says how to continue.
        DatasetError, DivergedError, SaveError: see `run`.

    Examples:
        >>> train("no/such/folder", max_steps="ten")
        Traceback (most recent call last):
        mrcnn_train.errors.ConfigError: train.max_steps: Value 'ten' of type 'str' could not be converted to Integer
    """
    given = {_full_name(name): value for name, value in options.items()}
    if data is not None:
        given = {"data.root": data, **given}
    config = composed_config(experiment, given)
    if asked_processes(config.launch) > 1 or config.launch.hosts is not None:
        raise ConfigError("a job of several processes is started by the command: python -m mrcnn_train")
    run_dir = Path(config.resume or config.run.dir or new_run_dir(str(config.run.name)))
    config.run.dir = config.run.dir or str(run_dir)
    exit_code = run(config)
    if exit_code:
        raise KeyboardInterrupt(f"stopped with exit code {exit_code}; train(resume={str(run_dir)!r}) continues")
    return run_dir


def _full_name(name: str) -> str:
    """Add the group of an option of `train` that was given without it.

    >>> _full_name("max_steps"), _full_name("data.short_edge"), _full_name("resume"), _full_name("nothing")
    ('train.max_steps', 'data.short_edge', 'resume', 'nothing')
    """
    known = set(option_names(RunConfig))
    return f"train.{name}" if name not in known and f"train.{name}" in known else name
