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
from mrcnn_train.record.scores import logged_numbers, total_ap
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

CURVES = "curves.png"
REPORT = "report.md"


class Scored(NamedTuple):
    """The evaluation of the weights after `step` updates."""

    step: int
    results: Results


class _Scoring(NamedTuple):
    """An evaluation whose detections a thread is scoring."""

    step: int
    epoch: float
    results: Future[Results]


class RunRecord:
    """Writes into a run directory. Minutes are the sum over all launches of the run.

    Args:
        seed, global_batch: numbers to write into the checkpoints.
        keep_last: number of checkpoints to keep besides the best.
        val_names: names of the validation sets.
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
    ) -> None:
        self.run_dir = run_dir
        self._checkpoints = run_dir / CHECKPOINTS_DIR
        self._state = state
        self._seed = seed
        self._global_batch = global_batch
        self._keep_last = keep_last
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

    def score(self, evaluation: Evaluation, evaluators: Sequence[CocoEvaluator], *, step: int, epoch: float) -> None:
        """Start to score the detections of the weights after `step` updates; their checkpoint exists."""
        assert self._scoring is None
        if self._drawing is not None:
            self._drawing.result()
        future = self._scorer.submit(evaluation.score, evaluators, self.run_dir, step=step)
        self._scoring = _Scoring(step, epoch, future)

    @property
    def is_scoring(self) -> bool:
        """Whether an evaluation is being scored, or has been scored and not yet fetched by `scored`."""
        return self._scoring is not None

    @property
    def has_scored(self) -> bool:
        """Whether `scored` would return without waiting."""
        return self._scoring is not None and self._scoring.results.done()

    def scored(self) -> Scored:
        """Wait for the scores, log them, and mark the checkpoint if it is the best.

        Raises:
            Whatever the scorer raised.
        """
        assert self._scoring is not None
        step, epoch, future = self._scoring
        self._scoring = None
        results = future.result()
        values = {**logged_numbers(results), "epoch": epoch, "minutes": self._minutes()}
        earlier = self.best
        for name in results:
            tag = "evaluation/predictions" if len(results) == 1 else f"evaluation/{name}/predictions"
            self._log.picture(step, tag, self.run_dir / self._files[name].contact_sheet)
        self._log.write("evaluation", step, values)
        if total_ap(values) > (-1.0 if earlier is None else total_ap(earlier)):
            mark_best(self._checkpoints, self._checkpoints / step_name(step))
        self._drawing = self._scorer.submit(draw_curves, self.run_dir / CURVES, list(self._log.rows))
        return Scored(step, results)

    @property
    def best(self) -> Row | None:
        """The evaluation with the highest box AP + mask AP, the first among equals; None if no AP is defined yet."""
        evaluations = [row for row in self._log.rows if row["kind"] == "evaluation" and total_ap(row) >= 0]
        return max(evaluations, key=total_ap, default=None)

    def _minutes(self) -> float:
        return (time.perf_counter() - self._began) / 60

    def is_evaluated(self, step: int) -> bool:
        """Return whether the weights after `step` updates have been evaluated."""
        return any(row["kind"] == "evaluation" and row["step"] == step for row in self._log.rows)

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
        write_run_report(path, name=name, plan=plan, rows=self._log.rows, curves=CURVES, files=self._files)

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
