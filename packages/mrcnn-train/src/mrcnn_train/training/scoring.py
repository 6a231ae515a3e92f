"""Evaluate during a run: detect with the saved weights, score at once or in a thread, and check the target."""

from __future__ import annotations

from collections.abc import Mapping

from mrcnn_train.config.going_on import describe_target
from mrcnn_train.config.options import StopOptions
from mrcnn_train.job.votes import StopVotes
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.record.run_record import RunRecord, Scored
from mrcnn_train.record.scores import logged_numbers
from mrcnn_train.training.evaluation import Evaluation
from mrcnn_train.training.job import Job
from mrcnn_train.validation.losses import ValidationLosses


class Scoring:
    """Evaluates the weights of a run.

    Args:
        record: that of rank 0, the only process that scores; None on the others.
        votes: is told when the target is reached.

    Attributes:
        last: the evaluation that was scored last; None before the first one.
    """

    def __init__(self, job: Job, record: RunRecord | None, votes: StopVotes, display: ProgressDisplay) -> None:
        self._job = job
        self._record = record
        self._votes = votes
        self._display = display
        self._evaluation = Evaluation(
            job.state.model,
            job.data.val,
            job.state.card,
            job.config.eval,
            processes=job.processes,
            on_error=job.config.data.on_error,
        )
        self._losses = ValidationLosses(job.state.model, job.data.val if record is not None else [], job.config)
        self.last: Scored | None = None

    def is_evaluated(self, step: int) -> bool:
        """Return on all processes whether the weights after `step` updates have been evaluated."""
        return self._job.processes.broadcast(self._record is not None and self._record.evaluation_of(step) is not None)

    @property
    def compile_seconds(self) -> float:
        """Seconds that compilation has taken in evaluations so far."""
        return self._evaluation.compile_seconds + self._losses.compile_seconds

    def estimate_seconds(self) -> float:
        """Return how long an evaluation takes, from a few images."""
        return self._evaluation.estimate_seconds(progress=lambda done, total: self._job.processes.progress())

    def evaluate(self, step: int, *, epoch: float) -> None:
        """Evaluate the saved weights, or their average; with `eval.background` a thread scores the detections.

        Several processes finish the evaluation when a signal arrives.

        Raises:
            StopRequested: a signal has arrived, and there is one process only.
        """
        self.finish()
        self._job.state.optimizer.swap_average()
        try:
            evaluators = self._evaluation.detect(progress=self._show_progress)
            losses = self._losses.measure()
        finally:
            self._job.state.optimizer.swap_average()
        self._display.detected()
        if self._record is not None:
            self._record.score(self._evaluation, evaluators, step=step, epoch=epoch, losses=losses)
        if not self._job.config.eval.background:
            self.finish()
            self._votes.target = self._job.processes.broadcast(self._votes.has_reached_target)

    def _show_progress(self, done: int, total: int) -> None:
        if self._job.processes.size == 1:
            self._job.stop.raise_if_received()
        self._job.processes.progress()
        self._display.evaluating(done, total)

    def fetch(self) -> None:
        """Show the scores if a thread has finished them."""
        if self._record is not None and self._record.has_scored:
            self.finish()

    def finish(self) -> None:
        """Wait for an evaluation that is being scored, and show its scores."""
        if self._record is None or not self._record.is_scoring:
            return
        self.last = self._record.scored()
        self._display.evaluated(*self.last)
        self._votes.has_reached_target |= self._ends_run(logged_numbers(self.last.results))

    def take_up(self, step: int) -> bool:
        """Return on all processes whether the evaluation after `step` updates, of an earlier launch, ends the run."""
        row = self._record.evaluation_of(step) if self._record is not None else None
        return self._job.processes.broadcast(row is not None and self._ends_run(row))

    def _ends_run(self, numbers: Mapping[str, float]) -> bool:
        stop_at = self._job.config.stop_at
        assert self._record is not None
        return _reaches(stop_at, numbers) or self._is_out_of_patience

    @property
    def _is_out_of_patience(self) -> bool:
        patience = self._job.config.stop_at.patience
        return patience is not None and self._record is not None and self._record.evaluations_since_best >= patience

    def why_stopped(self) -> str:
        """Say why the last evaluation ends the run; on rank 0."""
        patience = self._job.config.stop_at.patience
        if self._is_out_of_patience:
            return f"no better evaluation in {patience} (stop_at.patience)"
        return f"target reached: {describe_target(self._job.config.stop_at)}"

    def close(self) -> None:
        """Wait for an evaluation that is being scored, and end the threads."""
        try:
            self.finish()
        finally:
            self._losses.close()


def reaches(target: StopOptions, scored: Scored) -> bool:
    """Return whether an evaluation reaches every AP of a target; with several validation sets, their means count."""
    return _reaches(target, logged_numbers(scored.results))


def _reaches(target: StopOptions, numbers: Mapping[str, float]) -> bool:
    targets = [(numbers["box_AP"], target.box_ap), (numbers.get("mask_AP", 0.0), target.mask_ap)]
    wanted = [(actual, least) for actual, least in targets if least is not None]
    return bool(wanted) and all(actual >= least for actual, least in wanted)
