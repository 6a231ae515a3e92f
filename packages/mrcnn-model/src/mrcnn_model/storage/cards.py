"""The card of a checkpoint, `model.json`, and where the checkpoints of a run are. Without TensorFlow."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mrcnn_model.config import ModelConfig, OptionError

CARD_FILE = "model.json"
FORMAT = 2  # of model.json: the options are grouped by part; in format 1 they are flat
READABLE_FORMATS = (1, FORMAT)
MAX_CARD = 64 << 20  # bytes; a thousand classes take 50 thousand
MAX_EDGE = 1 << 16  # pixels
MAX_MESSAGE = 2000  # characters
STEP_NAME = re.compile(r"step-\d{1,18}")  # of a checkpoint folder


class CheckpointError(ValueError):
    """A checkpoint or weights file that is missing, damaged, or does not fit; the message names it."""

    def __init__(self, message: str) -> None:
        half = MAX_MESSAGE // 2
        super().__init__(message if len(message) <= MAX_MESSAGE else f"{message[:half]} ... {message[-half:]}")


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


def read_card(directory: Path) -> tuple[ModelConfig, ModelCard]:
    """Read `model.json` of a checkpoint directory.

    Raises:
        CheckpointError: it is missing, is not a model card, or is of a newer format.
    """
    path = Path(directory) / CARD_FILE
    content = _read_json(path)
    parts = [content.get(name) for name in ("model", "card")] if isinstance(content, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise CheckpointError(f'{path} is not a model card: expected an object with "format", "model" and "card"')
    if content.get("format") not in READABLE_FORMATS:
        raise CheckpointError(
            f"{path} is of format {content.get('format')!r}; this version reads "
            f"{' and '.join(map(str, READABLE_FORMATS))}"
        )
    try:
        config, card = ModelConfig.from_json(content["model"]), ModelCard(**content["card"])
    except (OptionError, TypeError) as error:  # TypeError: a field of the card that is missing or unknown
        raise CheckpointError(f"{path} is not a model card of this version: {error}") from error
    _check_card(card, num_classes=config.num_classes, path=path)
    return config, card


def _read_json(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path} is not a file: not a checkpoint directory")
        if path.stat().st_size > MAX_CARD:
            raise CheckpointError(f"{path} is not a model card: it has {path.stat().st_size} bytes")
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: not a checkpoint directory") from None
    except RecursionError:
        raise CheckpointError(f"{path} is not a model card: lists in lists in it are nested too deep") from None
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not a model card: {type(error).__name__}: {error}") from error


def _check_card(card: ModelCard, *, num_classes: int, path: Path) -> None:
    """Require fields of the right types that fit the model."""
    for name, holds, expected in (
        ("class_names", _all(_is_text), "a list of texts"),
        ("category_ids", _all(_is_whole), "a list of whole numbers"),
        ("short_edge", _is_edge, f"a number of pixels from 1 to {MAX_EDGE}"),
        ("max_size", _is_edge, f"a number of pixels from 1 to {MAX_EDGE}"),
        ("buckets", _are_buckets, "a list of [height, width], pixels"),
        *((name, _is_text_or_none, "text or null") for name in _PLACES),
    ):
        value = getattr(card, name)
        if not holds(value):
            raise CheckpointError(f"{path}: card.{name} is {_short(value)}; expected {expected}")
    for name, values in (("class names", card.class_names), ("category ids", card.category_ids)):
        if len(values) != num_classes - 1:
            raise CheckpointError(f"{path}: the card has {len(values)} {name}, the model {num_classes - 1} classes")
    if len(set(card.category_ids)) < len(card.category_ids):
        raise CheckpointError(f"{path}: the card has the same category id twice")


_PLACES = ("data_root", "train_split", "val_split", "annotations", "images")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _all(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: isinstance(values, list) and all(map(holds, values))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_edge(value: Any) -> bool:
    return _is_whole(value) and 1 <= value <= MAX_EDGE


def _are_buckets(value: Any) -> bool:
    pairs = isinstance(value, list) and len(value) > 0 and all(isinstance(pair, list) for pair in value)
    return pairs and all(len(pair) == 2 and all(map(_is_edge, pair)) for pair in value)


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
        CheckpointError: there is no checkpoint, or the file `best` is damaged.
    """
    path = Path(path)
    if (path / CARD_FILE).is_file():
        return FoundCheckpoint(path, "")
    if not path.is_dir():
        raise CheckpointError(f"checkpoint {path} {'is not a directory' if path.exists() else 'does not exist'}")
    checkpoints = path / "checkpoints"
    best, why = read_best(checkpoints), "the newest of the run"
    if best is not None:
        chosen = checkpoints / best
        if (chosen / CARD_FILE).is_file():
            return FoundCheckpoint(chosen, "the best of the run")
        why = f"the newest of the run; the best, {chosen.name}, is not there"
    steps = sorted(p for p in checkpoints.glob("step-*") if (p / CARD_FILE).is_file())
    if not steps:
        raise CheckpointError(f"no checkpoint in {path}: expected {CARD_FILE}, or checkpoints/step-*/{CARD_FILE}")
    return FoundCheckpoint(steps[-1], why)


def read_best(checkpoints: Path) -> str | None:
    """Return the name of the checkpoint folder in the file `best`; None if there is no such file.

    Raises:
        CheckpointError: the file contains something else.
    """
    path = checkpoints / "best"
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            name = file.read(100).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    if STEP_NAME.fullmatch(name) is None:
        raise CheckpointError(
            f"{path} does not contain the name of a checkpoint, such as step-00000100: without this file, the newest "
            "checkpoint is taken"
        )
    return name


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the directory of the checkpoint at a path; see `find_checkpoint`.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    return find_checkpoint(path).directory
