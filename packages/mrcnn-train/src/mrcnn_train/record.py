"""What a run leaves behind: metrics, checkpoints with the best marked, tables and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mrcnn_eval import EvalResult
from mrcnn_train.checkpoint import (
    TrainerState,
    mark_best,
    prune_checkpoints,
    save_checkpoint,
    step_name,
)
from mrcnn_train.curves import draw_curves
from mrcnn_train.evaluation import AP_TABLE, CONTACT_SHEET, Evaluation, headline
from mrcnn_train.initial_weights import WEIGHTS_FILE
from mrcnn_train.metrics_log import METRICS_FILE, TENSORBOARD_DIR, MetricsLog, Row
from mrcnn_train.start import Trainer

CHECKPOINTS_DIR = "checkpoints"
CURVES = "curves.png"


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

    def training(self, step: int, row: Mapping[str, float]) -> None:
        """Log the numbers of the last steps."""
        self._log.write("train", step, {**row, "minutes": self._minutes()})

    def save(self, step: int, *, epoch: float, learning_rate: float) -> None:
        """Write a checkpoint of the weights after `step` updates; drop the oldest."""
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
            self._checkpoints, model=trainer.model, card=trainer.card, optimizer=trainer.optimizer, state=state
        )
        prune_checkpoints(self._checkpoints, keep_last=self._keep_last)

    def evaluate(
        self, evaluation: Evaluation, step: int, *, epoch: float, progress: Callable[[int, int], None]
    ) -> EvalResult:
        """Evaluate the weights after `step` updates, which are saved; log, and mark them where they are the best."""
        result = evaluation.run(self.run_dir, step=step, progress=progress)
        values = {**headline(result), "epoch": epoch, "minutes": self._minutes()}
        earlier = self.best
        self._log.write("evaluation", step, values)
        if earlier is None or _score(values) > _score(earlier):
            mark_best(self._checkpoints, self._checkpoints / step_name(step))
        draw_curves(self.run_dir / CURVES, self._log.rows)
        return result

    @property
    def best(self) -> Row | None:
        """The evaluation with the highest box AP + mask AP, the first of equals."""
        evaluations = [row for row in self._log.rows if row["kind"] == "evaluation"]
        return max(evaluations, key=_score, default=None)

    def _minutes(self) -> float:
        return (time.perf_counter() - self._began) / 60

    def is_evaluated(self, step: int) -> bool:
        return any(row["kind"] == "evaluation" and row["step"] == step for row in self._log.rows)

    def close(self) -> None:
        """Draw the curves to the end and close the logs."""
        draw_curves(self.run_dir / CURVES, self._log.rows)
        self._log.close()

    def contents(self) -> str:
        """Say where things are, a line each, for what there is."""
        names = {
            CHECKPOINTS_DIR: "checkpoints",
            WEIGHTS_FILE: "weights that did not fit",
            METRICS_FILE: "metrics",
            TENSORBOARD_DIR: "TensorBoard",
            CURVES: "loss and AP over minutes",
            AP_TABLE: "AP table",
            CONTACT_SHEET: "predictions beside ground truth",
        }
        present = [(self.run_dir / name, what) for name, what in names.items() if (self.run_dir / name).exists()]
        return "\n".join(f"{what + ':':33} {path}" for path, what in present)


def _score(row: Mapping[str, float]) -> float:
    return row["box_AP"] + row["mask_AP"]
