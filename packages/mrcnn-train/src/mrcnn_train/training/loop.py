"""The training loop, from the first step to the last picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from mrcnn_data import CocoDataset, TrainLoader
from mrcnn_train.config.options import RunConfig, StopOptions
from mrcnn_train.config.plan import Plan
from mrcnn_train.config.schedule import crosses, learning_rate
from mrcnn_train.job.distributed import Processes, peer_errors
from mrcnn_train.job.signals import StopRequested, StopSignals
from mrcnn_train.job.votes import StopVotes
from mrcnn_train.record.headline import describe_ap, headline
from mrcnn_train.record.metrics_log import TENSORBOARD_DIR
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.record.run_record import RunRecord, Scored
from mrcnn_train.record.window import EpochMeter, Window
from mrcnn_train.training.evaluation import Evaluation
from mrcnn_train.training.profiling import StepProfile
from mrcnn_train.training.start import Trainer
from mrcnn_train.training.step import TrainStep


class Job(NamedTuple):
    """What a run is made of.

    Attributes:
        record: None on all processes but that of rank 0, which alone writes.
        evaluation: None without a validation split.
    """

    config: RunConfig
    plan: Plan
    loader: TrainLoader
    trainer: Trainer
    processes: Processes
    stop: StopSignals
    votes: StopVotes
    record: RunRecord | None
    display: ProgressDisplay
    profile: StepProfile
    evaluation: Evaluation | None


def train_loop(
    config: RunConfig,
    plan: Plan,
    loader: TrainLoader,
    *,
    described_plan: str,
    trainer: Trainer,
    val: CocoDataset | None,
    run_dir: Path,
    processes: Processes,
    stop: StopSignals,
) -> int:
    """Train from `trainer.start_step` to the end of the plan, then evaluate.

    Args:
        described_plan: for the report.

    Returns:
        The exit code: 0, or that of the signal that ended the run, after a checkpoint.

    Raises:
        DivergedError: a loss is not finite. DatasetError: an image cannot be read. SaveError: the disk is full.
        PeerLostError: another process ended.
    """
    record = None
    if processes.rank == 0:
        record = RunRecord(
            run_dir,
            trainer,
            seed=config.train.seed,
            global_batch=plan.global_batch,
            keep_last=config.checkpoint.keep_last,
        )
    evaluation = None
    if val is not None:
        evaluation = Evaluation(
            trainer.model, val, trainer.card, config.eval, processes=processes, on_error=config.data.on_error
        )
    job = Job(
        config=config,
        plan=plan,
        loader=loader,
        trainer=trainer,
        processes=processes,
        stop=stop,
        votes=StopVotes(processes, stop),
        record=record,
        display=ProgressDisplay(total_steps=plan.total_steps, start_step=trainer.start_step),
        profile=StepProfile(config.profile.steps if record is not None else None, run_dir / TENSORBOARD_DIR),
        evaluation=evaluation,
    )
    try:
        with job.display, peer_errors():
            _train_and_evaluate(job)
    except StopRequested as request:
        print(f"Stopped by signal {request.number}. resume={run_dir} continues the run.", flush=True)
        return request.exit_code
    finally:
        job.profile.close()
        if record is not None:
            record.close()
        for what, count in sorted(loader.left_out.items()):
            print(f"left out of the training batches: {count} {what}", flush=True)
        for name, count in sorted(loader.skipped.items()):
            print(f"skipped in training, cannot be read: {name} ({count} x)", flush=True)
    if record is not None:
        best = record.best
        if best is not None:
            print(f"best: {describe_ap(best)} at step {best['step']}")
        record.report(name=str(config.run.name), plan=described_plan)
        print(record.contents(), flush=True)
    return 0


def _train_and_evaluate(job: Job) -> None:
    total_steps, scored = job.plan.total_steps, None
    try:
        _train(job)
        if job.evaluation is not None and not job.votes.target and not _is_evaluated(job, total_steps):
            scored = _evaluate(job, total_steps)
    finally:
        # Also of a run that was stopped: the images are detected, and scoring takes seconds.
        scored = _finish_scoring(job) or scored
    if scored is not None:
        job.display.tables(scored.result)


def _train(job: Job) -> None:
    """Run the steps. Raises StopRequested, after a checkpoint, when a signal came."""
    config, plan, loader, trainer, votes = job.config, job.plan, job.loader, job.trainer, job.votes
    update = TrainStep(
        trainer.model,
        trainer.optimizer,
        micro_batches=plan.micro_batches,
        processes=job.processes,
        loss_scale=trainer.loss_scale,
        wire=config.distributed.wire,
    )
    batches_of_steps = loader.steps(trainer.start_step)
    window = Window(images_per_step=plan.global_batch, gather=job.processes.gather)
    meter = EpochMeter(images_per_step=plan.global_batch)
    if _lacks_evaluation(job):
        _evaluate(job, trainer.start_step)
    for step in range(trainer.start_step, plan.total_steps):
        asked = time.perf_counter()
        batches = next(batches_of_steps)
        waited = time.perf_counter() - asked
        window.data_wait += waited
        rate = learning_rate(step, plan.schedule)
        done = step + 1  # number of updates after this one
        job.profile.begin(done)
        metrics = update(batches, rate, votes.mine())
        job.profile.end(done, metrics)
        job.processes.progress()
        votes.count(metrics)
        image_ids = [image_id for batch in batches for image_id in batch.image_ids]
        window.add(done, metrics, learning_rate=rate, image_ids=image_ids)

        is_first, is_last = step == trainer.start_step, done == plan.total_steps
        before, after = loader.epoch_of(step), loader.epoch_of(done)
        is_due = not is_last and not votes.target and crosses(config.eval.every_epochs, before, after)
        evaluates = job.evaluation is not None and is_due
        saves = (
            is_last
            or evaluates
            or votes.signal is not None
            or votes.target
            or crosses(config.checkpoint.every_epochs, before, after)
            or (config.checkpoint.every_steps is not None and done % config.checkpoint.every_steps == 0)
        )
        job.display.step(done)
        if saves or is_first or done % config.log.every == 0:
            # The host waits for the device here. Before a checkpoint it has to: only finite weights are saved.
            numbers = window.read()
            if job.record is not None:
                job.record.training(done, numbers, epoch=after)
            job.display.log(done, numbers.means, epoch=after, images_per_step=plan.global_batch, is_first=is_first)
        if not is_first:  # which compiles
            meter.add(seconds=time.perf_counter() - asked, data_wait=waited)
        if crosses(1.0, before, after) and (of_epoch := meter.read()) is not None and job.record is not None:
            job.record.epoch(done, of_epoch, epoch=after)
        if saves:
            if job.record is not None:
                job.record.save(done, epoch=after, learning_rate=rate)
            if votes.signal is not None:
                raise StopRequested(votes.signal)
        if evaluates:
            _evaluate(job, done)
        if job.record is not None and job.record.has_scored:
            _finish_scoring(job)
        if votes.target:
            print(f"target reached: {_target(config.stop_at)}; stopped after {done} steps", flush=True)
            return
        if saves:
            window.restart()  # writing and evaluating are not the speed of training


def _lacks_evaluation(job: Job) -> bool:
    """Whether the run was stopped after the checkpoint that it resumes from, and before its evaluation."""
    start = job.trainer.start_step
    if job.evaluation is None or not 0 < start < job.plan.total_steps:
        return False
    is_due = crosses(job.config.eval.every_epochs, job.loader.epoch_of(start - 1), job.loader.epoch_of(start))
    return is_due and not _is_evaluated(job, start)


def _is_evaluated(job: Job, step: int) -> bool:
    """Ask rank 0, which keeps the record."""
    return job.processes.broadcast(job.record is not None and job.record.is_evaluated(step))


def _evaluate(job: Job, step: int) -> Scored | None:
    """Evaluate the saved weights; with `eval.background` only detect, and leave the scoring to a thread.

    A single process gives the evaluation up when a signal comes, raising StopRequested. Many finish it.
    """
    assert job.evaluation is not None
    _finish_scoring(job)

    def progress(done: int, total: int) -> None:
        if job.processes.size == 1:
            job.stop.raise_if_received()
        job.processes.progress()
        job.display.evaluating(done, total)

    job.trainer.optimizer.swap_average()
    try:
        evaluator = job.evaluation.detect(progress=progress)
    finally:
        job.trainer.optimizer.swap_average()
    job.display.detected()
    if job.record is not None:
        job.record.score(job.evaluation, evaluator, step=step, epoch=job.loader.epoch_of(step))
    if job.config.eval.background:
        return None
    scored = _finish_scoring(job)
    job.votes.target = job.processes.broadcast(job.votes.has_reached_target)
    return scored


def _finish_scoring(job: Job) -> Scored | None:
    """Wait for the score that is being made, if there is one, and show it."""
    if job.record is None or not job.record.is_scoring:
        return None
    scored = job.record.scored()
    job.display.evaluated(*scored)
    job.votes.has_reached_target |= _reaches(job.config.stop_at, scored)
    return scored


def _reaches(options: StopOptions, scored: Scored) -> bool:
    numbers = headline(scored.result)
    targets = [(numbers["box_AP"], options.box_ap), (numbers.get("mask_AP", 0.0), options.mask_ap)]
    wanted = [(actual, target) for actual, target in targets if target is not None]
    return bool(wanted) and all(actual >= target for actual, target in wanted)


def _target(options: StopOptions) -> str:
    named = (("box AP", options.box_ap), ("mask AP", options.mask_ap))
    return ", ".join(f"{name} {target:g}" for name, target in named if target is not None)
