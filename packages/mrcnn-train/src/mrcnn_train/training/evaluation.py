"""Evaluate the model in training on each validation set, and write the results into the run directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mrcnn_eval import CocoEvaluator, EvalResult, bootstrap_ap
from mrcnn_eval.inference import PackedDetections, Preprocessing, Share, compiled_detect, detect_dataset, new_evaluator
from mrcnn_eval.report import draw_contact_sheet, write_ap_table, write_metrics
from mrcnn_model import MaskRCNN, ModelCard
from mrcnn_train.config.options import EvalOptions
from mrcnn_train.job.distributed import Processes
from mrcnn_train.record.run_files import set_aside
from mrcnn_train.training.checkpoint import step_name
from mrcnn_train.training.datasets import ValSet

AP_TABLE = "ap_table.txt"
CONTACT_SHEET = "contact_sheet.png"
EVALUATION_DIR = "evaluation"
FEW_IMAGES = 200  # of a validation set: with more, the spread of AP over images is small
SPREAD = (0.05, 0.95)  # quantiles of the resampled AP
SAMPLED_BATCHES = 3  # of each process, to estimate how long an evaluation takes

Results = dict[str, EvalResult]  # by name of the validation set


class EvaluationFiles(NamedTuple):
    """Names of the files of a validation set in the run directory; with several sets they contain the set's name."""

    ap_table: str
    contact_sheet: str
    numbers_suffix: str


def evaluation_files(names: Sequence[str]) -> dict[str, EvaluationFiles]:
    """Return the files of each validation set.

    >>> evaluation_files(["val"])["val"].ap_table
    'ap_table.txt'
    >>> evaluation_files(["day", "night"])["night"].ap_table
    'ap_table-night.txt'
    """
    files = {}
    for name in names:
        suffix = "" if len(names) == 1 else f"-{name}"
        table, sheet = (f"{path.stem}{suffix}{path.suffix}" for path in (Path(AP_TABLE), Path(CONTACT_SHEET)))
        files[name] = EvaluationFiles(table, sheet, suffix)
    return files


class Evaluation:
    """Scores a model on the validation sets, any number of times. Detection is compiled once.

    Args:
        card: says how images are preprocessed.
        on_error: "raise", or "skip": an image that cannot be read counts as one without detections.

    Attributes:
        compile_seconds: time of the batches for whose shape detection was compiled.
    """

    def __init__(
        self,
        model: MaskRCNN,
        val: Sequence[ValSet],
        card: ModelCard,
        options: EvalOptions,
        *,
        processes: Processes,
        on_error: str = "raise",
    ) -> None:
        self._model = model
        self._val = list(val)
        self._preprocessing = Preprocessing.of(card)
        self._options = options
        self._share = Share(processes.rank, processes.size, processes.gather)
        self._on_error = on_error
        self._compiled = compiled_detect(model)
        self._shapes: set[tuple[int, ...]] = set()  # of the batches for which it is compiled
        self.compile_seconds = 0.0
        # Ground truth without detections. Objects with `ignore` do not train, so they need not be found.
        self._blank = [new_evaluator(model, one.dataset, honor_ignore=True) for one in val]
        self.files = evaluation_files([one.name for one in val])

    def detect(self, *, progress: Callable[[int, int], None], limit: int | None = None) -> list[CocoEvaluator]:
        """Detect on this process's share of the images, and return the detections of all processes for each set.

        Args:
            limit: images of each set, if less than `eval.limit`.
        """
        limits = [one for one in (limit, self._options.limit) if one is not None]
        return [
            detect_dataset(
                self._model,
                val.dataset,
                self._preprocessing,
                batch_size=self._options.batch_size,
                evaluator=CocoEvaluator.of(blank),
                limit=min(limits, default=None),
                on_error=self._on_error,
                share=self._share,
                progress=progress,
                detect=self._timed_detect,
            )
            for val, blank in zip(self._val, self._blank, strict=True)
        ]

    def spread(self, evaluators: Sequence[CocoEvaluator]) -> dict[str, float]:
        """Return the range of AP over resamples of the images of a single small validation set, as numbers to log."""
        images = [len(evaluator.image_results) for evaluator in evaluators]
        if not self._options.resamples or len(images) != 1 or not 1 < images[0] <= FEW_IMAGES:
            return {}
        (evaluator,) = evaluators
        what = "mask" if "segm" in evaluator.iou_types else "box"
        iou_type: Literal["bbox", "segm"] = "segm" if what == "mask" else "bbox"
        drawn = bootstrap_ap(evaluator, iou_type, image_ids=evaluator.image_results, samples=self._options.resamples)
        if not drawn.size:
            return {}
        low, high = np.quantile(drawn, SPREAD)
        return {f"{what}_AP_low": float(low), f"{what}_AP_high": float(high), "val_images": images[0]}

    def _timed_detect(self, images: Any, image_sizes: Any) -> PackedDetections:
        began = time.perf_counter()
        detections = self._compiled(images, image_sizes)
        if tuple(images.shape) not in self._shapes:
            self._shapes.add(tuple(images.shape))
            self.compile_seconds += time.perf_counter() - began
        return detections

    def estimate_seconds(self, *, progress: Callable[[int, int], None]) -> float:
        """Return how long an evaluation takes without compilation, from a few images of each validation set."""
        few = SAMPLED_BATCHES * self._options.batch_size * self._share.num_ranks
        self.detect(progress=progress, limit=few)  # compiles
        compiled, began = self.compile_seconds, time.perf_counter()
        self.detect(progress=progress, limit=few)
        seconds = time.perf_counter() - began - (self.compile_seconds - compiled)
        counts = [min(len(one.dataset), self._options.limit or len(one.dataset)) for one in self._val]
        return seconds * sum(counts) / max(1, sum(min(few, count) for count in counts))

    def score(self, evaluators: Sequence[CocoEvaluator], run_dir: Path, *, step: int) -> Results:
        """Score each set; write its AP table, contact sheet and evaluation/step-XXXXXXXX.json, in any thread."""
        (run_dir / EVALUATION_DIR).mkdir(exist_ok=True)
        results = {}
        for val, evaluator in zip(self._val, evaluators, strict=True):
            files = self.files[val.name]
            result = evaluator.evaluate(image_ids=evaluator.image_results)
            settings = {"step": step, "annotations": val.dataset.name, "limit": self._options.limit}
            numbers = run_dir / EVALUATION_DIR / f"{step_name(step)}{files.numbers_suffix}.json"
            table, sheet = run_dir / files.ap_table, run_dir / files.contact_sheet
            set_aside([numbers, table, sheet])
            write_metrics(numbers, result, settings=settings)
            write_ap_table(table, result)
            draw_contact_sheet(sheet, evaluator, on_error=self._on_error)
            results[val.name] = result
        return results
