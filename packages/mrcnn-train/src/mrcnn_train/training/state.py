"""The state of training: model, optimizer and position, from random or given weights or a checkpoint of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mrcnn_data import CocoDataset, visible
from mrcnn_model import (
    CheckpointError,
    MaskRCNN,
    ModelCard,
    WeightsReport,
    build_model,
    read_card,
    resolve_checkpoint,
)
from mrcnn_train.config.going_on import CHECKPOINTS_DIR, complete_checkpoints
from mrcnn_train.config.options import DataOptions, OptimizerOptions, RunConfig
from mrcnn_train.config.position import damaged, newest_position
from mrcnn_train.config.values import as_list, eval_buckets, eval_sizes, model_config
from mrcnn_train.errors import ConfigError
from mrcnn_train.job.distributed import Processes
from mrcnn_train.training.checkpoint import restore_checkpoint
from mrcnn_train.training.datasets import require_same_classes
from mrcnn_train.training.fingerprint import Fingerprint, fingerprint, require_same_data
from mrcnn_train.training.initial_weights import fill_from
from mrcnn_train.training.loss_scale import LossScale
from mrcnn_train.training.optimizer import Lars, NovoGrad, Optimizer, Rule, Sgd


class TrainingState(NamedTuple):
    """What training changes, and what its checkpoints describe.

    Attributes:
        model, optimizer: with their variables.
        card: describes the model in a checkpoint.
        loss_scale: for float16; else None.
        data: fingerprint of the training data, on rank 0.
        start_step: number of updates done before this launch.
        elapsed_seconds: time of the run before this launch.
        budget_seconds: of it, those that count for `train.minutes`.
        weights_report: how the given weights fit the model; None without given weights.
    """

    model: MaskRCNN
    card: ModelCard
    optimizer: Optimizer
    loss_scale: LossScale | None
    data: Fingerprint | None
    start_step: int = 0
    elapsed_seconds: float = 0.0
    budget_seconds: float = 0.0
    weights_report: WeightsReport | None = None


def prepare(config: RunConfig, train: CocoDataset, processes: Processes) -> TrainingState:
    """Build model and optimizer. Rank 0 fills them; `share` sends its values to the others.

    Raises:
        ConfigError: weights or checkpoint are missing or incomplete, or belong to another model or other classes.
    """
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = build_model(
        model_config(config.model, num_classes=train.num_classes),
        precision=config.precision,
        mean_over_processes=processes.mean_in_order,
    )
    state = TrainingState(
        model=model,
        card=make_card(config.data, train),
        optimizer=make_optimizer(model, config.optimizer),
        loss_scale=LossScale() if config.precision == "mixed_float16" else None,
        data=fingerprint(train) if processes.rank == 0 else None,
    )
    return _filled(config, state) if processes.rank == 0 else state


def share(state: TrainingState, processes: Processes) -> TrainingState:
    """Give every process the variables and the position of rank 0."""
    variables = [v.value for v in state.model.variables]
    variables += [variable for of_slot in state.optimizer.slots.values() for variable in of_slot]
    if state.loss_scale is not None:
        variables += state.loss_scale.variables.values()
    processes.broadcast_variables(variables)
    names = ("start_step", "elapsed_seconds", "budget_seconds")
    return state._replace(**processes.broadcast({name: getattr(state, name) for name in names}))


def make_rule(options: OptimizerOptions) -> Rule:
    """Make the rule that `optimizer.name` names."""
    if options.name == "lars":
        return Lars(momentum=options.momentum)
    if options.name == "novograd":
        return NovoGrad(beta_1=options.momentum)
    return Sgd(momentum=options.momentum)


def make_optimizer(model: MaskRCNN, options: OptimizerOptions) -> Optimizer:
    """Make the optimizer of a model whose variables exist."""
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


def make_card(data: DataOptions, train: CocoDataset) -> ModelCard:
    """Describe classes, preprocessing and data for the checkpoints. It names the first of several validation sets."""
    short_edge, max_size = eval_sizes(data)
    files, folders, splits = (as_list(value) for value in (data.val_annotations, data.val_images, data.val))
    return ModelCard(
        class_names=list(train.class_names),
        category_ids=list(train.category_ids),
        short_edge=short_edge,
        max_size=max_size,
        buckets=[list(bucket) for bucket in eval_buckets(data)],
        data_root=data.root,
        train_split=", ".join(as_list(data.train)) or None,
        val_split=splits[0] if splits and not files else None,
        annotations=files[0] if files else None,
        images=folders[0] if files else None,
    )


def _filled(config: RunConfig, state: TrainingState) -> TrainingState:
    try:
        if config.resume is not None:
            return _resumed(Path(config.resume), state, accept_changes=config.data.changed == "accept")
        if config.model.weights is None:
            return state
        report = _load_initial_weights(config.model, state)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    state.optimizer.start_average()
    return state._replace(weights_report=report)


def _resumed(run_dir: Path, state: TrainingState, *, accept_changes: bool) -> TrainingState:
    newest, saved = newest_position(run_dir)
    option = f"resume={run_dir}"
    _require_classes_of(newest, state.card, option=option)
    try:
        restore_checkpoint(newest, model=state.model, optimizer=state.optimizer, loss_scale=state.loss_scale)
    except CheckpointError as error:
        raise damaged(error, complete_checkpoints(run_dir / CHECKPOINTS_DIR)) from error
    assert state.data is not None
    require_same_data(saved.data, state.data, accept=accept_changes, option=option)
    print(f"{'resumed from:':17} {visible(newest, limit=2000)}", flush=True)
    return state._replace(
        start_step=saved.step, elapsed_seconds=saved.elapsed_seconds, budget_seconds=saved.budget_seconds
    )


def _load_initial_weights(options: Any, state: TrainingState) -> WeightsReport:
    path = Path(options.weights)
    if path.is_dir() and not options.new_classes:
        cure = ": model.new_classes=true starts the layers over classes fresh and keeps the rest"
        _require_classes_of(resolve_checkpoint(path), state.card, option=f"model.weights={path}", cure=cure)
    return fill_from(path, state.model, new_classes=options.new_classes, allow_missing=options.allow_missing)


def _require_classes_of(checkpoint: Path, card: ModelCard, *, option: str, cure: str = "") -> None:
    _, theirs = read_card(checkpoint)
    require_same_classes(
        (theirs.category_ids, theirs.class_names),
        (card.category_ids, card.class_names),
        where=f"{option}: the checkpoint {checkpoint.name}",
        reference="the training data",
        cure=cure,
    )
