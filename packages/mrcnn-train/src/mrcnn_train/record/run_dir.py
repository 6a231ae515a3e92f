"""Make the directory of a new run or open that of a resumed one, and lock it while the run writes."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

from mrcnn_train.config.composition import SAVED_CONFIG, config_text, is_saved_config
from mrcnn_train.config.going_on import CHECKPOINTS_DIR, complete_checkpoints
from mrcnn_train.config.options import RunConfig
from mrcnn_train.errors import ConfigError
from mrcnn_train.record.lock import is_lock, locked
from mrcnn_train.record.run_files import name_until_now, replace_text


@contextlib.contextmanager
def open_run_dir(config: RunConfig) -> Iterator[Path]:
    """Make the directory of a new run and hold its lock, or open that of a resumed one; save the config there.

    Args:
        config: if it resumes a run, `lock_resumed` holds the lock already.

    Raises:
        ConfigError: the directory has a run or other files, another process writes to it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with _explained(config):
            run_dir = Path(config.resume) if config.resume is not None else _make_run_dir(config)
            if config.resume is None:
                stack.enter_context(locked(run_dir))
            _save_config(run_dir, config)
        yield run_dir


@contextlib.contextmanager
def lock_resumed(config: RunConfig) -> Iterator[None]:
    """Hold the lock of the run that is resumed.

    Raises:
        ConfigError: another process writes to the directory, or it cannot be written.
    """
    assert config.resume is not None
    with contextlib.ExitStack() as stack:
        with _explained(config):
            stack.enter_context(locked(Path(config.resume)))
        yield


@contextlib.contextmanager
def _explained(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        new = f"run.dir={config.run.dir or error.filename}"
        where = new if config.resume is None else f"resume={config.resume}"
        raise ConfigError(f"{where} cannot be written: {error.strerror}") from error


def check_run_dir(config: RunConfig) -> None:
    """Raise ConfigError if `run.dir` of a new run contains a run or other files.

    A run that ended before its first checkpoint cannot be continued, so its directory may be used again.
    """
    if config.run.dir is None:
        return
    run_dir = Path(config.run.dir)
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"run.dir={run_dir} is not a folder: choose a new or an empty folder")
    if complete_checkpoints(run_dir / CHECKPOINTS_DIR):
        raise ConfigError(f"run.dir={run_dir} holds a run already: resume={run_dir} continues it")
    is_run = is_saved_config(run_dir / SAVED_CONFIG)
    if run_dir.is_dir() and not is_run and any(not is_lock(path) for path in run_dir.iterdir()):
        raise ConfigError(f"run.dir={run_dir} holds files that are not of a run: choose a new or an empty folder")


def _make_run_dir(config: RunConfig) -> Path:
    if config.run.dir is None:
        return new_run_dir(str(config.run.name))
    check_run_dir(config)
    run_dir = Path(config.run.dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def new_run_dir(name: str) -> Path:
    """Make a directory named by the time in outputs/NAME; if several runs start in the same second, add a number."""
    wanted = Path.cwd() / "outputs" / name / time.strftime("%Y-%m-%d_%H-%M-%S")
    numbered = (wanted.with_name(f"{wanted.name}_{number}") for number in itertools.count(2))
    for path in itertools.chain([wanted], numbered):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise AssertionError("unreachable: there is always a next number")


def _save_config(run_dir: Path, config: RunConfig) -> None:
    """Save the config; if a resumed run changes it, keep the old file as config-until-TIME.yaml."""
    saved, text = run_dir / SAVED_CONFIG, config_text(config)
    if config.resume is not None and text != saved.read_text(encoding="utf-8"):
        saved.rename(name_until_now(saved))
    replace_text(saved, text)
