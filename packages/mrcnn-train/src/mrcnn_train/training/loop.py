"""The training loop, from the first step to the last evaluation."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator

from mrcnn_data import DatasetError, TrainLoader, visible
from mrcnn_train.config.commands import next_commands
from mrcnn_train.config.going_on import End, describe_resume, describe_target, last_step, mark_finished
from mrcnn_train.config.schedule import learning_rate
from mrcnn_train.errors import PeerLostError, SaveError
from mrcnn_train.job.gpu_use import find_gpu_use
from mrcnn_train.job.signals import NAMES, StopRequested
from mrcnn_train.job.votes import StopVotes
from mrcnn_train.planning.pace import Pace
from mrcnn_train.record.metrics_log import TENSORBOARD_DIR
from mrcnn_train.record.profiling import StepProfile
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.record.run_record import RunRecord
from mrcnn_train.record.step_log import StepLog
from mrcnn_train.training.due import Cadence, is_evaluation_due, make_cadence, what_is_due
from mrcnn_train.training.job import Job
from mrcnn_train.training.scoring import Scoring
from mrcnn_train.training.step import TrainStep


def train_loop(job: Job) -> int:
    """Train from `job.state.start_step` to the end of the plan, and evaluate when it is due.

    Returns:
        The exit code: 0, or that of the signal that ended the run, after a checkpoint.

    Raises:
        DivergedError: a loss is not finite.
        DatasetError: an image cannot be read.
        SaveError: the run directory can no longer be written.
        PeerLostError: another process has ended.
    """
    config, data = job.config, job.data
    try:
        with _open_record(job) as record, job.processes.peer_errors():
            pace = _train(job, record)
    except StopRequested as request:
        print(f"Stopped by {NAMES[request.number]}; {describe_resume(job.run_dir)}", flush=True)
        return request.exit_code
    finally:
        _print_left_out(data.loader)
    if record is not None:
        budget = pace.describe()
        for line in filter(None, (*budget[-1:], record.verdict(pace.plan.total_steps))):
            print(line)
        record.report(name=str(config.run.name), plan="\n".join((data.described, *budget)))
        print(record.contents(), flush=True)
        done = last_step(job.run_dir)
        pictures = data.val[0].dataset.image_path(0).parent if data.val else None
        print(next_commands(job.run_dir, config.train, total_steps=done, pictures=pictures), flush=True)
        target = describe_target(config.stop_at) if done < pace.plan.total_steps else ""
        mark_finished(job.run_dir, End(done, target))
    return 0


@contextlib.contextmanager
def _open_record(job: Job) -> Iterator[RunRecord | None]:
    """Open the record on rank 0, the only process that writes; yield None on the others."""
    if job.processes.rank > 0:
        yield None
        return
    record = RunRecord(
        job.run_dir,
        job.state,
        seed=job.config.train.seed,
        global_batch=job.data.plan.global_batch,
        keep_last=job.config.checkpoint.keep_last,
        val_names=[one.name for one in job.data.val],
        best_by=job.config.eval.best_by,
    )
    try:
        yield record
    finally:
        record.close()


def _train(job: Job, record: RunRecord | None) -> Pace:
    """Run the steps and the evaluations, and return the pace with the final plan."""
    config, plan = job.config, job.data.plan
    votes = StopVotes(job.processes, job.stop)
    display = ProgressDisplay(total_steps=plan.total_steps, start_step=job.state.start_step)
    profile = StepProfile(config.profile.steps if record is not None else None, job.run_dir / TENSORBOARD_DIR)
    scoring = Scoring(job, record, votes, display)
    pace = Pace(job, scoring, display)
    with display, contextlib.closing(profile):
        try:
            _make_up_for_evaluation(job, scoring, pace)
            if scoring.take_up(job.state.start_step):
                print(f"{scoring.why_stopped()}; nothing is left to do", flush=True)
                return pace
            _run_steps(job, record, votes=votes, display=display, profile=profile, scoring=scoring, pace=pace)
        finally:
            scoring.close()  # also if the run was stopped: detection is done, and scoring takes seconds
        if scoring.last is not None:
            display.tables(scoring.last.results)
    return pace


def _run_steps(
    job: Job,
    record: RunRecord | None,
    *,
    votes: StopVotes,
    display: ProgressDisplay,
    profile: StepProfile,
    scoring: Scoring,
    pace: Pace,
) -> None:
    """Run the steps.

    Raises:
        StopRequested: a signal has arrived; a checkpoint has been written.
    """
    loader, start_step = job.data.loader, job.state.start_step
    update = _make_step(job)
    device = job.processes.device
    gpu = find_gpu_use(device and device.uuid) if record is not None else None
    log = StepLog(record, display, images_per_step=pace.plan.global_batch, gather=job.processes.gather, gpu=gpu)
    batches_of_steps = loader.steps(start_step)
    for step in itertools.takewhile(lambda step: step < pace.plan.total_steps, itertools.count(start_step)):
        began, traced = time.perf_counter(), update.num_traces
        pace.step_begins()
        rate = learning_rate(step, pace.plan.schedule)
        done, epoch = step + 1, loader.epoch_of(step + 1)  # after this step
        with _saved_if_it_fails(job, record, pace, step=step):
            batches = next(batches_of_steps)
            data_wait = time.perf_counter() - began
            profile.begin(done)
            metrics = update(batches, rate, votes.mine(), data_wait=data_wait)
        profile.end(done, metrics)
        job.processes.progress()
        votes.count(metrics.votes)
        log.add(done, metrics, batches, learning_rate=rate, data_wait=data_wait)
        pace.stepped(done, metrics, has_compiled=update.num_traces > traced)
        due = what_is_due(
            done,
            _cadence(job, pace),
            epoch_before=loader.epoch_of(step),
            epoch_after=epoch,
            is_first=step == start_step,
            has_to_stop=votes.signal is not None or votes.target,
        )
        display.step(done)
        log.write(done, due, epoch=epoch, began=began)
        if due.save and record is not None:
            display.saved(done, record.save(done, epoch=epoch, learning_rate=rate, budget_seconds=pace.seconds))
        if votes.signal is not None:
            raise StopRequested(votes.signal)
        if due.evaluate:
            pace.evaluate(done, epoch=epoch)
        scoring.fetch()
        if votes.target:
            print(f"{scoring.why_stopped()}; stopped after {done} steps", flush=True)
        if due.stop or votes.target:
            return
        if due.save:
            log.restart()


@contextlib.contextmanager
def _saved_if_it_fails(job: Job, record: RunRecord | None, pace: Pace, *, step: int) -> Iterator[None]:
    """Save a checkpoint of the `step` updates done if an image, or another process, makes the next one impossible.

    A step changes the weights last, after the exchanges with the other processes.
    """
    try:
        with job.processes.peer_errors():
            yield
    except (DatasetError, PeerLostError) as error:
        # The statistics of sync_bn change in the forward pass, before the exchange that failed.
        is_whole = isinstance(error, DatasetError) or job.config.model.norm != "sync_bn"
        if record is not None and step > job.state.start_step and is_whole:
            rate, epoch = learning_rate(step - 1, pace.plan.schedule), job.data.loader.epoch_of(step)
            with contextlib.suppress(SaveError):  # the first error is the one to be reported
                record.save(step, epoch=epoch, learning_rate=rate, budget_seconds=pace.seconds)
            print(f"Stopped after {step} steps by the error; {describe_resume(job.run_dir)}", flush=True)
        raise


def _make_step(job: Job) -> TrainStep:
    state = job.state
    return TrainStep(
        state.model,
        state.optimizer,
        micro_batches=job.data.plan.micro_batches,
        processes=job.processes,
        loss_scale=state.loss_scale,
        wire=job.config.distributed.wire,
    )


def _make_up_for_evaluation(job: Job, scoring: Scoring, pace: Pace) -> None:
    """Evaluate if the run was stopped between the checkpoint that it resumes from and the evaluation due there."""
    start, epoch_of = job.state.start_step, job.data.loader.epoch_of
    before, after = epoch_of(max(0, start - 1)), epoch_of(start)
    is_due = is_evaluation_due(start, _cadence(job, pace), epoch_before=before, epoch_after=after)
    if is_due and scoring.is_evaluated(start):
        pace.count_evaluation()
    elif is_due:
        pace.evaluate(start, epoch=after)


def _cadence(job: Job, pace: Pace) -> Cadence:
    return make_cadence(job.config, pace.plan, evaluates=bool(job.data.val))


def _print_left_out(loader: TrainLoader) -> None:
    for what, count in sorted(loader.left_out.items()):
        print(f"left out of the training batches: {count} {what}", flush=True)
    for name, count in sorted(loader.skipped.items()):
        print(f"skipped in training, cannot be read: {visible(name)} ({count} x)", flush=True)
