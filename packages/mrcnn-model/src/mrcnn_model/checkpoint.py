"""Write and read a checkpoint directory: the weights in `model.safetensors`, everything else in `model.json`.

`model.json` has the architecture, the classes, the preprocessing, and where the data of the run was. So a model can be
used without the program that trained it.
"""

import dataclasses
import json
import os
from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from mrcnn_model.building import build_model
from mrcnn_model.config import AUTO_PRECISION
from mrcnn_model.detection_ops import COMPILED_OPS, DetectionOps
from mrcnn_model.mask_rcnn import MaskRCNN
from mrcnn_model.storage.cards import CARD_FILE, FORMAT, CheckpointError, ModelCard, read_card, resolve_checkpoint
from mrcnn_model.storage.partial_files import partial_file
from mrcnn_model.storage.readable import WEIGHTS_FILE

OURS = {"written_by": "mrcnn_model"}  # in the header of the weights file


def save_model(directory: str | Path, model: MaskRCNN, card: ModelCard) -> None:
    """Write a model into a directory, which is made if it is missing. Other files in it are not touched.

    Both files are first written under temporary names. Then an old `model.json` is deleted, and the new files are
    renamed, `model.json` last. Each step is flushed to the disk before the next one. So if there is a `model.json`, the
    weights beside it belong to it and are complete, even after a power failure.

    Raises:
        ValueError: the card's classes contradict the model's.
        CheckpointError: the directory has a `model.json` or `model.safetensors` that is not a checkpoint's.
        OSError, SafetensorError: the disk refuses.
    """
    if len(card.class_names) != model.config.num_classes - 1 or len(card.category_ids) != len(card.class_names):
        raise ValueError(
            f"the card names {len(card.class_names)} classes and {len(card.category_ids)} category ids; "
            f"the model has {model.config.num_classes - 1}"
        )
    directory = Path(directory)
    weights_file, card_file = directory / WEIGHTS_FILE, directory / CARD_FILE
    _require_replaceable(weights_file, card_file)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {variable_key(v): np.ascontiguousarray(v.numpy()) for v in model.variables}
    content = {"format": FORMAT, "model": dataclasses.asdict(model.config), "card": dataclasses.asdict(card)}
    with partial_file(directory) as new_weights, partial_file(directory) as new_card:
        save_file(arrays, new_weights, metadata=OURS)
        new_card.write_text(json.dumps(content, indent=1), encoding="utf-8")
        flush(new_weights)
        flush(new_card)
        card_file.unlink(missing_ok=True)
        flush(directory)
        new_weights.replace(weights_file)
        flush(directory)
        new_card.replace(card_file)
        flush(directory)


def flush(path: Path) -> None:
    """Write a file, or the names in a folder, from the system's memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_replaceable(weights_file: Path, card_file: Path) -> None:
    """Refuse to replace files other than those of an earlier save, complete or interrupted."""
    weights_are_ours = not os.path.lexists(weights_file) or _header(weights_file) == OURS
    if not (_is_card(card_file) if os.path.lexists(card_file) else weights_are_ours):
        raise CheckpointError(
            f"{card_file.parent} has a {CARD_FILE} or {WEIGHTS_FILE} that is not a checkpoint: choose another directory"
        )


def _is_card(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).keys() >= {"format", "model", "card"}
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _header(path: Path) -> dict[str, str] | None:
    try:
        with safe_open(path, "np") as file:
            return file.metadata()
    except (OSError, SafetensorError):
        return None


def load_model(
    path: str | Path, *, precision: str = AUTO_PRECISION, ops: DetectionOps = COMPILED_OPS
) -> tuple[MaskRCNN, ModelCard]:
    """Read a model from a checkpoint directory or from a run directory (see `find_checkpoint`).

    Args:
        precision: see `build_model`. The weights are float32 whatever the training's precision was, so by default the
            model computes in the fastest precision of this machine, as `mrcnn-eval` does; "float32" computes the same
            on every machine.
        ops: see `build_model`.

    Raises:
        CheckpointError: there is no complete checkpoint.
    """
    directory = resolve_checkpoint(path)
    config, card = read_card(directory)
    model = build_model(config, precision=precision, ops=ops)
    arrays = read_weights(directory)
    by_key = {variable_key(v): v for v in model.variables}
    missing, unknown = sorted(by_key.keys() - arrays.keys()), sorted(arrays.keys() - by_key.keys())
    if missing or unknown:
        raise CheckpointError(
            f"{directory / WEIGHTS_FILE} does not fit {CARD_FILE}: missing {missing[:3]}, not expected {unknown[:3]}"
        )
    for key, variable in by_key.items():
        assign(variable, arrays[key], label=f"{directory / WEIGHTS_FILE}: {key}")
    return model, card


def read_weights(directory: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint directory by key.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    path = Path(directory) / WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def variable_key(variable: keras.Variable) -> str:
    """Return the name of a variable in a checkpoint, such as "backbone.stage1.block0.conv1.kernel"."""
    return str(variable.path).replace("/", ".")


def assign(variable: keras.Variable, array: np.ndarray, *, label: str) -> None:
    """Fill a variable.

    Raises:
        CheckpointError: the shapes differ, or a number is not finite; the message begins with `label`.
    """
    if tuple(variable.shape) != array.shape:
        raise CheckpointError(f"{label} has shape {array.shape}; the model expects {tuple(variable.shape)}")
    not_finite = array.size - int(np.isfinite(array).sum())
    if not_finite:
        raise CheckpointError(f"{label} has {not_finite} of {array.size} values that are NaN or infinite")
    variable.assign(array)
