"""Counts and sizes of the objects of a dataset, by class and by image.

Legend: I images, n objects (crowds are not objects).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.images.geometry import resized_sizes
from mrcnn_data.masks.rasterising import segmentation_area

# COCO's size classes, by area in pixels of the file.
SMALL_BELOW, MEDIUM_BELOW = 32**2, 96**2


class ClassStatistics(NamedTuple):
    """Counts of one class.

    Attributes:
        small, medium, large: objects of COCO's size classes.
        without_mask: objects with a box only.
        regions: annotations with `iscrowd` or `ignore`, which are not objects.
    """

    category_id: int
    name: str
    images: int
    objects: int
    small: int
    medium: int
    large: int
    without_mask: int
    regions: int


class Statistics(NamedTuple):
    """Counts and sizes of a dataset; box and mask sizes in pixels of the files.

    Attributes:
        classes: one for every category, in the order of their ids.
        image_sizes: int64 [I, 2] (h, w).
        image_of_object: int64 [n], number of the image.
        box_sizes: float64 [n, 2] (h, w).
        mask_areas: float64 [n], NaN for an object without a mask. For polygons it is the sum of the areas of the
            parts, for run lengths the number of pixels.
    """

    classes: list[ClassStatistics]
    image_sizes: np.ndarray
    image_of_object: np.ndarray
    box_sizes: np.ndarray
    mask_areas: np.ndarray

    @property
    def objects_per_image(self) -> np.ndarray:
        """Count the objects of each image: int64 [I]."""
        return np.bincount(self.image_of_object, minlength=len(self.image_sizes))

    def resized_box_sizes(self, *, short_edge: int, max_size: int) -> np.ndarray:
        """Return box sizes (h, w) after resizing, without scale jitter: float64 [n, 2]."""
        return _resized(
            self.box_sizes, self.image_sizes, self.image_of_object, short_edge=short_edge, max_size=max_size
        )


def resized_box_sizes(dataset: CocoDataset, *, short_edge: int, max_size: int) -> np.ndarray:
    """Return the box sizes (h, w) of all objects after resizing, without scale jitter: float64 [n, 2]."""
    box_sizes, image_of_object = _box_sizes(dataset), dataset.classes_of_objects()[0]
    return _resized(box_sizes, dataset.image_sizes, image_of_object, short_edge=short_edge, max_size=max_size)


def _box_sizes(dataset: CocoDataset) -> np.ndarray:
    x1, y1, x2, y2 = dataset.annotations.boxes[dataset.annotations.is_object].astype(np.float64).T
    return np.stack([y2 - y1, x2 - x1], axis=1)


def _resized(
    box_sizes: np.ndarray, image_sizes: np.ndarray, image_of_object: np.ndarray, *, short_edge: int, max_size: int
) -> np.ndarray:
    resized = resized_sizes(image_sizes, short_edge=short_edge, max_size=max_size)
    return np.asarray(box_sizes * (resized / image_sizes)[image_of_object])


def dataset_statistics(dataset: CocoDataset) -> Statistics:
    """Count and measure all objects; this decodes every segmentation once."""
    table = dataset.annotations
    image_of_object, classes = dataset.classes_of_objects()
    box_sizes = _box_sizes(dataset)
    mask_areas = np.array(
        [
            math.nan if segmentation is None else segmentation_area(segmentation)
            for index in np.unique(image_of_object).tolist()
            for segmentation in dataset.instances(index).segmentations
        ],
        np.float64,
    )
    areas = np.where(np.isnan(mask_areas), box_sizes.prod(axis=1), mask_areas)
    return Statistics(
        classes=[
            _of_class(
                category_id,
                name,
                images=image_of_object[classes == number],
                areas=areas[classes == number],
                without_mask=int(np.isnan(mask_areas[classes == number]).sum()),
                regions=int((table.is_region & (table.classes == number)).sum()),
            )
            for number, (category_id, name) in enumerate(
                zip(dataset.category_ids, dataset.class_names, strict=True), start=1
            )
        ],
        image_sizes=dataset.image_sizes,
        image_of_object=image_of_object,
        box_sizes=box_sizes,
        mask_areas=mask_areas,
    )


def _of_class(
    category_id: int, name: str, *, images: np.ndarray, areas: np.ndarray, without_mask: int, regions: int
) -> ClassStatistics:
    return ClassStatistics(
        category_id,
        name,
        images=len(np.unique(images)),
        objects=len(areas),
        small=int((areas < SMALL_BELOW).sum()),
        medium=int(((areas >= SMALL_BELOW) & (areas < MEDIUM_BELOW)).sum()),
        large=int((areas >= MEDIUM_BELOW).sum()),
        without_mask=without_mask,
        regions=regions,
    )
