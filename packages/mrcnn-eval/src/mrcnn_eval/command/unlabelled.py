"""`--checkpoint DIR --annotations FILE` with a file that lists images but no annotations: that of a test set."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrcnn_data import CocoDataset, DatasetError, read_json, visible
from mrcnn_eval.command.checkpoint import apply_limits, match_classes, run_detection
from mrcnn_eval.command.options import OF_SCORING, UsageError, refuse
from mrcnn_eval.command.output import prepare_output, say_written
from mrcnn_eval.inference.predictions import DETECTIONS
from mrcnn_eval.report.tables import write_results

if TYPE_CHECKING:
    from mrcnn_model import MaskRCNN, ModelCard


def images_alone(path: Path | None) -> dict[str, Any] | None:
    """Read a file that has a list of images and no `annotations`; return None for any other."""
    if path is None:
        return None
    try:
        content = read_json(path)
    except DatasetError:
        return None
    has_images = isinstance(content, dict) and isinstance(content.get("images"), list)
    return content if has_images and content.get("annotations") is None else None


def predict_unlabelled(
    model: MaskRCNN, card: ModelCard, content: Mapping[str, Any], arguments: argparse.Namespace
) -> None:
    """Detect on the images of a file without annotations, and write a results list with its ids of images and classes.

    Raises:
        UsageError: an option needs annotations, or the file lists none of the model's classes.
        DatasetError: an image is missing, or an entry of the file cannot be read.
    """
    path = arguments.annotations
    refuse(arguments, OF_SCORING, f"{path}, which has no annotations to score against")
    of_card = [{"id": id_, "name": name} for id_, name in zip(card.category_ids, card.class_names, strict=True)]
    listed = CocoDataset.from_dicts(
        images=content["images"],
        annotations=[],
        categories=content.get("categories") or of_card,
        image_dir=arguments.image_dir,
    )
    dataset = match_classes(listed, card, arguments.checkpoint)
    ids = _ids_in_file(listed, card)
    if not ids:
        raise UsageError(f"{path} lists none of the classes of {arguments.checkpoint}")
    output = arguments.output or arguments.checkpoint / "predictions"
    prepare_output(output, [DETECTIONS], inputs=[path])
    apply_limits(model, arguments)
    evaluator = run_detection(model, card, dataset, arguments)
    found = evaluator.results()
    results = [{**one, "category_id": ids[one["category_id"]]} for one in found if one["category_id"] in ids]
    write_results(output / DETECTIONS, results)
    print(
        f"{visible(path, limit=2000)} has no annotations: {len(results)} detections on {len(evaluator.image_results)} "
        "images are written, and nothing is scored."
    )
    if len(results) < len(found):
        print(f"{len(found) - len(results)} detections are of classes that the file does not list: left out")
    say_written(output, [DETECTIONS])


def _ids_in_file(listed: CocoDataset, card: ModelCard) -> dict[int, int]:
    """Return the ids of the model's classes in the file, by their ids in the card; classes are matched by name."""
    by_name = dict(zip(listed.class_names, listed.category_ids, strict=True))
    if len(by_name) < len(listed.category_ids):  # a name that occurs twice: the two have the same ids, or none match
        return {category_id: category_id for category_id in card.category_ids}
    named = zip(card.category_ids, card.class_names, strict=True)
    return {category_id: by_name[name] for category_id, name in named if name in by_name}
