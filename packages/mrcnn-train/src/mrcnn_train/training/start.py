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
from mrcnn_train.config.options import OptimizerOptions, RunConfig, eval_sizes, model_config
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.devices import use_own_gpu
from mrcnn_train.job.distributed import Processes
from mrcnn_train.training.checkpoint import CHECKPOINTS_DIR, complete_checkpoints, read_state, restore_checkpoint
from mrcnn_train.training.data import eval_buckets, require_same_classes
from mrcnn_train.training.initial_weights import fill_from
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.optimizer import Lars, NovoGrad, Optimizer, Rule, Sgd


class Trainer(NamedTuple):
    """What training changes, and where it stands."""

    model: MaskRCNN
    card: ModelCard
    optimizer: Optimizer
    loss_scale: LossScale | None  # of float16 only
    start_step: int = 0  # updates done before
    elapsed_seconds: float = 0.0  # of earlier parts of the run
    weights_report: WeightsReport | None = None  # of the file that a new run starts from


def prepare(config: RunConfig, *, train: CocoDataset, val: CocoDataset | None, processes: Processes) -> Trainer:
    """Build model and optimizer; rank 0 fills them, and `share` tells the others.

    Raises:
        ConfigError: weights or checkpoint are missing, torn, or of another model or other classes.
    """
    if processes.size == 1:
        use_own_gpu(processes.place)  # of many, each has taken its own before they met
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = build_model(
        model_config(config.model, num_classes=train.num_classes),
        precision=config.precision,
        mean_over_processes=processes.mean_in_order,
    )
    trainer = Trainer(
        model=model,
        card=make_card(config, train, val),
        optimizer=make_optimizer(model, config.optimizer),
        loss_scale=LossScale() if config.precision == "mixed_float16" else None,
    )
    if processes.rank == 0:
        trainer = _fill(config, trainer)
    return trainer


def share(trainer: Trainer, processes: Processes) -> Trainer:
    """Make every process stand where rank 0 stands."""
    variables = [v.value for v in trainer.model.variables]
    variables += [variable for of_slot in trainer.optimizer.slots.values() for variable in of_slot]
    if trainer.loss_scale is not None:
        variables += trainer.loss_scale.variables.values()
    processes.broadcast_variables(variables)
    start_step, elapsed_seconds = processes.broadcast((trainer.start_step, trainer.elapsed_seconds))
    return trainer._replace(start_step=start_step, elapsed_seconds=elapsed_seconds)


def make_rule(options: OptimizerOptions) -> Rule:
    """Make the rule that `optimizer.name` names."""
    if options.name == "lars":
        return Lars(momentum=options.momentum, trust=options.lars_trust)
    if options.name == "novograd":
        return NovoGrad(beta_1=options.momentum, beta_2=options.novograd_beta_2)
    return Sgd(momentum=options.momentum)


def make_optimizer(model: MaskRCNN, options: OptimizerOptions) -> Optimizer:
    """Make the optimizer of a model; its variables have to exist."""
    return Optimizer(
        model.trainable_variables,
        rule=make_rule(options),
        decayed=model.decayed_variables,
        weight_decay=options.weight_decay,
        bias_decay=options.bias_weight_decay,
        norm_decay=options.norm_weight_decay,
        bias_rate_factor=options.bias_lr_factor,
        clip_norm=options.clip_norm,
        ema_decay=options.ema_decay,
    )


def _fill(config: RunConfig, trainer: Trainer) -> Trainer:
    try:
        if config.resume is not None:
            return _resume(Path(config.resume), trainer)
        if config.model.weights is None:
            return trainer
        report = _load_initial_weights(Path(config.model.weights), trainer.model, trainer.card)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    trainer.optimizer.start_average()
    return trainer._replace(weights_report=report)


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


def _resume(run_dir: Path, trainer: Trainer) -> Trainer:
    checkpoints = complete_checkpoints(run_dir / CHECKPOINTS_DIR)
    if not checkpoints:
        raise ConfigError(f"resume={run_dir}: no complete checkpoint in {run_dir / CHECKPOINTS_DIR}")
    newest = checkpoints[-1]
    _require_classes_of(newest, trainer.card, option=f"resume={run_dir}")
    try:
        restore_checkpoint(newest, model=trainer.model, optimizer=trainer.optimizer, loss_scale=trainer.loss_scale)
        state = read_state(newest)
    except CheckpointError as error:
        older = f"; without {newest.name} the run resumes from {checkpoints[-2].name}" if checkpoints[1:] else ""
        raise ConfigError(f"{error}{older}") from error
    print(f"{'resumed from:':17} {newest}", flush=True)
    return trainer._replace(start_step=state.step, elapsed_seconds=state.elapsed_seconds)


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
