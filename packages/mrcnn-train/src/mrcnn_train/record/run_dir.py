"""The directory of a run: made for a new one, found again for one that is resumed."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from mrcnn_train.config.composition import SAVED_CONFIG, save_config
from mrcnn_train.config.options import RunConfig
from mrcnn_train.errors import ConfigError


def make_run_dir(config: RunConfig) -> Path:
    """Make the directory of a new run and save the config in it.

    Raises:
        ConfigError: it holds a run or other files, or cannot be made.
    """
    run_dir = _default_run_dir(config) if config.run.dir is None else Path(config.run.dir)
    try:
        if config.run.dir is None:
            run_dir = _make_unshared(run_dir)
        else:
            check_run_dir(config)
            run_dir.mkdir(parents=True, exist_ok=True)
        save_config(run_dir / SAVED_CONFIG, config)
    except OSError as error:
        raise ConfigError(f"run.dir={run_dir} cannot be written: {error.strerror}") from error
    return run_dir


def _default_run_dir(config: RunConfig) -> Path:
    return Path.cwd() / "outputs" / str(config.run.name) / time.strftime("%Y-%m-%d_%H-%M-%S")


def check_run_dir(config: RunConfig) -> None:
    """Raise ConfigError if the directory that a new run was given holds a run or other files."""
    if config.run.dir is None:
        return
    run_dir = Path(config.run.dir)
    if (run_dir / SAVED_CONFIG).exists():
        raise ConfigError(f"run.dir={run_dir} holds a run already: resume={run_dir} continues it")
    if run_dir.is_dir() and any(run_dir.iterdir()):
        raise ConfigError(f"run.dir={run_dir} holds files that are not of a run: choose a new or an empty folder")


def _make_unshared(wanted: Path) -> Path:
    """Make a new directory; if several runs start in the same second, all but one get a number."""
    numbered = (wanted.with_name(f"{wanted.name}_{number}") for number in itertools.count(2))
    for path in itertools.chain([wanted], numbered):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable: the numbers do not end")


def reopen_run_dir(config: RunConfig) -> Path:
    """Save the config of a resumed run in its directory; where it changed, the old one is kept beside it.

    Raises:
        ConfigError: the directory cannot be written.
    """
    assert config.resume is not None
    run_dir = Path(config.resume)
    saved, fresh = run_dir / SAVED_CONFIG, run_dir / (SAVED_CONFIG + ".partial")
    try:
        save_config(fresh, config)
        if fresh.read_text() != saved.read_text():
            saved.rename(run_dir / f"config-until-{time.strftime('%Y-%m-%d_%H-%M-%S')}.yaml")
        fresh.replace(saved)
    except OSError as error:
        raise ConfigError(f"resume={run_dir} cannot be written: {error.strerror}") from error
    return run_dir
