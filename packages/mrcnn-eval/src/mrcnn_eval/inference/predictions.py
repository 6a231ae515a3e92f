"""What a model finds in a user's pictures: one results list, and a drawing over each picture."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
from rich.table import Table
from rich.text import Text

from mrcnn_data import CocoDataset, visible
from mrcnn_data.drawing import draw_instances, write_png
from mrcnn_eval.inference.picture_files import drawing_names
from mrcnn_eval.report.pictures import detected_instances
from mrcnn_eval.report.tables import foreign, write_results
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator

DETECTIONS = "detections.json"
MAX_EDGE = 1600  # of a drawn picture, pixels


def write_predictions(output: Path, evaluator: CocoEvaluator, dataset: CocoDataset, *, score_threshold: float) -> None:
    """Write `detections.json`, a COCO results list with the class names, and a PNG of each picture (`drawing_names`).

    Args:
        output: folder to write into.
        evaluator: holds the detections.
        dataset: `Pictures`, or a data set.
        score_threshold: detections below it are in the JSON, but not drawn.
    """
    names = dict(zip(evaluator.ground_truth.category_ids, evaluator.ground_truth.category_names, strict=True))
    results = [{**entry, "category_name": names[entry["category_id"]]} for entry in evaluator.results()]
    write_results(output / DETECTIONS, results)
    drawings = drawing_names([Path(str(image_id)) for image_id in dataset.image_ids])
    for index, (image_id, name) in enumerate(zip(dataset.image_ids, drawings, strict=True)):
        found = detected_instances(evaluator, image_id, score_threshold=score_threshold)
        write_png(output / name, draw_instances(dataset.read_image(index), found, max_edge=MAX_EDGE))


def nothing_shown(evaluator: CocoEvaluator, *, score_threshold: float, model_threshold: float) -> str | None:
    """Explain why nothing is drawn on any picture; None where something is drawn.

    Args:
        evaluator: holds the detections.
        score_threshold: detections below it are not drawn.
        model_threshold: the model returns no detections below it.
    """
    highest = max((float(results.scores.max(initial=0)) for results in evaluator.image_results.values()), default=0.0)
    if highest >= score_threshold:
        return None
    if highest == 0:
        return (
            f"No object at a score of {model_threshold:g} or more: a lower --score-threshold shows less certain ones."
        )
    digits = 1 - math.floor(math.log10(highest))
    shown = math.floor(highest * 10**digits) / 10**digits  # rounded down, or as a threshold it would hide the highest
    return (
        f"No object at a score of {score_threshold:g} or more; the highest score is {shown:g}: "
        f"--score-threshold {shown:g} shows it."
    )


def prediction_table(evaluator: CocoEvaluator, *, score_threshold: float) -> Table:
    """Return a rich table of what was found in each picture at a score or above."""
    names = dict(zip(evaluator.ground_truth.category_ids, evaluator.ground_truth.category_names, strict=True))
    table = Table(title=f"Found at score {score_threshold:g} or more")
    table.add_column("picture", overflow="fold")
    table.add_column("objects", justify="right")
    table.add_column("classes", overflow="fold")
    for image_id, results in evaluator.image_results.items():
        shown = results.category_ids[np.asarray(results.scores) >= score_threshold].tolist()
        counts = Counter(names[category_id] for category_id in shown).most_common()
        classes = ", ".join(f"{visible(name)} {count}" for name, count in counts)
        table.add_row(foreign(image_id), str(len(shown)), Text(classes))
    return table
