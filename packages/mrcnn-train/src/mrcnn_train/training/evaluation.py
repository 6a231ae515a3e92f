"""AP of the model in training, with its files in the run directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mrcnn_data import CocoDataset
from mrcnn_eval import CocoEvaluator, EvalResult
from mrcnn_eval.inference.detection import compiled_detect, detect_dataset
from mrcnn_eval.report.pictures import draw_contact_sheet
from mrcnn_eval.report.tables import write_ap_table, write_metrics
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
        card, options = self._card, self._options
        return detect_dataset(
            self._model,
            self._dataset,
            buckets=[(height, width) for height, width in card.buckets],
            short_edge=card.short_edge,
            max_size=card.max_size,
            batch_size=options.batch_size,
            limit=options.limit,
            on_error=self._on_error,
            rank=self._processes.rank,
            num_ranks=self._processes.size,
            gather=self._processes.gather,
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
