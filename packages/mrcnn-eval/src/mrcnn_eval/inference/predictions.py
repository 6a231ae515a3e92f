"""What a model finds in pictures of the user's own: one JSON, and each picture drawn over."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from mrcnn_data import CocoDataset, DatasetError, load_image, visible
from mrcnn_data.drawing.objects import draw_instances, write_png
from mrcnn_eval.command.options import SUFFIXES
from mrcnn_eval.report.pictures import detected_instances, write_picture
from mrcnn_eval.report.tables import foreign, write_results
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator

DETECTIONS = "detections.json"
MAX_EDGE = 1600  # of a drawn picture, pixels


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """List the pictures among files and folders, each once, a folder's in the order of their names.

    Raises:
        DatasetError: a path that does not exist, or a folder without a picture.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise DatasetError(f"--images {path}: does not exist")
            found[path] = None
            continue
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not inside:
            raise DatasetError(f"--images {path}: no picture in this folder ({', '.join(SUFFIXES)})")
        found.update(dict.fromkeys(inside))
    return list(found)


@contextmanager
def opened_pictures(pictures: Sequence[Path], *, categories: Iterable[tuple[int, str]]) -> Iterator[CocoDataset]:
    """Make pictures a data set without objects, whose image ids are the paths as given.

    Photographs are turned upright as their EXIF says, as a viewer shows them; sizes, boxes and masks are of that.

    Args:
        pictures: files.
        categories: (id, name) of the model's classes.

    Raises:
        DatasetError: a file that is no picture, or is cut off.
    """
    with tempfile.TemporaryDirectory() as folder:
        content = {
            "images": [_entry(path, upright=Path(folder) / f"{n}.png") for n, path in enumerate(pictures)],
            "categories": [{"id": category_id, "name": name} for category_id, name in categories],
            "annotations": [],
        }
        annotations = Path(folder) / "pictures.json"
        annotations.write_bytes(msgspec.json.encode(content))
        yield CocoDataset.open(annotations, Path("/"))


def _entry(path: Path, *, upright: Path) -> dict[str, object]:
    """Make the entry of a picture, of itself where a data set reads it upright, else of a copy at `upright`."""
    stored = load_image(path)  # names what is wrong with a file
    turned = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)  # as the orientation says
    file = path
    # A data set tells by the size whether to turn an image, but half turns and mirrorings keep the size.
    if turned.shape == stored.shape and not np.array_equal(turned, stored):
        write_png(upright, turned)
        file = upright
    height, width = turned.shape[:2]
    return {"id": str(path), "file_name": str(file.resolve().relative_to("/")), "height": height, "width": width}


def write_predictions(output: Path, evaluator: CocoEvaluator, dataset: CocoDataset, *, score_threshold: float) -> None:
    """Write `detections.json`, a COCO results list with the class names, and a PNG for each picture.

    Args:
        output: folder to write into.
        evaluator: holds the detections.
        dataset: from `opened_pictures`.
        score_threshold: detections below it are in the JSON, but not drawn.
    """
    names = dict(zip(evaluator.ground_truth.category_ids, evaluator.ground_truth.category_names, strict=True))
    results = [{**entry, "category_name": names[entry["category_id"]]} for entry in evaluator.results()]
    write_results(output / DETECTIONS, results)
    drawings = drawing_names(Path(str(image_id)) for image_id in dataset.image_ids)
    for index, (image_id, name) in enumerate(zip(dataset.image_ids, drawings, strict=True)):
        found = detected_instances(evaluator, image_id, score_threshold=score_threshold)
        write_picture(output / name, draw_instances(dataset.read_image(index), found, max_edge=MAX_EDGE))


def drawing_names(pictures: Iterable[Path]) -> list[str]:
    """Name a PNG after each picture; a second picture of the same name gets a number, upper case or not."""
    names: list[str] = []
    taken: set[str] = set()
    for picture in pictures:
        name, number = f"{picture.stem}.png", 1
        while name.casefold() in taken:
            number += 1
            name = f"{picture.stem}-{number}.png"
        taken.add(name.casefold())
        names.append(name)
    return names


def nothing_shown(evaluator: CocoEvaluator, *, score_threshold: float, model_threshold: float) -> str | None:
    """Explain pictures on which nothing is drawn; None where something is.

    Args:
        evaluator: holds the detections.
        score_threshold: from which they are drawn.
        model_threshold: from which the model gave them.
    """
    highest = max((float(results.scores.max(initial=0)) for results in evaluator.image_results.values()), default=0.0)
    if highest >= score_threshold:
        return None
    if highest == 0:
        return f"No object at a score of {model_threshold:g} or more: a lower --score-threshold shows the less sure."
    digits = 1 - math.floor(math.log10(highest))
    shown = math.floor(highest * 10**digits) / 10**digits  # rounded down: as a threshold it lets the highest through
    return (
        f"No object at a score of {score_threshold:g} or more; the highest score is {shown:g}: "
        f"--score-threshold {shown:g} shows it."
    )


def prediction_table(evaluator: CocoEvaluator, *, score_threshold: float) -> Table:
    """Return a rich table of what was found in each picture, from a score up."""
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
