"""Resolve the config of a run: check it, make its paths absolute, and freeze it."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

from mrcnn_train.config.checks import check
from mrcnn_train.config.going_on import AUTO
from mrcnn_train.config.options import DataOptions, Options, RunConfig

PATHS = {
    "data": ("root", "train_annotations", "train_images", "val_annotations", "val_images", "cache_dir"),
    "model": ("weights",),
    "run": ("dir",),
}


def resolve(config: RunConfig, *, processes: int = 1) -> RunConfig:
    """Check a config and return a frozen copy with absolute paths; the given one is not changed.

    Paths are given relative to the folder of the launch, but a run may be resumed or evaluated from another folder.

    Raises:
        ConfigError: an option cannot work in a job of `processes` processes.
    """
    check(config, processes=processes)
    resolved = with_absolute_paths(config)
    cache_dir = resolved.data.cache_dir
    if resolved.dry_run and cache_dir is not None and not Path(cache_dir).is_dir():
        resolved.data.cache_dir = None  # a dry run uses an existing cache, but does not make one
    resolved.freeze()
    return resolved


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a copy whose paths do not depend on the folder of the launch."""
    resolved = copy.deepcopy(config)
    for group, names in PATHS.items():
        _make_absolute(getattr(resolved, group), names)
    if resolved.resume != AUTO:
        _make_absolute(resolved, ("resume",))
    return resolved


def as_saved(config: RunConfig) -> RunConfig:
    """Return the config that the run directory keeps, without the options that are for this launch only."""
    data = dataclasses.replace(config.data, changed=DataOptions().changed)
    return dataclasses.replace(config, resume=None, data=data)


def _make_absolute(options: Options, names: tuple[str, ...]) -> None:
    for name in names:
        setattr(options, name, _absolute(getattr(options, name)))


def _absolute(path: Any) -> Any:
    if isinstance(path, list):
        return [_absolute(one) for one in path]
    return None if path is None else os.path.abspath(os.path.expanduser(path))  # shells do not expand option=~/x
