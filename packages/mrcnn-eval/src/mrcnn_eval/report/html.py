"""An evaluation as one HTML page that needs no other file and no network.

Legend: K classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from mrcnn_data import visible, write_output
from mrcnn_eval.mistakes.counts import best_threshold, calibration, class_errors, confusion
from mrcnn_eval.mistakes.outcomes import WRONG_KINDS, Outcomes, outcomes
from mrcnn_eval.report.comparison import Comparison, most_changed
from mrcnn_eval.report.gallery import MAX_PER_IMAGE, Exhibit, false_detections, missed_objects
from mrcnn_eval.report.plots import ap_by_size_plot, calibration_plot, precision_recall_plot, score_plot
from mrcnn_eval.report.tables import HEADINGS, meaning
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator, EvalResult, IouType
from mrcnn_eval.scoring.precision_recall import PrecisionRecall
from mrcnn_eval.scoring.summary import Measures

EXHIBITS = 12  # of false detections, and of missed objects
SCORE_BINS = 20
MAX_MATRIX = 12  # classes; a larger matrix cannot be read, and the list of pairs says more
MAX_PAIRS = 15
MAX_CHANGED_IMAGES = 200
MAX_TEXT = 2000  # characters of a name or another text; a DataUri is not cut
CURVE_SIZE = (100, 32)  # of the small curve of a class, units of its SVG


class ClassRow(NamedTuple):
    """A row of the table of classes.

    Attributes:
        name: of the class.
        numbers: of the class by name, by IoU type, as in `metrics.json`.
        objects: number to be found.
        found: number found, from the threshold up.
        wrong: false detections by kind, from the threshold up.
        curve: points "x,y x,y ..." of precision over recall at the lowest IoU threshold; empty without objects.
    """

    name: str
    numbers: dict[str, dict[str, float]]
    objects: int
    found: int
    wrong: dict[str, int]
    curve: str


class Pair(NamedTuple):
    """Objects of one class that were taken for another."""

    name: str
    taken_for: str
    times: int


class Gallery(NamedTuple):
    """Pictures of one kind of mistake: its title, how many such mistakes there are, and those shown."""

    title: str
    total: int
    exhibits: list[Exhibit]


def write_html_report(
    path: Path,
    evaluator: CocoEvaluator,
    result: EvalResult,
    *,
    metrics: dict[str, Any],
    images: Path | None,
    comparison: Comparison | None = None,
) -> None:
    """Write the page: numbers, curves, counts of mistakes by kind, and the worst mistakes as pictures.

    Args:
        path: of the HTML file.
        evaluator: holds ground truth and detections.
        result: its numbers.
        metrics: content of `metrics.json`, whose numbers the page shows.
        images: folder that the file names of the ground truth are relative to; without it there are no pictures.
        comparison: with another evaluation, to be shown too.

    Raises:
        DatasetError: an image file that is missing, broken, or of another size than the ground truth says.
        GroundTruthError: an image without a file name.
    """
    scored = list(evaluator.image_results) if result.num_images < len(evaluator.ground_truth.image_ids) else None
    curves = evaluator.precision_recall(image_ids=scored)
    judged = outcomes(evaluator, image_ids=scored)
    threshold = best_threshold(judged)
    counts = calibration(judged, num_bins=SCORE_BINS)
    matrix = confusion(judged, threshold=threshold)
    rows = _class_rows(judged, curves, metrics["per_class"], threshold=threshold)
    page = (
        _environment(result.measures)
        .get_template("report.html")
        .render(
            metrics=metrics,
            result=result,
            iou_types=list(result.stats),
            compared=HEADINGS[judged.iou_type],
            threshold=threshold,
            rows=rows,
            comparison=comparison,
            changed_images=[] if comparison is None else most_changed(comparison.images)[:MAX_CHANGED_IMAGES],
            wrong_kinds=list(WRONG_KINDS.values()),
            error_counts=_error_counts(rows),
            matrix=matrix.tolist() if len(rows) <= MAX_MATRIX else None,
            class_names=judged.class_names,
            pairs=_pairs(matrix, judged.class_names),
            calibration_error=counts.error,
            precision_recall=precision_recall_plot(curves, result.measures),
            ap_by_size=ap_by_size_plot(result.stats, result.measures),
            scores=score_plot(counts),
            calibration=calibration_plot(counts),
            curve_size=CURVE_SIZE,
            max_per_image=MAX_PER_IMAGE,
            galleries=None if images is None else _galleries(evaluator, judged, images, threshold=threshold),
        )
    )
    write_output(path, page.encode("utf-8"))


def _galleries(evaluator: CocoEvaluator, judged: Outcomes, images: Path, *, threshold: float) -> list[Gallery]:
    return [
        Gallery(
            "False detections of the highest scores",
            len(judged.wrong_detections(threshold)),
            false_detections(evaluator, judged, images, threshold=threshold, count=EXHIBITS),
        ),
        Gallery(
            "Largest missed objects",
            len(judged.missed_objects(threshold)),
            missed_objects(evaluator, judged, images, threshold=threshold, count=EXHIBITS),
        ),
    ]


def _environment(measures: Measures) -> Environment:
    environment = Environment(
        loader=PackageLoader("mrcnn_eval"),
        autoescape=True,  # class and file names come from files
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ap"] = lambda value: "-" if value < 0 else f"{value:.3f}"
    environment.filters["meaning"] = lambda name: meaning(name, measures)
    environment.filters["heading"] = lambda iou_type: HEADINGS[iou_type]
    return environment


def _shown(value: object) -> object:
    """Escape control and direction characters of text and cut its middle if it is long; pictures and numbers stay."""
    if type(value) is not str or (value.isprintable() and len(value) <= MAX_TEXT):
        return value
    return visible(value, limit=MAX_TEXT)


def _class_rows(
    judged: Outcomes,
    curves: dict[IouType, PrecisionRecall],
    per_class: dict[str, dict[str, dict[str, float]]],
    *,
    threshold: float,
) -> list[ClassRow]:
    errors = class_errors(judged, threshold=threshold)
    precision = curves[judged.iou_type].precision[0, :, :, 0, -1]  # [R, K]
    return [
        ClassRow(
            name=name,
            numbers={iou_type: numbers[name] for iou_type, numbers in per_class.items()},
            objects=int(errors.objects[index]),
            found=int(errors.found[index]),
            wrong={kind: int(errors.wrong[number][index]) for number, kind in WRONG_KINDS.items()},
            curve=_curve_points(precision[:, index]),
        )
        for index, name in enumerate(judged.class_names)
    ]


def _curve_points(precision: np.ndarray) -> str:
    """Draw precision [R] over recall into a box of `CURVE_SIZE`, up to the recall that was reached."""
    reached = np.flatnonzero(precision > 0)
    if not reached.size:
        return ""
    width, height = CURVE_SIZE
    xs = np.arange(reached[-1] + 1) / (len(precision) - 1) * width
    return " ".join(f"{x:g},{(1 - y) * height:.1f}" for x, y in zip(xs, precision, strict=False))


def _error_counts(rows: Iterable[ClassRow]) -> dict[str, int]:
    rows = list(rows)
    counts = {kind: sum(row.wrong[kind] for row in rows) for kind in WRONG_KINDS.values()}
    return counts | {"missed": sum(row.objects - row.found for row in rows)}


def _pairs(matrix: np.ndarray, class_names: tuple[str, ...]) -> list[Pair]:
    """List the pairs of classes that are confused most, the most frequent first."""
    between = matrix[:-1, :-1].copy()
    np.fill_diagonal(between, 0)
    order = np.argsort(-between, axis=None, kind="stable")[:MAX_PAIRS]
    indices = zip(*np.unravel_index(order, between.shape), strict=True)
    return [
        Pair(class_names[row], class_names[col], int(between[row, col])) for row, col in indices if between[row, col]
    ]
