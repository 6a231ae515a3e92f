"""The plan of a run in numbers: computed before TensorFlow is imported, printed before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mrcnn_data import CocoDataset, visible
from mrcnn_train.config.options import OptimizerOptions, RunConfig
from mrcnn_train.config.schedule import Schedule, evaluation_steps, learning_rate, make_schedule, steps_of_epochs
from mrcnn_train.config.values import Bucket

CLASSES_SHOWN = 8
NOT_PLANNED = 2**62  # steps of a run with a time budget, before its first steps are measured


class Plan(NamedTuple):
    """The numbers of a run.

    Attributes:
        num_images: images of an epoch.
        processes: number of processes.
        global_batch: images of a step.
        micro_batches: forward and backward passes of each process in a step.
        steps_per_epoch: a fraction if an epoch ends within a step.
        total_steps: updates of the whole run.
        schedule: of the learning rate.
        evaluate_steps: updates after which the run evaluates, in place of epochs; at the end it always does.
    """

    num_images: int
    processes: int
    global_batch: int
    micro_batches: int
    steps_per_epoch: float
    total_steps: int
    schedule: Schedule
    evaluate_steps: tuple[int, ...] = ()


def make_plan(config: RunConfig, *, num_images: int, processes: int = 1) -> Plan:
    """Compute the numbers for a data set of `num_images` images and a job of `processes` processes.

    With `train.minutes` the steps are not known yet: the rate stays at its start, and nothing is evaluated.
    """
    train, optimizer = config.train, config.optimizer

    def to_steps(epochs: float) -> int:
        return steps_of_epochs(epochs, num_images=num_images, global_batch=train.global_batch)

    drops: list[int] = []
    if train.minutes is not None:
        total_steps = NOT_PLANNED
    else:
        ends = [train.max_steps] if train.max_steps is not None else []
        total_steps = min(ends + ([to_steps(train.epochs)] if train.epochs is not None else []))
        drops += [to_steps(epoch) for epoch in optimizer.drop_epochs]
        drops += [round(share * total_steps) for share in optimizer.drop_fractions]
    share = optimizer.warmup_fraction
    longest = [int(share * total_steps)] if share is not None else []
    schedule = make_schedule(
        base_lr=optimizer.base_lr,
        global_batch=train.global_batch,
        warmup_steps=min([optimizer.warmup_steps, *longest]),
        warmup_start_lr=optimizer.warmup_start_lr,
        drop_steps=drops,
        drop_factor=optimizer.drop_factor,
        cosine_end=total_steps if optimizer.decay == "cosine" else None,
        epoch_steps=num_images / train.global_batch if optimizer.rate_per == "epoch" else None,
    )
    if train.minutes is not None and optimizer.warmup_steps:
        schedule = schedule._replace(warmup_begin=NOT_PLANNED, warmup_steps=NOT_PLANNED + 1)
    times = config.eval.times if config.eval.every_epochs is None else None
    return Plan(
        num_images=num_images,
        processes=processes,
        global_batch=train.global_batch,
        micro_batches=train.global_batch // train.images_per_gpu // processes,
        steps_per_epoch=num_images / train.global_batch,
        total_steps=total_steps,
        schedule=schedule,
        evaluate_steps=evaluation_steps(total_steps, times) if times and train.minutes is None else (),
    )


def describe_plan(
    config: RunConfig, plan: Plan, *, train: CocoDataset, val: Sequence[CocoDataset], buckets: Sequence[Bucket]
) -> str:
    """Write the plan as lines of `what: numbers`."""
    lines = {
        "experiment": str(config.run.name),
        "training data": _describe_training(plan, train),
        "validation data": ", ".join(f"{one.name}: {len(one)} images" for one in val) or "none",
        "classes": _describe_classes(train),
        "processes": str(plan.processes),
        "batch": _describe_batch(plan, images_per_gpu=config.train.images_per_gpu),
        "batch shapes": ", ".join(f"{height} x {width}" for height, width in buckets),
        "steps": _describe_steps(config, plan),
        "optimizer": _describe_optimizer(config.optimizer),
        "learning rate": describe_rates(plan.schedule, plan.total_steps),
        "weights": f"of {config.resume}, which continues from its last checkpoint"
        if config.resume
        else str(config.model.weights or "none, training from scratch"),
    }
    return "\n".join(plan_line(what, text) for what, text in lines.items())


def plan_line(what: str, text: str) -> str:
    """Write one line of a plan."""
    return f"{what + ':':17} {visible(text, limit=2000)}"


def _describe_training(plan: Plan, train: CocoDataset) -> str:
    left_out = len(train) - plan.num_images
    images = f"{plan.num_images} images" + (f" ({left_out} without objects left out)" if left_out else "")
    return f"{train.name}: {images}, {int(train.num_objects().sum())} objects"


def _describe_steps(config: RunConfig, plan: Plan) -> str:
    if config.train.minutes is not None:
        return (
            f"as many as fit into {config.train.minutes:g} minutes with their evaluations (train.minutes), planned "
            f"when the first have been measured; {plan.steps_per_epoch:.2f} steps an epoch"
        )
    epochs = plan.total_steps / plan.steps_per_epoch
    return f"{plan.total_steps} = {epochs:.2f} epochs of {plan.steps_per_epoch:.2f} steps"


def _describe_classes(train: CocoDataset) -> str:
    more = ", ..." if len(train.class_names) > CLASSES_SHOWN else ""
    return f"{train.num_classes - 1}: {', '.join(train.class_names[:CLASSES_SHOWN])}{more}"


def _describe_batch(plan: Plan, *, images_per_gpu: int) -> str:
    processes = f"{plan.processes} processes x " if plan.processes > 1 else ""
    accumulated = " (gradients accumulated)" if plan.micro_batches > 1 else ""
    return f"{plan.global_batch} images a step = {processes}{plan.micro_batches} x {images_per_gpu}{accumulated}"


def describe_rates(schedule: Schedule, total_steps: int) -> str:
    """Describe the rate at the start, after warm-up, and after each drop that the run reaches."""
    if total_steps == NOT_PLANNED:
        start = learning_rate(0, schedule)
        return f"{start:.6g} until the steps are planned, then a warm-up to {schedule.peak:.6g}"
    text = f"{learning_rate(0, schedule):.6g} at step 0"
    if schedule.warmup_steps >= total_steps:
        ends_of_rises = [total_steps - 1, *(step - 1 for step in schedule.drop_steps if 0 < step < total_steps)]
        highest = max(ends_of_rises, key=lambda step: learning_rate(step, schedule))
        return (
            f"{text}, at most {learning_rate(highest, schedule):.6g} at step {highest}, of a full rate of "
            f"{schedule.peak:.6g}: the warm-up (optimizer.warmup_steps={schedule.warmup_steps}) is longer than the run"
        )
    text += f", {learning_rate(schedule.warmup_steps, schedule):.6g} from step {schedule.warmup_steps}"
    if schedule.cosine_end is not None:
        text += f", along a cosine to 0 at step {schedule.cosine_end}"
    for step in schedule.drop_steps:
        if schedule.warmup_steps < step < total_steps:
            text += f", {learning_rate(step, schedule):.6g} from step {step}"
    behind = [str(step) for step in schedule.drop_steps if step >= total_steps]
    if behind:
        text += f"; the run ends before the drop at step {', '.join(behind)}"
    return text + (", changing only when an epoch begins" if schedule.epoch_steps is not None else "")


def _describe_optimizer(options: OptimizerOptions) -> str:
    clip = f", gradients clipped at norm {options.clip_norm:g}" if options.clip_norm is not None else ""
    average = f", weights averaged with decay {options.ema_decay:g}" if options.ema_decay is not None else ""
    return f"{options.name}{clip}{average}"
