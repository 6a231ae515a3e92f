"""The worst mistakes of an evaluation as pictures: surest false detections, largest missed objects.

Images are uint8 RGB [h, w, 3]; boxes (x1, y1, x2, y2), pixels of the original image.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mrcnn_data import load_image
from mrcnn_data.drawing import Instance, draw_instances
from mrcnn_eval.mistakes.outcomes import DUPLICATE, WRONG_KINDS, Outcomes
from mrcnn_eval.report.pictures import corners
from mrcnn_eval.report.plots import DataUri
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator
from mrcnn_eval.scoring.ground_truth import GroundTruthError
from mrcnn_eval.scoring.segmentation import Segmentation, to_mask

TRUTH_COLOR, FOUND_COLOR = (51, 136, 255), (255, 149, 0)  # blue and orange, which color-blind readers tell apart
MAX_PER_IMAGE = 2  # else one bad image could fill the gallery
CONTEXT = 0.75  # of the box's edges, shown on every side of it
MIN_CROP = 48  # pixels
MAX_EDGE = 480  # of a picture, pixels
MAX_BYTES = 100_000  # of a picture: with 24 of them in base64 the report stays below 5 MB
QUALITIES = (85, 70, 50, 30, 10)  # of JPEG, the first that fits


class Exhibit(NamedTuple):
    """A mistake to look at.

    Attributes:
        kind: "missed", or the kind of the false detection.
        class_name: of the detection, or of the missed object.
        score: of the detection; None for a missed object.
        file_name: of the image.
        explanation: one sentence.
        picture: a data URI of a JPEG: ground truth blue, detections orange, the mistake itself named.
    """

    kind: str
    class_name: str
    score: float | None
    file_name: str
    explanation: str
    picture: str


def false_detections(
    evaluator: CocoEvaluator, result: Outcomes, images: Path, *, threshold: float, count: int
) -> list[Exhibit]:
    """Show the false detections from `threshold` up, highest scores first, at most `MAX_PER_IMAGE` of an image.

    Args:
        evaluator: holds ground truth and detections.
        result: its outcomes.
        images: folder that the file names are relative to.
        threshold: detections of a lower score are neither shown nor drawn beside others.
        count: exhibits at most.

    Raises:
        DatasetError: an image file that is missing, broken, or of another size than the ground truth says.
        GroundTruthError: an image without a file name.
    """
    wrong = result.wrong_detections(threshold)
    wrong = wrong[np.argsort(-result.det_scores[wrong], kind="stable")]
    exhibits = []
    for at in _spread_over_images(wrong, result.det_images, count=count):
        scene = _Scene(evaluator, result, images, int(result.det_images[at]), threshold=threshold)
        name, score = result.class_names[result.det_classes[at]], float(result.det_scores[at])
        row, object_row = int(result.det_rows[at]), int(result.det_objects[at])
        box = scene.detection_box(row)
        if object_row >= 0:
            box = _around(box, scene.truth_box(object_row))
        exhibits.append(
            Exhibit(
                kind=WRONG_KINDS[int(result.det_kinds[at])],
                class_name=name,
                score=score,
                file_name=scene.file_name,
                explanation=_explanation(evaluator, result, int(at)),
                picture=scene.picture(box, named_detection=row, label=f"{name} {score:.2f}"),
            )
        )
    return exhibits


def missed_objects(
    evaluator: CocoEvaluator, result: Outcomes, images: Path, *, threshold: float, count: int
) -> list[Exhibit]:
    """Show the largest objects that no detection from `threshold` up found; see `false_detections`."""
    truth = evaluator.ground_truth
    missed = result.missed_objects(threshold)
    missed = missed[np.argsort(-truth.areas[result.object_rows[missed]], kind="stable")]
    exhibits = []
    for at in _spread_over_images(missed, result.object_images, count=count):
        scene = _Scene(evaluator, result, images, int(result.object_images[at]), threshold=threshold)
        name, row = result.class_names[result.object_classes[at]], int(result.object_rows[at])
        found = float(result.found_scores[at])
        why = "nothing found it" if np.isneginf(found) else f"found only at a score of {found:.2f}"
        exhibits.append(
            Exhibit(
                kind="missed",
                class_name=name,
                score=None,
                file_name=scene.file_name,
                explanation=f"Area {truth.areas[row]:.0f} px: {why}.",
                picture=scene.picture(scene.truth_box(row), named_truth=row, label=name),
            )
        )
    return exhibits


def _spread_over_images(rows: np.ndarray, images: np.ndarray, *, count: int) -> Iterator[int]:
    shown: Counter[int] = Counter()
    for row in rows.tolist():
        image = int(images[row])
        if shown[image] < MAX_PER_IMAGE:
            shown[image] += 1
            yield row
        if shown.total() == count:
            return


def _explanation(evaluator: CocoEvaluator, result: Outcomes, at: int) -> str:
    kind, object_row = WRONG_KINDS[int(result.det_kinds[at])], int(result.det_objects[at])
    if object_row < 0:
        return "No object is near enough."
    truth = evaluator.ground_truth
    name, overlap = truth.category_names[truth.category_indices[object_row]], f"IoU {result.det_ious[at]:.2f}"
    if result.det_kinds[at] == DUPLICATE:
        return f"The {name} is found already, by a better detection ({overlap})."
    return f"Overlaps an object of class {name}, {overlap}" + (": too little." if kind == "localisation" else ".")


class _Scene:
    """An image with its objects and detections, to cut pictures out of."""

    def __init__(
        self, evaluator: CocoEvaluator, result: Outcomes, images: Path, number: int, *, threshold: float
    ) -> None:
        self._truth = evaluator.ground_truth
        self._results = evaluator.image_results.get(result.image_ids[number])
        index = self._truth.image_ids.index(result.image_ids[number])
        name = self._truth.file_names[index]
        if name is None:
            raise GroundTruthError(f"image {result.image_ids[number]!r} of the ground truth has no file_name")
        self.file_name = name
        height, width = (int(edge) for edge in self._truth.image_sizes[index])
        self._image = load_image(images / name, expected_size=(height, width) if height else None)
        self._truth_rows = np.flatnonzero(self._truth.image_indices == index)
        of_image = (result.det_images == number) & (result.det_scores >= threshold)
        self._shown_rows = result.det_rows[of_image]

    def truth_box(self, row: int) -> np.ndarray:
        return np.asarray(corners(self._truth.boxes[row]))

    def detection_box(self, row: int) -> np.ndarray:
        assert self._results is not None
        box, rle = self._results.boxes[row], self._results.rles[row]
        if np.isnan(box).any():  # a mask alone
            assert rle is not None
            rows, columns = np.nonzero(to_mask(rle, size=self._size))
            if not rows.size:  # nothing to point at: the whole image
                return np.array([0, 0, self._size[1], self._size[0]], float)
            return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)
        return np.asarray(corners(box))

    @property
    def _size(self) -> tuple[int, int]:
        return self._image.shape[0], self._image.shape[1]

    def picture(
        self, box: np.ndarray, *, label: str, named_truth: int | None = None, named_detection: int | None = None
    ) -> str:
        """Draw the surroundings of a box, with `label` at one object or detection, which is drawn last."""
        crop = _crop(box, self._size)
        instances = []
        for row in _last(self._truth_rows, named_truth):
            segmentation = self._truth.segmentations[row]
            text = label if row == named_truth else ""
            instances.append((self.truth_box(row), segmentation, text, TRUTH_COLOR))
        for row in _last(self._shown_rows, named_detection):
            assert self._results is not None
            text = label if row == named_detection else ""
            instances.append((self.detection_box(row), self._results.rles[row], text, FOUND_COLOR))
        x1, y1, x2, y2 = crop
        drawn = [self._cut(*instance, crop=crop) for instance in instances if _overlaps(instance[0], crop)]
        return _jpeg(draw_instances(self._image[y1:y2, x1:x2], drawn, max_edge=MAX_EDGE))

    def _cut(
        self,
        box: np.ndarray,
        segmentation: Segmentation | None,
        label: str,
        color: tuple[int, int, int],
        *,
        crop: tuple[int, int, int, int],
    ) -> Instance:
        x1, y1, x2, y2 = crop
        mask = None if segmentation is None else to_mask(segmentation, size=self._size)[y1:y2, x1:x2]
        moved = box - [x1, y1, x1, y1]
        return Instance((moved[0], moved[1], moved[2], moved[3]), mask, label, color)


def _last(rows: np.ndarray, row: int | None) -> Iterable[int]:
    others = [other for other in rows.tolist() if other != row]
    return others if row is None else [*others, row]


def _around(box: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])])


def _overlaps(box: np.ndarray, crop: tuple[int, int, int, int]) -> bool:
    return box[0] < crop[2] and box[1] < crop[3] and box[2] > crop[0] and box[3] > crop[1]


def _crop(box: np.ndarray, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the box with its surroundings, at least `MIN_CROP` wide and high, inside an image of `size` (h, w)."""
    limits = np.array([size[1], size[0]])  # (w, h)
    low, high = np.clip(box[:2], 0, limits - 1), np.clip(box[2:], 1, limits)
    middle = (low + high) / 2
    half = np.maximum((high - low) * (1 + 2 * CONTEXT), MIN_CROP) / 2
    x1, y1 = (max(0, math.floor(value)) for value in middle - half)
    x2, y2 = (min(int(limit), math.ceil(value)) for value, limit in zip(middle + half, limits, strict=True))
    return x1, y1, x2, y2


def _jpeg(picture: np.ndarray) -> str:
    for quality in QUALITIES:
        ok, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert ok
        if len(data) <= MAX_BYTES:
            break
    return DataUri("data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii"))
