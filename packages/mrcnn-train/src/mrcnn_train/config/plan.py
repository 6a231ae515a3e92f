"""What a run is going to do, in numbers: known before TensorFlow is loaded, printed before the first step."""

from __future__ import annotations

from typing import NamedTuple

from mrcnn_data import CocoDataset
from mrcnn_train.config.options import RunConfig
from mrcnn_train.config.schedule import Schedule, learning_rate, make_schedule, steps_of_epochs


class Plan(NamedTuple):
    """Counts of a run.

    Attributes:
        num_images: images of an epoch.
        processes: that share a step.
        micro_batches: forward and backward passes of a step, of each process.
        steps_per_epoch: may be fractional, as epochs end within a step.
        total_steps: updates of the whole run.
        schedule: learning rate.
    """

    num_images: int
    processes: int
    global_batch: int
    micro_batches: int
    steps_per_epoch: float
    total_steps: int
    schedule: Schedule


def make_plan(config: RunConfig, *, num_images: int, processes: int = 1) -> Plan:
    """Work out the numbers for a data set of so many images and a job of so many processes, which divide a step."""
    train, optimizer = config.train, config.optimizer

    def to_steps(epochs: float) -> int:
        return steps_of_epochs(epochs, num_images=num_images, global_batch=train.global_batch)

    ends = [train.max_steps] if train.max_steps is not None else []
    if train.epochs is not None:
        ends.append(to_steps(train.epochs))
    total_steps = min(ends)
    drops = [to_steps(epoch) for epoch in optimizer.drop_epochs]
    drops += [round(share * total_steps) for share in optimizer.drop_fractions]
    return Plan(
        num_images=num_images,
        processes=processes,
        global_batch=train.global_batch,
        micro_batches=train.global_batch // train.images_per_gpu // processes,
        steps_per_epoch=num_images / train.global_batch,
        total_steps=total_steps,
        schedule=make_schedule(
            base_lr=optimizer.base_lr,
            global_batch=train.global_batch,
            warmup_steps=optimizer.warmup_steps,
            warmup_start_lr=optimizer.warmup_start_lr,
            drop_steps=drops,
            drop_factor=optimizer.drop_factor,
            cosine_end=total_steps if optimizer.decay == "cosine" else None,
            epoch_steps=num_images / train.global_batch if optimizer.rate_per == "epoch" else None,
        ),
    )


def describe_plan(
    config: RunConfig, plan: Plan, *, train: CocoDataset, val: CocoDataset | None, canvases: list[tuple[int, int]]
) -> str:
    """Lay the plan out as lines of `what: numbers`."""
    schedule = plan.schedule
    left_out = len(train) - plan.num_images
    shown = ", ".join(train.class_names[:8]) + (", ..." if len(train.class_names) > 8 else "")
    lines = {
        "experiment": str(config.run.name),
        "training data": f"{train.name}: {plan.num_images} images"
        + (f" ({left_out} without objects left out)" if left_out else "")
        + f", {int(train.num_objects().sum())} objects",
        "validation data": "none" if val is None else f"{val.name}: {len(val)} images",
        "classes": f"{train.num_classes - 1}: {shown}",
        "processes": str(plan.processes),
        "batch": f"{plan.global_batch} images a step = "
        + (f"{plan.processes} processes x " if plan.processes > 1 else "")
        + f"{plan.micro_batches} x {config.train.images_per_gpu}"
        + (" (gradients accumulated)" if plan.micro_batches > 1 else ""),
        "batch shapes": ", ".join(f"{height} x {width}" for height, width in canvases),
        "steps": f"{plan.total_steps} = {plan.total_steps / plan.steps_per_epoch:.2f} epochs"
        f" of {plan.steps_per_epoch:.2f} steps",
        "optimizer": _describe_optimizer(config),
        "learning rate": describe_rates(schedule, plan.total_steps),
        "weights": f"of {config.resume}, which goes on where it stopped"
        if config.resume
        else str(config.model.weights or "none, from scratch"),
    }
    return "\n".join(f"{what + ':':17} {text}" for what, text in lines.items())


def describe_rates(schedule: Schedule, total_steps: int) -> str:
    """Say what the rate is at the start, after warm-up, and from each drop on that the run lives to see."""
    text = f"{learning_rate(0, schedule):.6g} at step 0"
    if schedule.warmup_steps >= total_steps:
        last = learning_rate(total_steps - 1, schedule)
        return (
            f"{text}, {last:.6g} at the last: the warm-up is longer than the run "
            f"(optimizer.warmup_steps={schedule.warmup_steps})"
        )
    text += f", {learning_rate(schedule.warmup_steps, schedule):.6g} from step {schedule.warmup_steps}"
    if schedule.cosine_end is not None:
        text += f", along a cosine to 0 at step {schedule.cosine_end}"
    for step in schedule.drop_steps:
        if schedule.warmup_steps < step < total_steps:
            text += f", {learning_rate(step, schedule):.6g} from step {step}"
    behind = [str(step) for step in schedule.drop_steps if step >= total_steps]
    if behind:
        text += f"; the run ends before it drops at step {', '.join(behind)}"
    return text + (", changing where epochs begin" if schedule.epoch_steps is not None else "")


def _describe_optimizer(config: RunConfig) -> str:
    options = config.optimizer
    clip = f", gradients clipped at norm {options.clip_norm:g}" if options.clip_norm is not None else ""
    average = f", weights averaged with decay {options.ema_decay:g}" if options.ema_decay is not None else ""
    return f"{options.name}{clip}{average}, {config.precision}"
