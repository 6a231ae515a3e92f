"""What a model finds in a user's pictures: one results list, and a drawing over each picture."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from rich.table import Table
from rich.text import Text

from mrcnn_data import CocoDataset, load_image, visible
from mrcnn_data.drawing import draw_instances, write_png
from mrcnn_eval.inference.picture_files import drawing_names
from mrcnn_eval.report.pictures import detected_instances
from mrcnn_eval.report.tables import foreign, write_results
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator

DETECTIONS = "detections.json"
MAX_EDGE = 1600  # of a drawn picture, pixels


@contextmanager
def opened_pictures(pictures: Sequence[Path], *, categories: Iterable[tuple[int, str]]) -> Iterator[CocoDataset]:
    """Make a data set of pictures, without objects; the image ids are the paths as given.

    Photographs are turned upright as their EXIF says, as viewers show them; sizes, boxes and masks are those of the
    upright picture.

    Args:
        pictures: files.
        categories: (id, name) of the model's classes.

    Raises:
        DatasetError: a file that is not a picture, or is cut off.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield CocoDataset.from_dicts(
            images=[_entry(path, upright=Path(folder) / f"{n}.png") for n, path in enumerate(pictures)],
            annotations=[],
            categories=[{"id": category_id, "name": name} for category_id, name in categories],
            image_dir=Path("/"),
        )


def _entry(path: Path, *, upright: Path) -> dict[str, object]:
    """Make the entry of a picture: of its file where a data set reads that upright, else of a copy at `upright`."""
    stored = load_image(path)  # an error names what is wrong with the file
    turned = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)  # as the orientation says
    file = path
    # A data set sees from the size whether to turn an image, but half turns and mirrored images keep the size. And it
    # reads a backslash in a file name as a slash, as files from Windows mean it.
    if (turned.shape == stored.shape and not np.array_equal(turned, stored)) or "\\" in str(path.resolve()):
        write_png(upright, turned)
        file = upright
    height, width = turned.shape[:2]
    return {"id": str(path), "file_name": str(file.resolve().relative_to("/")), "height": height, "width": width}


def write_predictions(output: Path, evaluator: CocoEvaluator, dataset: CocoDataset, *, score_threshold: float) -> None:
    """Write `detections.json`, a COCO results list with the class names, and a PNG of each picture (`drawing_names`).

    Args:
        output: folder to write into.
        evaluator: holds the detections.
        dataset: from `opened_pictures`.
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
