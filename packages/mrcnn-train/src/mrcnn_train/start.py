"""The state that training starts from: fresh weights, given weights, or a checkpoint of the run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from mrcnn_data import CocoDataset
from mrcnn_model import (
    CheckpointError,
    MaskRCNN,
    ModelCard,
    WeightsReport,
    build_model,
    read_card,
    resolve_checkpoint,
)
from mrcnn_train.checkpoint import complete_checkpoints, read_state, restore_checkpoint
from mrcnn_train.config import RunConfig, eval_sizes, model_config
from mrcnn_train.data import eval_buckets, require_same_classes
from mrcnn_train.errors import ConfigError
from mrcnn_train.initial_weights import fill_from
from mrcnn_train.optimizer import Sgd


class Trainer(NamedTuple):
    """What training changes, and where it stands."""

    model: MaskRCNN
    card: ModelCard
    optimizer: Sgd
    start_step: int  # updates done before
    elapsed_seconds: float  # of earlier parts of the run
    weights_report: WeightsReport | None = None  # of the file that a new run starts from


def prepare(config: RunConfig, *, train: CocoDataset, val: CocoDataset | None) -> Trainer:
    """Build model and optimizer and fill them.

    Raises:
        ConfigError: weights or checkpoint are missing, torn, or of another model or other classes.
    """
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = build_model(model_config(config.model, num_classes=train.num_classes))
    options = config.optimizer
    optimizer = Sgd(
        model.trainable_variables,
        decayed=model.decayed_variables,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
    )
    card = make_card(config, train, val)
    report = None
    try:
        if config.resume is not None:
            return _resume(Path(config.resume), model, optimizer, card)
        if config.model.weights is not None:
            report = _load_initial_weights(Path(config.model.weights), model, card)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    return Trainer(model, card, optimizer, start_step=0, elapsed_seconds=0.0, weights_report=report)


def make_card(config: RunConfig, train: CocoDataset, val: CocoDataset | None) -> ModelCard:
    """What a checkpoint says of classes, preprocessing and data."""
    data = config.data
    short_edge, max_size = eval_sizes(data)
    is_explicit = val is not None and data.val_annotations is not None
    return ModelCard(
        class_names=list(train.class_names),
        category_ids=list(train.category_ids),
        short_edge=short_edge,
        max_size=max_size,
        buckets=[list(bucket) for bucket in eval_buckets(data)],
        data_root=data.root,
        train_split=data.train,
        val_split=None if is_explicit else data.val,
        annotations=data.val_annotations,
        images=data.val_images,
    )


def _resume(run_dir: Path, model: MaskRCNN, optimizer: Sgd, card: ModelCard) -> Trainer:
    checkpoints = complete_checkpoints(run_dir / "checkpoints")
    if not checkpoints:
        raise ConfigError(f"resume={run_dir}: no complete checkpoint in {run_dir / 'checkpoints'}")
    newest = checkpoints[-1]
    _require_classes_of(newest, card, option=f"resume={run_dir}")
    restore_checkpoint(newest, model=model, optimizer=optimizer)
    state = read_state(newest)
    print(f"{'resumed from:':17} {newest}", flush=True)
    return Trainer(model, card, optimizer, start_step=state.step, elapsed_seconds=state.elapsed_seconds)


def _load_initial_weights(path: Path, model: MaskRCNN, card: ModelCard) -> WeightsReport:
    if path.is_dir():
        _require_classes_of(resolve_checkpoint(path), card, option=f"model.weights={path}")
    return fill_from(path, model)


def _require_classes_of(checkpoint: Path, card: ModelCard, *, option: str) -> None:
    _, theirs = read_card(checkpoint)
    require_same_classes(
        (theirs.category_ids, theirs.class_names),
        (card.category_ids, card.class_names),
        where=f"{option}: the checkpoint {checkpoint.name}",
        reference="the training data",
    )
