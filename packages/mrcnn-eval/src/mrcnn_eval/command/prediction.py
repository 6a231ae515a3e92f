"""`--checkpoint DIR --images PATH`: find objects in a user's pictures."""

from __future__ import annotations

import argparse

from mrcnn_data import open_console, visible
from mrcnn_eval.command.checkpoint import (
    apply_limits,
    load_checkpoint,
    run_detection,
)
from mrcnn_eval.command.options import UsageError
from mrcnn_eval.command.output import prepare_output, say_written
from mrcnn_eval.inference.picture_files import drawing_names, find_pictures
from mrcnn_eval.inference.pictures import Pictures
from mrcnn_eval.inference.predictions import (
    DETECTIONS,
    nothing_shown,
    prediction_table,
    write_predictions,
)
from mrcnn_eval.report.pictures import PICTURE_SCORE

MOST_NAMED = 10  # files that are no pictures


def predict_pictures(arguments: argparse.Namespace) -> None:
    """Run a checkpoint over pictures; write what it finds as one results list, and draw it over each picture."""
    output = arguments.output or arguments.checkpoint / "predictions"
    if any(path.is_dir() and path.resolve() == output.resolve() for path in arguments.images):
        raise UsageError(f"--output {output}: the drawings would lie among the pictures: choose another folder")
    pictures, left_out = find_pictures(arguments.images)
    _say_left_out(list(left_out.values()))
    names = [DETECTIONS, *drawing_names(pictures)]
    prepare_output(output, names, inputs=pictures)
    model, card, _ = load_checkpoint(arguments)
    apply_limits(model, arguments)
    dataset = Pictures.of(
        {str(path): path for path in pictures}, categories=zip(card.category_ids, card.class_names, strict=True)
    )
    evaluator = run_detection(model, card, dataset, arguments)
    shown_from = PICTURE_SCORE if arguments.score_threshold is None else arguments.score_threshold
    write_predictions(output, evaluator, dataset, score_threshold=shown_from)
    open_console().print(prediction_table(evaluator, score_threshold=shown_from))
    hint = nothing_shown(evaluator, score_threshold=shown_from, model_threshold=model.config.score_threshold)
    if hint is not None:
        print(hint)
    say_written(output, names)


def _say_left_out(faults: list[str]) -> None:
    """Name the files in the folders that are no pictures."""
    if faults:
        more = f" and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
        print(f"left out, no pictures: {visible('; '.join(faults[:MOST_NAMED]), limit=2000)}{more}")
