"""COCO AP of the detections of any model. No TensorFlow.

Legend: n detections of one image, D in all, G ground-truth objects.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from mrcnn_data import visible
from mrcnn_eval.scoring.doubts import doubts_about_results
from mrcnn_eval.scoring.ground_truth import Annotated, load_ground_truth, with_mask_areas
from mrcnn_eval.scoring.image_results import (
    ImageResults,
    ResultsError,
    from_coco,
    image_results,
    to_coco,
    with_plain_numbers,
)
from mrcnn_eval.scoring.precision_recall import PrecisionRecall, ScoringTask
from mrcnn_eval.scoring.segmentation import Rle
from mrcnn_eval.scoring.summary import ALL_AREAS, COCO_AREA_RANGES, COCO_IOU_THRESHOLDS, Measures, summarize
from mrcnn_eval.scoring.tasks import joined, scored_detections, scored_truth

logger = logging.getLogger(__name__)

Backend = Literal["hotcoco", "pycocotools"]
IouType = Literal["bbox", "segm"]
IOU_TYPES: tuple[IouType, ...] = ("bbox", "segm")


class EvalResult(NamedTuple):
    """The numbers of one evaluation, in 0..1; -1 where there is no ground truth to find.

    Attributes:
        stats: the numbers by name (twelve, with COCO's measures), by IoU type: `stats["segm"]["AP50"]`.
        per_class: the same numbers by name, by class name, by IoU type: `per_class["bbox"]["cat"]["AP"]`.
        measures: IoU thresholds, area ranges and limit on detections that they were measured with.
        num_images: images scored.
        num_ground_truths: annotations on them, crowds included.
        num_detections: detections on them.
        warnings: what to know before trusting the numbers, one line each.
    """

    stats: dict[str, dict[str, float]]
    per_class: dict[str, dict[str, dict[str, float]]]
    measures: Measures
    num_images: int
    num_ground_truths: int
    num_detections: int
    warnings: tuple[str, ...]


class CocoEvaluator:
    """Collects detections image by image and scores them as pycocotools does.

    Args:
        annotations: path of a COCO instances file, its content, an open `mrcnn_data.CocoDataset`, which is not read
            again, or a `GroundTruth`. Annotation ids do not matter; missing `iscrowd`, `area`, `info` and `bbox` have
            defaults. With a file, the images need not exist.
        max_dets: detections per image and class that count; COCO's is 100.
        iou_thresholds: over which AP and AR are means, above 0 and rising; COCO's are 0.5, 0.55, ... 0.95.
        area_ranges: pixels (from, to), both ends inclusive, by the name of the size; COCO's are "s", "m" and "l".
        backend: "hotcoco" (fast) or "pycocotools" (reference); the numbers are equal.
        iou_types: what to score: "bbox", "segm" or both.
        image_sizes: (h, w) by image id; they replace those of a file, which may lack width and height.
        honor_ignore: objects with `ignore: 1`, which training leaves out, are neither required nor wrong; by default
            `ignore` has no effect, as in pycocotools, which overwrites it with `iscrowd`.
        pycocotools_id0: count what is found of an annotation with the id 0 as wrong, as pycocotools does by mistake, to
            reproduce published numbers; needs the pycocotools backend.
        mask_areas: sort objects into sizes by the pixels of their masks, or else the area of their boxes, whatever the
            file's `area` says.

    Raises:
        GroundTruthError: an annotation file that cannot be scored against.
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        annotations: Annotated,
        *,
        max_dets: int = 100,
        iou_thresholds: Sequence[float] = COCO_IOU_THRESHOLDS,
        area_ranges: Mapping[str, tuple[float, float]] = COCO_AREA_RANGES,
        backend: Backend = "hotcoco",
        iou_types: Sequence[IouType] = IOU_TYPES,
        image_sizes: Mapping[Any, tuple[int, int]] | None = None,
        honor_ignore: bool = False,
        pycocotools_id0: bool = False,
        mask_areas: bool = False,
    ) -> None:
        measures = Measures(tuple(map(float, iou_thresholds)), dict(area_ranges), max_dets)
        measures.check()
        if backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, not {backend!r}")
        if not iou_types or not set(iou_types) <= set(IOU_TYPES):
            raise ValueError(f"iou_types must be some of {', '.join(IOU_TYPES)}, not {iou_types!r}")
        if pycocotools_id0 and backend != "pycocotools":
            raise ValueError(f"pycocotools_id0 needs backend='pycocotools', not {backend!r}")
        self.measures = measures
        self.pycocotools_id0 = pycocotools_id0
        self.backend = backend
        self.iou_types = tuple(iou_types)
        self.honor_ignore = honor_ignore
        truth = load_ground_truth(annotations, image_sizes=image_sizes)
        self.ground_truth = with_mask_areas(truth) if mask_areas else truth
        self._category_ids = set(self.ground_truth.category_ids)
        self._image_indices = {image_id: index for index, image_id in enumerate(self.ground_truth.image_ids)}
        self.image_results: dict[Any, ImageResults] = {}  # by image id, in the order of adding

    @classmethod
    def of(cls, other: CocoEvaluator) -> CocoEvaluator:
        """Make an evaluator with the ground truth and the settings of another, and no detections."""
        evaluator = copy.copy(other)
        evaluator.image_results = {}
        return evaluator

    def add(
        self,
        image_id: Any,
        boxes: np.ndarray,
        scores: np.ndarray,
        category_ids: np.ndarray,
        rles: Sequence[Rle] | None = None,
    ) -> None:
        """Add all detections of one image; there may be none.

        Args:
            image_id: as in the annotation file.
            boxes: [n, 4] (x1, y1, x2, y2), pixels of the original image.
            scores: [n].
            category_ids: whole numbers [n], as in the annotation file.
            rles: n masks {"size": [h, w], "counts": compressed str or bytes} of the original image's size.

        Raises:
            ResultsError: an unknown image or category, an image added before, or see `image_results`.
        """
        image_id = self._known_id(image_id)
        corners = np.asarray(boxes, np.float64).reshape(-1, 4)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)  # xywh
        size = self._image_size(image_id)
        self._add(
            image_id,
            image_results(image_id, category_ids=category_ids, boxes=boxes, scores=scores, rles=rles, size=size),
        )

    def add_results(self, results: Iterable[Mapping[str, Any]]) -> None:
        """Add a COCO results list, as `results()` gives it and results files hold it.

        Numbers that are written as text are read as the numbers, with a warning.

        Raises:
            ResultsError: an entry that is malformed, or of an unknown image or category, or see `add`.
        """
        entries_of_image: dict[Any, list[Any]] = defaultdict(list)
        num_repaired = 0
        for position, entry in enumerate(results):
            if not isinstance(entry, Mapping) or "image_id" not in entry:
                raise ResultsError(f"result {position}: not an object with an image_id")
            plain = with_plain_numbers(entry)
            num_repaired += plain is not entry
            entries_of_image[self._known_id(entry["image_id"])].append(plain)
        if num_repaired:
            logger.warning("%d results have numbers written as text: read as the numbers", num_repaired)
        for image_id, entries in entries_of_image.items():
            self._add(image_id, from_coco(image_id, entries, size=self._image_size(image_id)))

    def results(self) -> list[dict[str, Any]]:
        """Return all detections as a COCO results list, which pycocotools' `loadRes` takes, unrounded."""
        return [entry for image_id, results in self.image_results.items() for entry in to_coco(image_id, results)]

    def evaluate(self, *, image_ids: Iterable[Any] | None = None) -> EvalResult:
        """Score what was added.

        Args:
            image_ids: the images that count; by default all of the annotation file, added or not.

        Returns:
            The numbers. Without any detection AP is 0, with a warning.
        """
        images = self._scored_images(image_ids)
        columns = self._joined(images)
        truth_kept = self._truth_kept(images)
        counts = [len(self.image_results[image].scores) if image in self.image_results else 0 for image in images]
        places = np.repeat([self._image_indices[image] for image in images], counts).astype(np.int64)
        warnings = doubts_about_results(
            columns,
            self.ground_truth.image_sizes[places],
            has_truth=bool(truth_kept.any()),
            iou_types=self.iou_types,
        )
        for warning in warnings:
            logger.warning("%s", warning)
        curves = self._curves(images, columns, truth_kept)
        names = self.ground_truth.category_names
        return EvalResult(
            stats={iou_type: summarize(curve, self.measures) for iou_type, curve in curves.items()},
            per_class={
                iou_type: {name: summarize(curve, self.measures, category=index) for index, name in enumerate(names)}
                for iou_type, curve in curves.items()
            },
            measures=self.measures,
            num_images=len(images),
            num_ground_truths=int(truth_kept.sum()),
            num_detections=len(columns.scores),
            warnings=warnings,
        )

    def precision_recall(self, *, image_ids: Iterable[Any] | None = None) -> dict[IouType, PrecisionRecall]:
        """Return the curves behind the numbers, by IoU type: precision and recall by class, size, threshold and cap.

        Args:
            image_ids: as for `evaluate`.
        """
        images = self._scored_images(image_ids)
        return self._curves(images, self._joined(images), self._truth_kept(images))

    def task(self, iou_type: IouType, *, image_ids: Iterable[Any] | None = None) -> ScoringTask:
        """Return what the numbers of an IoU type depend on, with the images numbered in the order of their ids.

        Args:
            image_ids: as for `evaluate`.
        """
        images = self._scored_images(image_ids)
        columns, truth_kept = self._joined(images), self._truth_kept(images)
        return self._task(iou_type, images, truth_kept, columns, self._image_numbers(images))

    def _joined(self, images: list[Any]) -> ImageResults:
        return joined([self.image_results[image] for image in images if image in self.image_results])

    def _truth_kept(self, images: list[Any]) -> np.ndarray:
        return np.isin(self.ground_truth.image_indices, [self._image_indices[image] for image in images])

    def _curves(
        self, images: list[Any], columns: ImageResults, truth_kept: np.ndarray
    ) -> dict[IouType, PrecisionRecall]:
        image_numbers = self._image_numbers(images)
        score = _scorer(self.backend)
        return {
            iou_type: score(self._task(iou_type, images, truth_kept, columns, image_numbers))
            for iou_type in self.iou_types
        }

    def _image_numbers(self, images: list[Any]) -> np.ndarray:
        """Return the image of each detection as its number among those scored, from 1: int64 [D]."""
        counts = [len(self.image_results[image].scores) if image in self.image_results else 0 for image in images]
        return np.repeat(np.arange(1, len(images) + 1), counts)

    def _known_id(self, image_id: Any) -> Any:
        """Return the id as the ground truth has it: as given, or else the same number as an int or as text."""
        is_text = isinstance(image_id, str)
        number = int(image_id) if is_text and image_id.isdecimal() and len(image_id) < 20 else image_id
        for candidate in (image_id, number if is_text else str(image_id)):
            try:
                return self.ground_truth.image_ids[self._image_indices[candidate]]
            except (KeyError, TypeError):  # TypeError: a list, for example, cannot be a key
                continue
        raise ResultsError(f"image {visible(repr(image_id))} is not in the ground truth")

    def _image_size(self, image_id: Any) -> tuple[int, int]:
        height, width = self.ground_truth.image_sizes[self._image_indices[image_id]]
        return int(height), int(width)

    def _mask_size(self, image_id: Any) -> tuple[int, int]:
        """Return the (h, w) that masks of an image have; where the file does not say it, that of the detected ones."""
        rles = self.image_results[image_id].rles if image_id in self.image_results else []
        sizes = [self._image_size(image_id), *(tuple(rle["size"]) for rle in rles if rle is not None)]
        return next((size for size in sizes if size != (0, 0)), (1, 1))  # without masks any size will do

    def _add(self, image_id: Any, results: ImageResults) -> None:
        if image_id in self.image_results:
            raise ResultsError(f"image {image_id!r} was added before; its detections would count twice")
        unknown = set(results.category_ids.tolist()) - self._category_ids
        if unknown:
            known = ", ".join(map(str, sorted(self._category_ids)[:20])) + (
                ", ..." if len(self._category_ids) > 20 else ""
            )
            raise ResultsError(
                f"image {image_id!r}: category_id {min(unknown)} is not in the ground truth, which has {known}"
            )
        self.image_results[image_id] = results

    def _scored_images(self, image_ids: Iterable[Any] | None) -> list[Any]:
        if image_ids is None:
            return list(self.ground_truth.image_ids)
        wanted = set(image_ids)
        unknown = wanted - set(self._image_indices)
        if unknown:
            raise ResultsError(f"image {min(unknown, key=str)!r} is not in the ground truth")
        return [image_id for image_id in self.ground_truth.image_ids if image_id in wanted]

    def _task(
        self, iou_type: IouType, images: list[Any], truth_kept: np.ndarray, columns: ImageResults, numbers: np.ndarray
    ) -> ScoringTask:
        masks = iou_type == "segm"
        places = np.asarray([self._image_indices[image_id] for image_id in images], np.int64)  # rising
        sizes = [self._mask_size(image_id) for image_id in images]
        truth, truth_crowd = scored_truth(
            self.ground_truth,
            np.flatnonzero(truth_kept),
            places,
            sizes=sizes if masks else None,
            honor_ignore=self.honor_ignore,
        )
        detections, scores = scored_detections(columns, numbers, self.ground_truth.category_ids, masks=masks)
        return ScoringTask(
            image_sizes=sizes,
            num_categories=len(self.ground_truth.category_ids),
            iou_thresholds=self.measures.iou_thresholds,
            area_ranges=(ALL_AREAS, *self.measures.area_ranges.values()),
            max_dets=self.measures.caps,
            truth=truth,
            truth_crowd=truth_crowd,
            detections=detections,
            scores=scores,
            zero_ids=self._rows_with_id_0(truth_kept) if self.pycocotools_id0 else np.zeros(0, np.int64),
        )

    def _rows_with_id_0(self, truth_kept: np.ndarray) -> np.ndarray:
        """Return which of the kept annotations have the id 0, as positions among them."""
        return np.flatnonzero(np.isin(np.flatnonzero(truth_kept), self.ground_truth.zero_ids))


def _scorer(backend: Backend) -> Callable[[ScoringTask], PrecisionRecall]:
    if backend == "pycocotools":
        from mrcnn_eval.scoring.pycocotools_backend import score_with_pycocotools  # imports matplotlib: 0.5 s

        return score_with_pycocotools
    from mrcnn_eval.scoring.hotcoco_backend import score_with_hotcoco

    return score_with_hotcoco
