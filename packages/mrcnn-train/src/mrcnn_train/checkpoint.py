"""Checkpoints of a run: the model as any program reads it, and beside it what only the trainer needs to go on.

RUN/checkpoints/step-XXXXXXXX/ holds model.safetensors, model.json (mrcnn_model), trainer.safetensors (momentum) and
trainer.json; the text file RUN/checkpoints/best names the step folder of the best evaluation.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mrcnn_model import CheckpointError, MaskRCNN, ModelCard, load_weights, save_model, variable_key
from mrcnn_train.optimizer import Sgd

TRAINER_ARRAYS = "trainer.safetensors"
TRAINER_FILE = "trainer.json"
BEST = "best"
PARTIAL = "partial-"  # begins the name of a folder that is being written


@dataclasses.dataclass
class TrainerState:
    """Where a run stands. Learning rate and data order follow from the step; they are there to be read by people."""

    step: int  # updates done; the next one has this number
    seed: int
    global_batch: int
    epoch: float
    learning_rate: float  # of the last update
    elapsed_seconds: float  # of training, over all resumed parts


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def save_checkpoint(
    checkpoints: Path, *, model: MaskRCNN, card: ModelCard, optimizer: Sgd, state: TrainerState
) -> Path:
    """Write a checkpoint that is there completely or not at all: a folder beside, flushed to the disk, then renamed.

    Returns:
        Its folder. One of this step that is there already stays as it is.
    """
    target = checkpoints / step_name(state.step)
    if target.exists():
        return target
    checkpoints.mkdir(parents=True, exist_ok=True)
    for leftover in checkpoints.glob(f"{PARTIAL}*"):  # of a run that died while it wrote
        shutil.rmtree(leftover)
    partial = checkpoints / (PARTIAL + target.name)
    save_model(partial, model, card)
    momenta = zip(optimizer.variables, optimizer.momenta, strict=True)
    save_file({variable_key(v): np.ascontiguousarray(m.numpy()) for v, m in momenta}, partial / TRAINER_ARRAYS)
    (partial / TRAINER_FILE).write_text(json.dumps(dataclasses.asdict(state), indent=1))
    for file in partial.iterdir():
        _flush(file)
    _flush(partial)
    partial.rename(target)
    _flush(checkpoints)
    return target


def restore_checkpoint(checkpoint: Path, *, model: MaskRCNN, optimizer: Sgd) -> None:
    """Fill model and optimizer.

    Raises:
        CheckpointError: a file is missing, torn, or of another model.
    """
    report = load_weights(model, checkpoint)
    momenta = _read_momenta(checkpoint / TRAINER_ARRAYS)
    expected = {variable_key(v): m for v, m in zip(optimizer.variables, optimizer.momenta, strict=True)}
    differences = [*report.unused, *report.unfilled, *sorted(momenta.keys() ^ expected.keys())]
    if differences:
        raise CheckpointError(f"{checkpoint} is of another model: {differences[0]} is only in one of them")
    for key, variable in expected.items():
        if momenta[key].shape != tuple(variable.shape):
            raise CheckpointError(f"{checkpoint / TRAINER_ARRAYS}: {key} has shape {momenta[key].shape}")
        variable.assign(momenta[key])


def read_state(checkpoint: Path) -> TrainerState:
    """Read `trainer.json`.

    Raises:
        CheckpointError: it is missing or torn.
    """
    path = checkpoint / TRAINER_FILE
    try:
        return TrainerState(**json.loads(path.read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def complete_checkpoints(checkpoints: Path) -> list[Path]:
    """List the step folders that training can go on from, oldest first."""
    return sorted(folder for folder in checkpoints.glob("step-*") if (folder / TRAINER_FILE).is_file())


def mark_best(checkpoints: Path, checkpoint: Path) -> None:
    """Make `best` name this checkpoint."""
    partial = checkpoints / (BEST + ".partial")
    partial.write_text(checkpoint.name + "\n")
    _flush(partial)
    partial.replace(checkpoints / BEST)


def best_name(checkpoints: Path) -> str | None:
    """The folder name that `best` holds, None where there is none."""
    path = checkpoints / BEST
    return path.read_text().strip() if path.is_file() else None


def prune_checkpoints(checkpoints: Path, *, keep_last: int) -> None:
    """Delete all but the newest `keep_last` and the best."""
    best = best_name(checkpoints)
    for folder in complete_checkpoints(checkpoints)[:-keep_last]:
        if folder.name != best:
            shutil.rmtree(folder)


def _read_momenta(path: Path) -> dict[str, np.ndarray]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _flush(path: Path) -> None:
    """Wait until the disk has it, else a power cut after the rename could leave an empty file under the final name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
