"""The ground truth of an evaluation: what `mrcnn_data` reads from an instances file, in the order that scorers need.

Legend: I images, K categories, G annotations.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrcnn_data import CocoDataset, DatasetError, visible
from mrcnn_eval.scoring.segmentation import Rle, mask_areas

logger = logging.getLogger(__name__)


class GroundTruthError(ValueError):
    """A ground truth that cannot be scored against; one line that names file and entry."""


class GroundTruth(NamedTuple):
    """The annotations that count; images and categories sorted by id, as pycocotools orders them.

    Attributes:
        image_ids: I ids, sorted, numbers before text.
        image_sizes: int64 [I, 2] (h, w) pixels, (0, 0) where unknown.
        file_names: I names below `image_dir`, None where the file does not say.
        category_ids: K ids, sorted.
        category_names: K names, made unique by their ids where two categories share one.
        image_indices: int64 [G], index into `image_ids`.
        category_indices: int64 [G], index into `category_ids`.
        boxes: float64 [G, 4] (x, y, w, h), pixels of the image, as in the file.
        areas: float64 [G], pixels, as in the file; if that is not a positive number, the mask's, or else the box's.
        crowd: bool [G].
        ignored: bool [G], the file's `ignore`.
        segmentations: G masks as compressed RLE, None for an object with a box only.
        image_dir: folder of the images, None where only annotations were read.
        zero_ids: int64, the annotations with the id 0, which pycocotools takes for "no object".
    """

    image_ids: tuple[Any, ...]
    image_sizes: np.ndarray
    file_names: tuple[str | None, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    image_indices: np.ndarray
    category_indices: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    ignored: np.ndarray
    segmentations: list[Rle | None]
    image_dir: Path | None = None
    zero_ids: np.ndarray = np.zeros(0, np.int64)


Annotated = str | Path | Mapping[str, Any] | CocoDataset | GroundTruth


def load_ground_truth(
    annotations: Annotated, *, image_sizes: Mapping[Any, tuple[int, int]] | None = None
) -> GroundTruth:
    """Take the ground truth out of an open data set, or read a COCO instances file as training does.

    What is odd in a file is counted and logged. Annotation ids are used in messages only, so id 0 and repeated ids,
    which pycocotools scores wrongly, do no harm.

    Args:
        annotations: a data set, path of a file, its content, or a ground truth, which is returned unchanged.
        image_sizes: (h, w) by image id; they replace those of the file (some tools leave width and height out).

    Returns:
        The checked columns. A file without annotations gives columns of length 0.

    Raises:
        GroundTruthError: naming the file and the entry.
    """
    if isinstance(annotations, GroundTruth):
        return annotations
    if isinstance(annotations, CocoDataset):
        return _ground_truth_of(annotations, image_dir=_common_folder(annotations))
    try:
        dataset = CocoDataset.without_images(annotations, image_sizes=image_sizes)
    except DatasetError as error:
        raise GroundTruthError(str(error)) from error
    truth = _ground_truth_of(dataset, image_dir=None)
    for finding in (*dataset.opening_report.findings, *dataset.scored.report.findings):
        if finding.severity in ("dropped", "repaired") or finding.leaves_box_only:
            logger.warning("%s", visible(f"{dataset.name}: {finding}"))
    return truth


def with_mask_areas(truth: GroundTruth) -> GroundTruth:
    """Return the ground truth with the area of each mask in pixels, or that of the box of an object without one."""
    areas = truth.boxes[:, 2:].prod(axis=1)
    has_mask = np.array([rle is not None for rle in truth.segmentations], bool)
    areas[has_mask] = mask_areas([rle for rle in truth.segmentations if rle is not None])
    return truth._replace(areas=areas)


def _ground_truth_of(dataset: CocoDataset, *, image_dir: Path | None) -> GroundTruth:
    ids, scored = dataset.image_ids, dataset.scored
    order = sorted(range(len(ids)), key=lambda index: (isinstance(ids[index], str), ids[index]))
    _require_unique([ids[index] for index in order], dataset)
    place = np.zeros(len(ids), np.int64)  # in the sorted order, of each image of the data set
    place[order] = np.arange(len(ids))
    return GroundTruth(
        image_ids=tuple(ids[index] for index in order),
        image_sizes=dataset.image_sizes[order].reshape(-1, 2),
        file_names=tuple(_file_name(dataset, index, image_dir) for index in order),
        category_ids=dataset.category_ids,
        category_names=_unique_names(dataset),
        image_indices=place[scored.image_indices],
        category_indices=scored.classes.astype(np.int64) - 1,
        boxes=scored.boxes,
        areas=scored.areas,
        crowd=scored.is_crowd,
        ignored=scored.is_ignored,
        segmentations=scored.rles,
        image_dir=image_dir,
        zero_ids=_with_id_0(dataset, scored.rows),
    )


def _with_id_0(dataset: CocoDataset, rows: np.ndarray) -> np.ndarray:
    ids = dataset.annotations.ids
    has_0 = ids[rows] == 0 if isinstance(ids, np.ndarray) else np.array([ids[row] == 0 for row in rows], bool)
    return np.flatnonzero(has_0)


def _require_unique(ids: list[Any], dataset: CocoDataset) -> None:
    for before, after in itertools.pairwise(ids):
        if before == after:
            raise GroundTruthError(
                f"image id {after!r} is used twice in {dataset.name}: score these files one by one, or renumber"
            )


def _file_name(dataset: CocoDataset, index: int, image_dir: Path | None) -> str | None:
    """Return the name of an image relative to `image_dir`."""
    name = dataset.file_names[index]
    if image_dir is None or image_dir == dataset.source_of(index).image_dir:
        return name or None
    return os.path.relpath(dataset.image_path(index), image_dir)


def _common_folder(dataset: CocoDataset) -> Path:
    folders = {source.image_dir for source in dataset.sources}
    return folders.pop() if len(folders) == 1 else Path(os.path.commonpath(map(os.path.abspath, folders)))


def _unique_names(dataset: CocoDataset) -> tuple[str, ...]:
    names = dataset.class_names
    return tuple(
        name if names.count(name) == 1 else f"{name} (id {category_id})"
        for name, category_id in zip(names, dataset.category_ids, strict=True)
    )
