"""A checkpoint directory: `model.safetensors` and `model.json`, which say by themselves what the model is.

`model.json` holds the architecture, the classes, the preprocessing and where the data of the run was, so that a model
can be used without the program that trained it.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mrcnn_model.config import ModelConfig
from mrcnn_model.mask_rcnn import COMPILED_OPS, DetectionOps, MaskRCNN, build_model

WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "model.json"
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that is missing, torn or of another shape; the message names it."""


@dataclass
class ModelCard:
    """What a model needs around its weights.

    Attributes:
        class_names: of the contiguous classes 1..C-1.
        category_ids: of the same classes, as in the annotation file.
        short_edge, max_size: to which an image is resized before detection, pixels.
        buckets: the canvases (h, w) it is padded to.
        data_root, train_split, val_split: where the data of the run was, in the layout ROOT/annotations, ROOT/SPLIT.
        annotations, images: validation file and folder, where they were given explicitly.
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
    """Write a model into a directory, which is made if it is missing.

    The weights come first and `model.json` last, so a directory with `model.json` is complete.

    Raises:
        ValueError: the card's classes contradict the model's.
    """
    if len(card.class_names) != model.config.num_classes - 1 or len(card.category_ids) != len(card.class_names):
        raise ValueError(
            f"the card names {len(card.class_names)} classes and {len(card.category_ids)} category ids; "
            f"the model has {model.config.num_classes - 1}"
        )
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {variable_key(v): np.ascontiguousarray(v.numpy()) for v in model.variables}
    save_file(arrays, directory / WEIGHTS_FILE)
    content = {"format": FORMAT, "model": dataclasses.asdict(model.config), "card": dataclasses.asdict(card)}
    (directory / CARD_FILE).write_text(json.dumps(content, indent=1))


def load_model(
    path: str | Path, *, precision: str = "float32", ops: DetectionOps = COMPILED_OPS
) -> tuple[MaskRCNN, ModelCard]:
    """Read a model from a checkpoint directory or from a run directory (see `resolve_checkpoint`).

    Args:
        precision, ops: see `build_model`.

    Raises:
        CheckpointError: nothing there, or not a complete checkpoint.
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
        assign(variable, arrays[key], source=f"{directory / WEIGHTS_FILE}: {key}")
    return model, card


def read_card(directory: Path) -> tuple[ModelConfig, ModelCard]:
    """Read `model.json` of a checkpoint directory.

    Raises:
        CheckpointError: it is missing, is not JSON, or is of another version.
    """
    path = Path(directory) / CARD_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise CheckpointError(f"{path} is of format {content['format']}; this version reads format {FORMAT}")
        return ModelConfig(**content["model"]), ModelCard(**content["card"])
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: not a checkpoint directory") from None
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a model card: {type(error).__name__}: {error}") from error


def read_weights(directory: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a checkpoint directory by key.

    Raises:
        CheckpointError: the file is missing or torn.
    """
    path = Path(directory) / WEIGHTS_FILE
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def resolve_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint that a path means.

    A directory with `model.json` is one. A run directory means `checkpoints/NAME`, where the text file
    `checkpoints/best` holds NAME, else the newest `checkpoints/step-*`.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if (path / CARD_FILE).is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} {'is not a directory' if path.exists() else 'does not exist'}")
    checkpoints = path / "checkpoints"
    best = checkpoints / "best"
    if best.is_file():
        chosen = checkpoints / best.read_text().strip()
        if (chosen / CARD_FILE).is_file():
            return chosen
    steps = sorted(p for p in checkpoints.glob("step-*") if (p / CARD_FILE).is_file())
    if not steps:
        raise CheckpointError(f"no checkpoint in {path}: expected {CARD_FILE}, or checkpoints/step-*/{CARD_FILE}")
    return steps[-1]


def variable_key(variable: keras.Variable) -> str:
    """The name of a variable in a checkpoint: "backbone.stage1.block0.conv1.kernel"."""
    return str(variable.path).replace("/", ".")


def assign(variable: keras.Variable, array: np.ndarray, *, source: str) -> None:
    """Fill a variable.

    Raises:
        CheckpointError: the shapes differ; the message names `source`.
    """
    if tuple(variable.shape) != array.shape:
        raise CheckpointError(f"{source} has shape {array.shape}; the model expects {tuple(variable.shape)}")
    variable.assign(array)
