"""What a run leaves behind: metrics, checkpoints with the best marked, tables and pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mrcnn_eval import CocoEvaluator, EvalResult
from mrcnn_train.record.curves import draw_curves
from mrcnn_train.record.headline import headline, total_ap
from mrcnn_train.record.metrics_log import METRICS_FILE, TENSORBOARD_DIR, MetricsLog, Row
from mrcnn_train.record.report import write_run_report
from mrcnn_train.record.window import Numbers
from mrcnn_train.training.checkpoint import (
    CHECKPOINTS_DIR,
    TrainerState,
    mark_best,
    prune_checkpoints,
    save_checkpoint,
    step_name,
)
from mrcnn_train.training.evaluation import AP_TABLE, CONTACT_SHEET, Evaluation
from mrcnn_train.training.initial_weights import WEIGHTS_FILE
from mrcnn_train.training.start import Trainer

CURVES = "curves.png"
REPORT = "report.md"


class Scored(NamedTuple):
    """The numbers of the weights after `step` updates."""

    step: int
    result: EvalResult


class _Scoring(NamedTuple):
    """An evaluation whose images are detected, while a thread scores it."""

    step: int
    epoch: float
    result: Future[EvalResult]


class RunRecord:
    """Writes into a run directory. Minutes count from the start of the run, earlier parts of it included.

    Args:
        seed, global_batch: written into the checkpoints.
        keep_last: checkpoints kept besides the best.
    """

    def __init__(self, run_dir: Path, trainer: Trainer, *, seed: int, global_batch: int, keep_last: int) -> None:
        self.run_dir = run_dir
        self._checkpoints = run_dir / CHECKPOINTS_DIR
        self._trainer = trainer
        self._seed = seed
        self._global_batch = global_batch
        self._keep_last = keep_last
        self._began = time.perf_counter() - trainer.elapsed_seconds
        self._log = MetricsLog(run_dir, start_step=trainer.start_step)
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

    def save(self, step: int, *, epoch: float, learning_rate: float) -> None:
        """Write a checkpoint of the weights after `step` updates; drop the oldest.

        Raises:
            SaveError: the disk refuses.
        """
        state = TrainerState(
            step=step,
            seed=self._seed,
            global_batch=self._global_batch,
            epoch=epoch,
            learning_rate=learning_rate,
            elapsed_seconds=time.perf_counter() - self._began,
        )
        trainer = self._trainer
        save_checkpoint(
            self._checkpoints,
            model=trainer.model,
            card=trainer.card,
            optimizer=trainer.optimizer,
            loss_scale=trainer.loss_scale,
            state=state,
        )
        scoring = None if self._scoring is None else step_name(self._scoring.step)
        prune_checkpoints(self._checkpoints, keep_last=self._keep_last, also=scoring)

    def score(self, evaluation: Evaluation, evaluator: CocoEvaluator, *, step: int, epoch: float) -> None:
        """Begin to score what was detected with the weights after `step` updates, which are saved."""
        assert self._scoring is None
        if self._drawing is not None:
            self._drawing.result()
        future = self._scorer.submit(evaluation.score, evaluator, self.run_dir, step=step)
        self._scoring = _Scoring(step, epoch, future)

    @property
    def is_scoring(self) -> bool:
        return self._scoring is not None

    @property
    def has_scored(self) -> bool:
        """Whether `scored` would not have to wait."""
        return self._scoring is not None and self._scoring.result.done()

    def scored(self) -> Scored:
        """Wait for the score; log it, and mark the weights where they are the best.

        Raises:
            Whatever the scorer raised.
        """
        assert self._scoring is not None
        step, epoch, future = self._scoring
        self._scoring = None
        result = future.result()
        values = {**headline(result), "epoch": epoch, "minutes": self._minutes()}
        earlier = self.best
        self._log.picture(step, "evaluation/predictions", self.run_dir / CONTACT_SHEET)
        self._log.write("evaluation", step, values)
        if earlier is None or total_ap(values) > total_ap(earlier):
            mark_best(self._checkpoints, self._checkpoints / step_name(step))
        self._drawing = self._scorer.submit(draw_curves, self.run_dir / CURVES, list(self._log.rows))
        return Scored(step, result)

    @property
    def best(self) -> Row | None:
        """The evaluation with the highest box AP + mask AP, the first of equals."""
        evaluations = [row for row in self._log.rows if row["kind"] == "evaluation"]
        return max(evaluations, key=total_ap, default=None)

    def _minutes(self) -> float:
        return (time.perf_counter() - self._began) / 60

    def is_evaluated(self, step: int) -> bool:
        return any(row["kind"] == "evaluation" and row["step"] == step for row in self._log.rows)

    def close(self) -> None:
        """Draw the curves to the end and close the logs."""
        if self._drawing is not None and not self._drawing.cancel():
            self._drawing.exception()  # waits: both write the same file
        self._scorer.shutdown(wait=False, cancel_futures=True)
        draw_curves(self.run_dir / CURVES, self._log.rows)
        self._log.close()

    def report(self, *, name: str, plan: str) -> None:
        """Write report.md, of a run that has finished."""
        write_run_report(
            self.run_dir / REPORT,
            name=name,
            plan=plan,
            rows=self._log.rows,
            curves=CURVES,
            ap_table=AP_TABLE,
            contact_sheet=CONTACT_SHEET,
        )

    def contents(self) -> str:
        """Say where things are, a line each, for what there is."""
        names = {
            CHECKPOINTS_DIR: "checkpoints",
            WEIGHTS_FILE: "weights that did not fit",
            METRICS_FILE: "metrics",
            TENSORBOARD_DIR: "TensorBoard",
            REPORT: "report",
            CURVES: "loss and AP over minutes",
            AP_TABLE: "AP table",
            CONTACT_SHEET: "predictions beside ground truth",
        }
        present = [(self.run_dir / name, what) for name, what in names.items() if (self.run_dir / name).exists()]
        return "\n".join(f"{what + ':':33} {path}" for path, what in present)
