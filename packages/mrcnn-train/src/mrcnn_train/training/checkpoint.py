"""Checkpoints of a run: the model as any program reads it, and beside it what only the trainer needs to go on.

RUN/checkpoints/step-XXXXXXXX/ holds model.safetensors, model.json (mrcnn_model), trainer.safetensors and trainer.json;
the text file RUN/checkpoints/best names the step folder of the best evaluation. trainer.safetensors holds the variables
of the optimizer as SLOT/VARIABLE and the loss scale. Where the run averages its weights, the average is the model, and
the weights in training are beside it as weights/VARIABLE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mrcnn_model import CheckpointError, MaskRCNN, ModelCard, load_weights, save_model, variable_key
from mrcnn_train.errors import SaveError
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.optimizer import Optimizer

CHECKPOINTS_DIR = "checkpoints"  # of a run directory
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
    checkpoints: Path,
    *,
    model: MaskRCNN,
    card: ModelCard,
    optimizer: Optimizer,
    state: TrainerState,
    loss_scale: LossScale | None = None,
) -> Path:
    """Write a checkpoint that is there completely or not at all: a folder beside, flushed to the disk, then renamed.

    Returns:
        Its folder. One of this step that is there already stays as it is.

    Raises:
        SaveError: the disk is full or refuses. Checkpoints written before are untouched.
    """
    target = checkpoints / step_name(state.step)
    if target.exists():
        return target
    partial = checkpoints / (PARTIAL + target.name)
    with _explained(target):
        checkpoints.mkdir(parents=True, exist_ok=True)
        remove_leftovers(checkpoints)
        optimizer.swap_average()
        try:
            save_model(partial, model, card)
            variables = _trainer_variables(optimizer, loss_scale)
            arrays = {key: np.ascontiguousarray(variable.numpy()) for key, variable in variables.items()}
        finally:
            optimizer.swap_average()
        save_file(arrays, partial / TRAINER_ARRAYS)
        (partial / TRAINER_FILE).write_text(json.dumps(dataclasses.asdict(state), indent=1))
        for file in partial.iterdir():
            _flush(file)
        _flush(partial)
        partial.rename(target)
        _flush(checkpoints)
    return target


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            remove_leftovers(target.parent)  # a full disk is not to stay full of half a checkpoint
        whole = complete_checkpoints(target.parent)
        last = f"the last whole one is {whole[-1]}" if whole else "there is none yet"
        raise SaveError(f"checkpoint {target} cannot be written: {error}; {last}") from error


def remove_leftovers(checkpoints: Path) -> None:
    """Delete what a run left that died, or failed, while it wrote."""
    for leftover in checkpoints.glob(f"{PARTIAL}*"):
        shutil.rmtree(leftover)


def restore_checkpoint(
    checkpoint: Path, *, model: MaskRCNN, optimizer: Optimizer, loss_scale: LossScale | None = None
) -> None:
    """Fill model, optimizer and loss scale.

    Raises:
        CheckpointError: a file is missing, torn, or of another model or another kind of run.
    """
    report = load_weights(model, checkpoint)
    arrays = _read_arrays(checkpoint / TRAINER_ARRAYS)
    expected = _trainer_variables(optimizer, loss_scale)
    differences = [*report.unused, *report.unfilled, *sorted(arrays.keys() ^ expected.keys())]
    if differences:
        raise CheckpointError(
            f"{checkpoint} is of another model, optimizer or precision: {differences[0]} is only in one of them"
        )
    for key, variable in expected.items():
        if arrays[key].shape != tuple(variable.shape):
            raise CheckpointError(f"{checkpoint / TRAINER_ARRAYS}: {key} has shape {arrays[key].shape}")
        variable.assign(arrays[key])
    optimizer.swap_average()


def _trainer_variables(optimizer: Optimizer, loss_scale: LossScale | None) -> dict[str, tf.Variable]:
    """What trainer.safetensors holds, by key; the average and the weights are exchanged when it is read and written."""
    keys = [variable_key(variable) for variable in optimizer.variables]
    variables = {
        f"{'weights' if slot == 'average' else slot}/{key}": variable
        for slot, of_slot in optimizer.slots.items()
        for key, variable in zip(keys, of_slot, strict=True)
    }
    if loss_scale is not None:
        variables |= {f"loss_scale/{name}": variable for name, variable in loss_scale.variables.items()}
    return variables


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


def prune_checkpoints(checkpoints: Path, *, keep_last: int, also: str | None = None) -> None:
    """Delete all but the newest `keep_last`, the best, and the one named `also`, which may turn out to be the best."""
    kept = (best_name(checkpoints), also)
    for folder in complete_checkpoints(checkpoints)[:-keep_last]:
        if folder.name not in kept:
            shutil.rmtree(folder)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
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
