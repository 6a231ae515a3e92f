"""Write what a run leaves: metrics, checkpoints with the best marked, tables and pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mrcnn_data import visible
from mrcnn_eval import CocoEvaluator
from mrcnn_train.config.going_on import CHECKPOINTS_DIR
from mrcnn_train.config.position import CheckpointState
from mrcnn_train.record.curves import draw_curves
from mrcnn_train.record.metrics_log import METRICS_FILE, TENSORBOARD_DIR, MetricsLog, Row
from mrcnn_train.record.report import write_run_report
from mrcnn_train.record.scores import logged_numbers
from mrcnn_train.record.window import Numbers
from mrcnn_train.training.checkpoint import (
    mark_best,
    prune_checkpoints,
    save_checkpoint,
    step_name,
)
from mrcnn_train.training.evaluation import Evaluation, EvaluationFiles, Results, evaluation_files
from mrcnn_train.training.initial_weights import WEIGHTS_FILE
from mrcnn_train.training.state import TrainingState
from mrcnn_train.validation.best import best_of, describe_losses, evaluations_since_best, verdict

CURVES = "curves.png"
REPORT = "report.md"


class Scored(NamedTuple):
    """The evaluation of the weights after `step` updates, and what else to say about it."""

    step: int
    results: Results
    note: str = ""


class _Scoring(NamedTuple):
    """An evaluation whose detections a thread is scoring: results, and further numbers to log."""

    step: int
    epoch: float
    numbers: Future[tuple[Results, dict[str, float]]]


class RunRecord:
    """Writes into a run directory. Minutes are the sum over all launches of the run.

    Args:
        seed, global_batch: numbers to write into the checkpoints.
        keep_last: number of checkpoints to keep besides the best.
        val_names: names of the validation sets.
        best_by: see `value_of`.
    """

    def __init__(
        self,
        run_dir: Path,
        state: TrainingState,
        *,
        seed: int,
        global_batch: int,
        keep_last: int,
        val_names: Sequence[str],
        best_by: str = "sum",
    ) -> None:
        self.run_dir = run_dir
        self._checkpoints = run_dir / CHECKPOINTS_DIR
        self._state = state
        self._seed = seed
        self._global_batch = global_batch
        self._keep_last = keep_last
        self._best_by = best_by
        self._files: dict[str, EvaluationFiles] = evaluation_files(val_names)
        self._began = time.perf_counter() - state.elapsed_seconds
        self._log = MetricsLog(run_dir, start_step=state.start_step)
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="mrcnn-score")
        self._scoring: _Scoring | None = None
        self._drawing: Future[None] | None = None  # of the curves, by the same thread

    def training(self, step: int, numbers: Numbers, *, epoch: float) -> None:
        """Log the numbers of the last steps."""
        self._log.histograms(step, numbers.counts)
        self._log.write("train", step, {**numbers.means, "epoch": epoch, "minutes": self._minutes()})

    def epoch(self, step: int, throughput: Mapping[str, float], *, epoch: float) -> None:
        """Log the throughput of the epoch that ended with this step."""
        self._log.write("epoch", step, {**throughput, "epoch": epoch, "minutes": self._minutes()})

    def save(self, step: int, *, epoch: float, learning_rate: float, budget_seconds: float = 0.0) -> Path:
        """Write a checkpoint of the weights after `step` updates, delete the oldest, and return the folder.

        Raises:
            SaveError: the disk is full or cannot be written.
        """
        position = CheckpointState(
            step=step,
            seed=self._seed,
            global_batch=self._global_batch,
            epoch=epoch,
            learning_rate=learning_rate,
            elapsed_seconds=time.perf_counter() - self._began,
            data=self._state.data,
            budget_seconds=budget_seconds,
        )
        state = self._state
        checkpoint = save_checkpoint(
            self._checkpoints,
            model=state.model,
            card=state.card,
            optimizer=state.optimizer,
            loss_scale=state.loss_scale,
            state=position,
        )
        scoring = None if self._scoring is None else step_name(self._scoring.step)
        prune_checkpoints(self._checkpoints, keep_last=self._keep_last, also=scoring)
        return checkpoint

    def score(
        self,
        evaluation: Evaluation,
        evaluators: Sequence[CocoEvaluator],
        *,
        step: int,
        epoch: float,
        losses: Mapping[str, float] | None = None,
    ) -> None:
        """Start to score the detections of the weights after `step` updates; their checkpoint exists.

        Args:
            losses: of validation images, to log with the AP.
        """
        assert self._scoring is None
        if self._drawing is not None:
            self._drawing.result()

        def numbers() -> tuple[Results, dict[str, float]]:
            results = evaluation.score(evaluators, self.run_dir, step=step)
            return results, {**(losses or {}), **evaluation.spread(evaluators)}

        self._scoring = _Scoring(step, epoch, self._scorer.submit(numbers))

    @property
    def is_scoring(self) -> bool:
        """Whether an evaluation is being scored, or has been scored and not yet fetched by `scored`."""
        return self._scoring is not None

    @property
    def has_scored(self) -> bool:
        """Whether `scored` would return without waiting."""
        return self._scoring is not None and self._scoring.numbers.done()

    def scored(self) -> Scored:
        """Wait for the scores, log them, and mark the checkpoint if it is the best.

        Raises:
            Whatever the scorer raised.
        """
        assert self._scoring is not None
        step, epoch, future = self._scoring
        self._scoring = None
        results, others = future.result()
        values = {**logged_numbers(results), **others, "epoch": epoch, "minutes": self._minutes()}
        for name in results:
            tag = "evaluation/predictions" if len(results) == 1 else f"evaluation/{name}/predictions"
            self._log.picture(step, tag, self.run_dir / self._files[name].contact_sheet)
        self._log.write("evaluation", step, values)
        if self.best is self._log.rows[-1]:
            mark_best(self._checkpoints, self._checkpoints / step_name(step))
        note = describe_losses(self._log.rows)
        self._drawing = self._scorer.submit(draw_curves, self.run_dir / CURVES, list(self._log.rows))
        return Scored(step, results, note)

    @property
    def best(self) -> Row | None:
        """The best evaluation, the first among equals; None if no AP is defined yet."""
        return best_of(self._log.rows, best_by=self._best_by)

    @property
    def evaluations_since_best(self) -> int:
        return evaluations_since_best(self._log.rows, best_by=self._best_by)

    def verdict(self, total_steps: int) -> str | None:
        """Write a sentence about the best evaluation; None if no AP is defined."""
        return verdict(self._log.rows, best_by=self._best_by, total_steps=total_steps)

    def evaluation_of(self, step: int) -> Row | None:
        """Return the numbers of the weights after `step` updates; None if they have not been evaluated."""
        of_step = (row for row in self._log.rows if row["kind"] == "evaluation" and row["step"] == step)
        return next(of_step, None)

    def _minutes(self) -> float:
        return (time.perf_counter() - self._began) / 60

    def close(self) -> None:
        """Draw the final curves and close the logs."""
        if self._drawing is not None and not self._drawing.cancel():
            self._drawing.exception()  # waits, because both write the same file
        self._scorer.shutdown(wait=False, cancel_futures=True)
        draw_curves(self.run_dir / CURVES, self._log.rows)
        self._log.close()

    def report(self, *, name: str, plan: str) -> None:
        """Write report.md of a finished run."""
        path = self.run_dir / REPORT
        rows, best = self._log.rows, self.best
        write_run_report(path, name=name, plan=plan, rows=rows, best=best, curves=CURVES, files=self._files)

    def contents(self) -> str:
        """Return a line for each file and folder in the run directory, with its path."""
        names = {
            CHECKPOINTS_DIR: "checkpoints",
            WEIGHTS_FILE: "weights that did not fit",
            METRICS_FILE: "metrics",
            TENSORBOARD_DIR: "TensorBoard",
            REPORT: "report",
            CURVES: "loss and AP over minutes",
        }
        for name, files in self._files.items():
            of_set = f" ({name})" if len(self._files) > 1 else ""
            names[files.ap_table] = f"AP table{of_set}"
            names[files.contact_sheet] = f"predictions beside ground truth{of_set}"
        present = [(self.run_dir / name, what) for name, what in names.items() if (self.run_dir / name).exists()]
        return "\n".join(f"{what + ':':33} {visible(path, limit=2000)}" for path, what in present)
