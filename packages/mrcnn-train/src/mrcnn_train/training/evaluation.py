"""AP of the model in training, with its files in the run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mrcnn_data import CocoDataset
from mrcnn_eval import CocoEvaluator, EvalResult
from mrcnn_eval.inference import Preprocessing, Share, compiled_detect, detect_dataset
from mrcnn_eval.report import draw_contact_sheet, write_ap_table, write_metrics
from mrcnn_model import MaskRCNN, ModelCard
from mrcnn_train.config.options import EvalOptions
from mrcnn_train.job.distributed import Processes
from mrcnn_train.training.checkpoint import step_name

AP_TABLE = "ap_table.txt"
CONTACT_SHEET = "contact_sheet.png"
EVALUATION_DIR = "evaluation"


class Evaluation:
    """Scores a model on the validation split, again and again without compiling again.

    Args:
        card: holds the preprocessing.
        on_error: "raise", or "skip" images that cannot be read: they count as images without detections.
    """

    def __init__(
        self,
        model: MaskRCNN,
        dataset: CocoDataset,
        card: ModelCard,
        options: EvalOptions,
        *,
        processes: Processes,
        on_error: str = "raise",
    ) -> None:
        self._model = model
        self._dataset = dataset
        self._card = card
        self._options = options
        self._processes = processes
        self._on_error = on_error
        self._detect = compiled_detect(model)

    def detect(self, *, progress: Callable[[int, int], None]) -> CocoEvaluator:
        """Detect on this process's share of the images; all processes get all detections."""
        return detect_dataset(
            self._model,
            self._dataset,
            Preprocessing.of(self._card),
            batch_size=self._options.batch_size,
            limit=self._options.limit,
            on_error=self._on_error,
            share=Share(self._processes.rank, self._processes.size, self._processes.gather),
            progress=progress,
            detect=self._detect,
        )

    def score(self, evaluator: CocoEvaluator, run_dir: Path, *, step: int) -> EvalResult:
        """Score, and write the AP table, the contact sheet and evaluation/step-XXXXXXXX.json; in any thread."""
        result = evaluator.evaluate(image_ids=evaluator.image_results)
        settings = {"step": step, "annotations": str(self._dataset.annotation_path), "limit": self._options.limit}
        (run_dir / EVALUATION_DIR).mkdir(exist_ok=True)
        write_metrics(run_dir / EVALUATION_DIR / f"{step_name(step)}.json", result, settings=settings)
        write_ap_table(run_dir / AP_TABLE, result)
        draw_contact_sheet(run_dir / CONTACT_SHEET, evaluator, self._dataset.image_dir, on_error=self._on_error)
        return result
