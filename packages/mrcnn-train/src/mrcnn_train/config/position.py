"""The position of a run: the file `trainer.json` of a checkpoint. Without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from mrcnn_model import CheckpointError, read_card
from mrcnn_train.config.going_on import CHECKPOINTS_DIR, TRAINER_FILE, complete_checkpoints, step_of
from mrcnn_train.errors import ConfigError
from mrcnn_train.training.fingerprint import Fingerprint

MAX_BYTES = 1 << 20  # of trainer.json, which takes a few hundred


@dataclasses.dataclass
class CheckpointState:
    """The position of a run. Epoch and learning rate follow from the step; they are there for human readers.

    Attributes:
        step: number of updates done, which is also the number of the next one, counted from 0.
        epoch: position in epochs.
        learning_rate: that of the last update.
        elapsed_seconds: time of the run, summed over all launches.
        data: fingerprint of the training data; None in checkpoints of version 0.1.
        budget_seconds: spent of `train.minutes`, summed over all launches.
    """

    step: int
    seed: int
    global_batch: int
    epoch: float
    learning_rate: float
    elapsed_seconds: float
    data: Fingerprint | None = None
    budget_seconds: float = 0.0


def newest_position(run_dir: Path) -> tuple[Path, CheckpointState]:
    """Return the newest complete checkpoint of a run and its position.

    Raises:
        ConfigError: there is none, or its model.json or trainer.json is damaged.
    """
    checkpoints = complete_checkpoints(run_dir / CHECKPOINTS_DIR)
    if not checkpoints:
        raise ConfigError(
            f"resume={run_dir}: no complete checkpoint in {run_dir / CHECKPOINTS_DIR}: start the run again with "
            f"+experiment=NAME run.dir={run_dir}"
        )
    newest = checkpoints[-1]
    try:
        read_card(newest)
        return newest, read_state(newest)
    except CheckpointError as error:
        raise damaged(error, checkpoints) from error


def damaged(error: CheckpointError, checkpoints: list[Path]) -> ConfigError:
    """Make the error about the newest of the complete checkpoints, which says from which one the run can resume."""
    newest = checkpoints[-1].name
    older = f"; if {newest} is deleted, the run resumes from {checkpoints[-2].name}" if checkpoints[1:] else ""
    return ConfigError(f"{error}{older}")


def read_state(checkpoint: Path) -> CheckpointState:
    """Read `trainer.json`.

    Raises:
        CheckpointError: it is missing, torn, or has a value that cannot be.
    """
    path = checkpoint / TRAINER_FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        state = CheckpointState(**json.loads(path.read_bytes()))
    except RecursionError:
        raise CheckpointError(f"{path} cannot be read: lists in lists in it are nested too deep") from None
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    for name in ("step", "seed", "global_batch"):
        _require(path, name, getattr(state, name), holds=_is_count, expected="a whole number from 0")
    for name in ("epoch", "learning_rate", "elapsed_seconds", "budget_seconds"):
        _require(path, name, getattr(state, name), holds=_is_number, expected="a number from 0")
    _require(path, "data", state.data, holds=_is_fingerprint, expected="the fingerprint of training data, or null")
    expected = step_of(checkpoint)
    if expected is not None:
        _require(path, "step", state.step, holds=lambda step: step == expected, expected=f"{expected}, as in its path")
    return state


def _require(path: Path, name: str, value: Any, *, holds: Any, expected: str) -> None:
    if not holds(value):
        text = repr(value)
        raise CheckpointError(f"{path}: {name} is {text[:100] + '...' * (len(text) > 100)}; expected {expected}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return _is_count(value)
    return isinstance(value, float) and math.isfinite(value) and value >= 0


def _is_fingerprint(value: Any) -> bool:
    if value is None:
        return True
    has_counts = isinstance(value, dict) and all(_is_count(value.get(name)) for name in ("images", "objects"))
    return has_counts and all(isinstance(value[name], str) for name in value if name not in ("images", "objects"))
