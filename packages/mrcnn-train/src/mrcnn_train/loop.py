"""The training loop, from the first step to the last picture."""

from __future__ import annotations

import time
from pathlib import Path

from mrcnn_data import CocoDataset, TrainLoader
from mrcnn_eval import EvalResult
from mrcnn_train.config import RunConfig
from mrcnn_train.evaluation import Evaluation
from mrcnn_train.plan import Plan
from mrcnn_train.progress import ProgressDisplay
from mrcnn_train.record import RunRecord
from mrcnn_train.schedule import crosses, learning_rate
from mrcnn_train.signals import StopRequested, StopSignals
from mrcnn_train.start import Trainer
from mrcnn_train.step import TrainStep
from mrcnn_train.window import Window


def train_loop(
    config: RunConfig,
    plan: Plan,
    loader: TrainLoader,
    *,
    trainer: Trainer,
    val: CocoDataset | None,
    run_dir: Path,
    stop: StopSignals,
) -> int:
    """Train from `trainer.start_step` to the end of the plan, then evaluate.

    Returns:
        The exit code: 0, or that of the signal that ended the run, after a checkpoint.

    Raises:
        DivergedError: a loss is not finite. DatasetError: an image cannot be read.
    """
    record = RunRecord(
        run_dir,
        trainer,
        seed=config.train.seed,
        global_batch=plan.global_batch,
        keep_last=config.checkpoint.keep_last,
    )
    display = ProgressDisplay(total_steps=plan.total_steps, start_step=trainer.start_step)
    evaluation = None
    if val is not None:
        evaluation = Evaluation(trainer.model, val, trainer.card, config.eval, on_error=config.data.on_error)
    try:
        with display:
            _train(config, plan, loader, trainer, record=record, display=display, evaluation=evaluation, stop=stop)
            if evaluation is not None and not record.is_evaluated(plan.total_steps):
                result = _evaluate(record, evaluation, plan.total_steps, loader=loader, display=display, stop=stop)
                display.tables(result)
    except StopRequested:
        print(f"Stopped by signal {stop.received}. resume={run_dir} continues the run.", flush=True)
        return stop.exit_code
    finally:
        record.close()
        for what, count in sorted(loader.left_out.items()):
            print(f"left out of the training batches: {count} {what}", flush=True)
        for name, count in sorted(loader.skipped.items()):
            print(f"skipped in training, cannot be read: {name} ({count} x)", flush=True)
    best = record.best
    if best is not None:
        print(f"best: box AP {best['box_AP']:.3f}, mask AP {best['mask_AP']:.3f} at step {best['step']}")
    print(record.contents(), flush=True)
    return 0


def _train(
    config: RunConfig,
    plan: Plan,
    loader: TrainLoader,
    trainer: Trainer,
    *,
    record: RunRecord,
    display: ProgressDisplay,
    evaluation: Evaluation | None,
    stop: StopSignals,
) -> None:
    """Run the steps. Raises StopRequested, after a checkpoint, when a signal came."""
    update = TrainStep(trainer.model, trainer.optimizer, micro_batches=plan.micro_batches)
    batches_of_steps = loader.steps(trainer.start_step)
    window = Window()
    if evaluation is not None and _lacks_evaluation(config, plan, loader, trainer, record=record):
        _evaluate(record, evaluation, trainer.start_step, loader=loader, display=display, stop=stop)
    for step in range(trainer.start_step, plan.total_steps):
        asked = time.perf_counter()
        batches = next(batches_of_steps)
        window.data_wait += time.perf_counter() - asked
        rate = learning_rate(step, plan.schedule)
        metrics = update(batches, rate)
        done = step + 1  # from here on: number of updates
        image_ids = [image_id for batch in batches for image_id in batch.image_ids]
        window.add(done, metrics, learning_rate=rate, image_ids=image_ids)

        is_first, is_last = step == trainer.start_step, done == plan.total_steps
        before, after = loader.epoch_of(step), loader.epoch_of(done)
        evaluates = evaluation is not None and not is_last and crosses(config.eval.every_epochs, before, after)
        saves = (
            is_last
            or evaluates
            or stop.received is not None
            or crosses(config.checkpoint.every_epochs, before, after)
            or (config.checkpoint.every_steps is not None and done % config.checkpoint.every_steps == 0)
        )
        display.step(done)
        if saves or is_first or done % config.log.every == 0:
            # The host waits for the device here. Before a checkpoint it has to: only finite weights are saved.
            row = window.read()
            row["epoch"] = after
            record.training(done, row)
            display.log(done, row, images_per_step=plan.global_batch, is_first=is_first)
        if saves:
            record.save(done, epoch=after, learning_rate=rate)
            stop.raise_if_received()
        if evaluation is not None and evaluates:
            _evaluate(record, evaluation, done, loader=loader, display=display, stop=stop)
        if saves:
            window.restart()  # writing and evaluating are not the speed of training


def _lacks_evaluation(
    config: RunConfig, plan: Plan, loader: TrainLoader, trainer: Trainer, *, record: RunRecord
) -> bool:
    """Whether the run was stopped after the checkpoint that it resumes from, and before its evaluation."""
    start = trainer.start_step
    if not 0 < start < plan.total_steps or record.is_evaluated(start):
        return False
    return crosses(config.eval.every_epochs, loader.epoch_of(start - 1), loader.epoch_of(start))


def _evaluate(
    record: RunRecord,
    evaluation: Evaluation,
    step: int,
    *,
    loader: TrainLoader,
    display: ProgressDisplay,
    stop: StopSignals,
) -> EvalResult:
    """Evaluate the saved weights. Raises StopRequested when a signal came in between."""

    def progress(done: int, total: int) -> None:
        stop.raise_if_received()
        display.evaluating(done, total)

    result = record.evaluate(evaluation, step, epoch=loader.epoch_of(step), progress=progress)
    display.evaluated(step, result)
    return result
