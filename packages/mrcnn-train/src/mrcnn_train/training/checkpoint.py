"""Checkpoints of a run: the model, and beside it what the trainer needs to resume.

RUN/checkpoints/step-XXXXXXXX/ contains model.safetensors and model.json (written by mrcnn_model), trainer.safetensors
and trainer.json. The text file RUN/checkpoints/best has the name of the step folder of the best evaluation.

trainer.safetensors contains the variables of the optimizer as SLOT/VARIABLE, and the loss scale. If the run averages
its weights, the model is the average, and trainer.safetensors has the weights in training as weights/VARIABLE.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mrcnn_model import CheckpointError, MaskRCNN, ModelCard, flush, load_weights, read_best, save_model, variable_key
from mrcnn_train.config.going_on import TRAINER_FILE, complete_checkpoints, is_complete
from mrcnn_train.config.position import CheckpointState
from mrcnn_train.errors import SaveError
from mrcnn_train.record.run_files import replace_text
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.optimizer import Optimizer

TRAINER_ARRAYS = "trainer.safetensors"
BEST = "best"
LOSS_SCALE = "loss_scale/"  # begins the keys of the loss scale in trainer.safetensors
PARTIAL = "partial-"  # begins the name of a folder that is being written


def step_name(step: int) -> str:
    """Return the name of the checkpoint folder after `step` updates."""
    return f"step-{step:08d}"


def save_checkpoint(
    checkpoints: Path,
    *,
    model: MaskRCNN,
    card: ModelCard,
    optimizer: Optimizer,
    state: CheckpointState,
    loss_scale: LossScale | None = None,
) -> Path:
    """Write a checkpoint completely or not at all: into another folder, which is flushed to the disk and then renamed.

    Returns:
        The folder of the checkpoint. A complete checkpoint of this step is not changed.

    Raises:
        SaveError: the disk is full or cannot be written. Earlier checkpoints are not changed.
    """
    target = checkpoints / step_name(state.step)
    if is_complete(target):
        return target
    partial = checkpoints / f"{PARTIAL}{target.name}-{secrets.token_hex(8)}"
    with _explained(target):
        checkpoints.mkdir(exist_ok=True)  # not its parents: a run directory that is gone is not made again
        remove_leftovers(checkpoints)
        if target.exists():  # cut off while a service copied it here
            shutil.rmtree(target)
        partial.mkdir()  # fails if there is a file or link of this name
        optimizer.swap_average()
        try:
            save_model(partial, model, card)
            variables = _trainer_variables(optimizer, loss_scale)
            arrays = {key: np.ascontiguousarray(variable.numpy()) for key, variable in variables.items()}
        finally:
            optimizer.swap_average()
        save_file(arrays, partial / TRAINER_ARRAYS)
        (partial / TRAINER_FILE).write_text(json.dumps(dataclasses.asdict(state), indent=1), encoding="utf-8")
        for file in partial.iterdir():
            flush(file)
        flush(partial)
        partial.rename(target)
        flush(checkpoints)
    return target


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            remove_leftovers(target.parent)  # half a checkpoint would keep the disk full
        whole = complete_checkpoints(target.parent)
        last = f"the last complete one is {whole[-1]}" if whole else "there is none yet"
        raise SaveError(f"checkpoint {target} cannot be written: {error}; {last}") from error


def remove_leftovers(checkpoints: Path) -> None:
    """Delete checkpoints that were not completed, because the run ended while it wrote them."""
    for leftover in checkpoints.glob(f"{PARTIAL}*"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def restore_checkpoint(
    checkpoint: Path, *, model: MaskRCNN, optimizer: Optimizer, loss_scale: LossScale | None = None
) -> None:
    """Fill model, optimizer and loss scale. If the precision has changed, a loss scale starts anew or is dropped.

    Raises:
        CheckpointError: a file is missing, torn, or of another model or optimizer.
    """
    report = load_weights(model, checkpoint)
    arrays = _read_arrays(checkpoint / TRAINER_ARRAYS)
    expected = _trainer_variables(optimizer, loss_scale)
    unlike = sorted(key for key in arrays.keys() ^ expected.keys() if not key.startswith(LOSS_SCALE))
    differences = [*report.unused, *report.unfilled, *unlike]
    if differences:
        raise CheckpointError(
            f"{checkpoint} was saved with another model or optimizer: only one of the checkpoint and this run has "
            f"{differences[0]}"
        )
    for key, variable in expected.items():
        if key not in arrays:
            continue
        shape = tuple(variable.shape)
        if arrays[key].shape != (shape or (1,)):  # single numbers are saved as lists of one
            raise CheckpointError(
                f"{checkpoint / TRAINER_ARRAYS}: {key} has shape {arrays[key].shape}; expected {shape}"
            )
        not_finite = arrays[key].size - int(np.isfinite(arrays[key]).sum())
        if not_finite:
            raise CheckpointError(
                f"{checkpoint / TRAINER_ARRAYS}: {key} has {not_finite} of {arrays[key].size} values that are NaN or "
                "infinite"
            )
        variable.assign(arrays[key].reshape(shape))
    optimizer.swap_average()


def _trainer_variables(optimizer: Optimizer, loss_scale: LossScale | None) -> dict[str, tf.Variable]:
    """Return what trainer.safetensors contains, by key. The caller exchanges the weights and their average."""
    keys = [variable_key(variable) for variable in optimizer.variables]
    variables = {
        f"{'weights' if slot == 'average' else slot}/{key}": variable
        for slot, of_slot in optimizer.slots.items()
        for key, variable in zip(keys, of_slot, strict=True)
    }
    if loss_scale is not None:
        variables |= {LOSS_SCALE + name: variable for name, variable in loss_scale.variables.items()}
    return variables


def mark_best(checkpoints: Path, checkpoint: Path) -> None:
    """Write the name of a checkpoint to the file `best`."""
    replace_text(checkpoints / BEST, checkpoint.name + "\n")


def best_name(checkpoints: Path) -> str | None:
    """Return the name in the file `best`; None if there is no such file, or if it contains something else."""
    try:
        return read_best(checkpoints)
    except CheckpointError:
        return None


def prune_checkpoints(checkpoints: Path, *, keep_last: int, also: str | None = None) -> None:
    """Delete all checkpoints except the newest `keep_last`, the best, and `also`, which may become the best."""
    kept = (best_name(checkpoints), also)
    for folder in complete_checkpoints(checkpoints)[:-keep_last]:
        if folder.name not in kept:
            shutil.rmtree(folder)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
