"""Write and read a checkpoint directory: the weights in `model.safetensors`, everything else in `model.json`.

`model.json` has the architecture, the classes, the preprocessing, and where the data of the run was. So a model can be
used without the program that trained it.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from mrcnn_model.building import build_model
from mrcnn_model.config import ModelConfig, OptionError
from mrcnn_model.detection_ops import COMPILED_OPS, DetectionOps
from mrcnn_model.mask_rcnn import MaskRCNN
from mrcnn_model.partial_files import partial_file

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"
FORMAT = 2  # of model.json: the options are grouped by part; in format 1 they are flat
READABLE_FORMATS = (1, FORMAT)
OURS = {"written_by": "mrcnn_model"}  # in the header of the weights file


class CheckpointError(ValueError):
    """A checkpoint or weights file that is missing, damaged, or does not fit; the message names it."""


@dataclass
class ModelCard:
    """What belongs to a model besides architecture and weights.

    Attributes:
        class_names: names of the contiguous classes 1..C-1.
        category_ids: ids of the same classes in the annotation file.
        short_edge, max_size: size to which an image is resized before detection, pixels.
        buckets: sizes (h, w) to which a resized image is padded.
        data_root, train_split, val_split: where the data of the run was, in the layout ROOT/annotations, ROOT/SPLIT.
        annotations, images: validation file and folder, if they were given explicitly.
    """

    class_names: list[str]
    category_ids: list[int]
    short_edge: int
    max_size: int
    buckets: list[list[int]]
    data_root: str | None = None
    train_split: str | None = None
    val_split: str | None = None
    annotations: str | None = None
    images: str | None = None


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
        new_card.write_text(json.dumps(content, indent=1))
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
        return json.loads(path.read_text()).keys() >= {"format", "model", "card"}
    except (OSError, ValueError, AttributeError):
        return False


def _header(path: Path) -> dict[str, str] | None:
    try:
        with safe_open(path, "np") as file:
            return file.metadata()
    except (OSError, SafetensorError):
        return None


def load_model(
    path: str | Path, *, precision: str = "float32", ops: DetectionOps = COMPILED_OPS
) -> tuple[MaskRCNN, ModelCard]:
    """Read a model from a checkpoint directory or from a run directory (see `find_checkpoint`).

    Args:
        precision, ops: see `build_model`.

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


def read_card(directory: Path) -> tuple[ModelConfig, ModelCard]:
    """Read `model.json` of a checkpoint directory.

    Raises:
        CheckpointError: it is missing, is not a model card, or is of a newer format.
    """
    path = Path(directory) / CARD_FILE
    try:
        content: Any = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: not a checkpoint directory") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a model card: {type(error).__name__}: {error}") from error
    parts = [content.get(name) for name in ("model", "card")] if isinstance(content, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise CheckpointError(f'{path} is not a model card: expected an object with "format", "model" and "card"')
    if content.get("format") not in READABLE_FORMATS:
        raise CheckpointError(
            f"{path} is of format {content.get('format')!r}; this version reads "
            f"{' and '.join(map(str, READABLE_FORMATS))}"
        )
    try:
        return ModelConfig.from_json(content["model"]), ModelCard(**content["card"])
    except (OptionError, TypeError) as error:  # TypeError: a field of the card that is missing or unknown
        raise CheckpointError(f"{path} is not a model card of this version: {error}") from error


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


class FoundCheckpoint(NamedTuple):
    """A checkpoint directory, and why it was chosen, for a message: "the best of the run"; empty if it was given."""

    directory: Path
    why: str

    def __str__(self) -> str:
        return f"{self.directory} ({self.why})" if self.why else str(self.directory)


def find_checkpoint(path: str | Path) -> FoundCheckpoint:
    """Find the checkpoint at a path.

    A directory with `model.json` is a checkpoint itself. In a run directory it is `checkpoints/NAME`, where NAME is the
    text in the file `checkpoints/best`; without that file, the newest `checkpoints/step-*`.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    path = Path(path)
    if (path / CARD_FILE).is_file():
        return FoundCheckpoint(path, "")
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} {'is not a directory' if path.exists() else 'does not exist'}")
    checkpoints = path / "checkpoints"
    best, why = checkpoints / "best", "the newest of the run"
    if best.is_file():
        chosen = checkpoints / best.read_text().strip()
        if (chosen / CARD_FILE).is_file():
            return FoundCheckpoint(chosen, "the best of the run")
        why = f"the newest of the run; the best, {chosen.name}, is not there"
    steps = sorted(p for p in checkpoints.glob("step-*") if (p / CARD_FILE).is_file())
    if not steps:
        raise CheckpointError(f"no checkpoint in {path}: expected {CARD_FILE}, or checkpoints/step-*/{CARD_FILE}")
    return FoundCheckpoint(steps[-1], why)


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the directory of the checkpoint at a path; see `find_checkpoint`.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    return find_checkpoint(path).directory


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
