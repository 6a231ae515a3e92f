"""A COCO instances file and its image folder: checked columns, segmentations decoded when an image is used.

Legend: I images, A annotations, n objects of one image, k crowds of one image.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mrcnn_data.annotations.cache import read_columns
from mrcnn_data.annotations.columns import Id, ids_of
from mrcnn_data.annotations.file import encode_content, read_annotations
from mrcnn_data.annotations.joining import concatenated, match_classes
from mrcnn_data.annotations.opening import (
    Opened,
    PathLike,
    Source,
    find_split,
    open_columns,
    open_without_images,
)
from mrcnn_data.annotations.scoring import ScoredAnnotations, scored_annotations
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.reading import load_image
from mrcnn_data.masks.checks import report_segmentations
from mrcnn_data.masks.rasterising import full_mask
from mrcnn_data.masks.segmentation import Segmentation, decode_segmentation
from mrcnn_data.report import Report

IN_MEMORY = Path("annotations in memory")  # used in messages in place of the path of a file


class Instances(NamedTuple):
    """The objects of one image, in pixels of the image file.

    Attributes:
        boxes: float32 [n, 4] (x1, y1, x2, y2), clipped to the image.
        classes: int32 [n].
        segmentations: n, None for an object with a box only.
        annotation_ids: n, as in the file.
        crowd_boxes: float32 [k, 4], regions (`iscrowd` or `ignore`). They are not trained as objects. What lies in them
            is trained as background, unless `model.crowd_overlap_threshold` is below 1.
    """

    boxes: np.ndarray
    classes: np.ndarray
    segmentations: list[Segmentation | None]
    annotation_ids: list[Id | None]
    crowd_boxes: np.ndarray


class CocoDataset:
    """Images with their usable annotations.

    Attributes:
        sources: annotation files and image folders; several if they were opened together.
        image_ids: as in the file, in its order; with several files an id may occur more than once.
        file_names: relative to the image folder.
        image_sizes: int64 [I, 2] (h, w), pixels as stored.
        category_ids: sorted; contiguous class c is `category_ids[c - 1]`.
        class_names: the name of class c is `class_names[c - 1]`.
        annotations: the columns of all annotations.
        opening_report: the part of `report` that is known from opening, without decoding segmentations.
    """

    def __init__(self, opened: Opened) -> None:
        self.sources = opened.sources
        self._source_offsets = opened.source_offsets
        self.image_ids = opened.image_ids
        self.file_names = opened.file_names
        self.image_sizes = opened.image_sizes
        self.category_ids = tuple(sorted(opened.categories))
        self.class_names = tuple(opened.categories[category_id] for category_id in self.category_ids)
        self.annotations = opened.annotations
        self.opening_report = opened.report

    @classmethod
    def open(
        cls,
        annotations: PathLike | Sequence[PathLike],
        images: PathLike | Sequence[PathLike],
        *,
        on_error: str = "raise",
        cache_dir: PathLike | None = None,
        allow_errors: bool = False,
    ) -> CocoDataset:
        """Read one or several instances files, and check that every image file exists.

        Args:
            annotations, images: an annotation file and its image folder, or lists of the same length.
            on_error: "raise", or "skip": missing image files are only reported; see `on_error` of the loaders.
            cache_dir: folder for mapped copies, which open in a fraction of the time and are shared by all processes
                (see `mrcnn_data.annotations.cache`). None: the file is read each time.
            allow_errors: leave out what cannot be used, and only report it: for tools that look at faulty files.
        Raises:
            DatasetError: anything that makes the data unusable, in one line.
        """
        files = [annotations] if isinstance(annotations, (str, os.PathLike)) else list(annotations)
        folders = [images] if isinstance(images, (str, os.PathLike)) else list(images)
        if len(files) != len(folders) or not files:
            raise DatasetError(
                f"{len(files)} annotation files and {len(folders)} image folders: give one folder for each file"
            )
        cache = None if cache_dir is None else Path(cache_dir)
        parts = []
        for file, folder in zip(files, folders, strict=True):
            content = read_columns(Path(file), cache)
            source = Source(Path(file), Path(folder))
            parts.append(
                open_columns(content.columns, content.report, source, on_error=on_error, allow_errors=allow_errors)
            )
        return cls(concatenated(parts))

    @classmethod
    def from_root(
        cls,
        root: PathLike,
        split: str | Sequence[str],
        *,
        on_error: str = "raise",
        cache_dir: PathLike | None = None,
        allow_errors: bool = False,
    ) -> CocoDataset:
        """Open a split of a root, in COCO's layout or Roboflow's (see `find_split`); several splits together."""
        sources = [find_split(root, name) for name in ([split] if isinstance(split, str) else split)]
        return cls.open(
            [source.annotation_path for source in sources],
            [source.image_dir for source in sources],
            on_error=on_error,
            cache_dir=cache_dir,
            allow_errors=allow_errors,
        )

    @classmethod
    def from_dicts(
        cls,
        *,
        images: Sequence[Mapping[str, Any]],
        annotations: Sequence[Mapping[str, Any]],
        categories: Sequence[Mapping[str, Any]],
        image_dir: PathLike,
        on_error: str = "raise",
        allow_errors: bool = False,
    ) -> CocoDataset:
        """Make a dataset from the lists of a COCO file that are in memory; nothing is written.

        Args:
            images, annotations, categories: entries as a COCO file has them.
            image_dir: folder that the file names are relative to.
            on_error, allow_errors: see `open`.
        Raises:
            DatasetError: see `open`; messages call the lists "annotations in memory".
        """
        lists = {"images": images, "annotations": annotations, "categories": categories}
        data = encode_content({name: list(entries) for name, entries in lists.items()})
        source = Source(IN_MEMORY, Path(image_dir))
        columns, report, _ = read_annotations(source.annotation_path, data=data)
        return cls(open_columns(columns, report, source, on_error=on_error, allow_errors=allow_errors))

    @classmethod
    def without_images(
        cls,
        annotations: PathLike | Mapping[str, Any],
        *,
        image_sizes: Mapping[Any, tuple[int, int]] | None = None,
    ) -> CocoDataset:
        """Read annotations for scoring. Image files, file names and unique annotation ids are not needed.

        Args:
            annotations: path of a file, or its content.
            image_sizes: (h, w) by image id; they replace those of the file. An image with neither gets the size of its
                RLEs, or (0, 0) if it has only boxes.
        Raises:
            DatasetError: it cannot be read, or an image of unknown size has polygons.
        """
        if isinstance(annotations, Mapping):
            path, data = IN_MEMORY, encode_content(annotations)
        else:
            path, data = Path(annotations), None
        columns, report, _ = read_annotations(path, data=data, for_training=False)
        return cls(open_without_images(columns, report, path, image_sizes or {}))

    @property
    def annotation_path(self) -> Path:
        """Path of the annotation file.

        Raises:
            ValueError: there are several files.
        """
        if len(self.sources) > 1:
            raise ValueError(f"{self.name}: several annotation files; `sources` lists them")
        return self.sources[0].annotation_path

    @property
    def image_dir(self) -> Path:
        """Folder of all images.

        Raises:
            ValueError: there are several.
        """
        if len({source.image_dir for source in self.sources}) > 1:
            raise ValueError(f"{self.name}: several image folders; `image_path(index)` returns the path of an image")
        return self.sources[0].image_dir

    @property
    def name(self) -> str:
        """Names of the annotation files, for messages and JSON: bytes that are not UTF-8 are escaped."""
        names = " + ".join(str(source.annotation_path) for source in self.sources)
        return names.encode("utf-8", "backslashreplace").decode()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.category_ids) + 1

    def source_of(self, index: int) -> Source:
        """Return the annotation file and image folder of image number `index`."""
        return self.sources[int(np.searchsorted(self._source_offsets, index, side="right")) - 1]

    def image_path(self, index: int) -> Path:
        return self.source_of(index).image_dir / self.file_names[index]

    def read_image(self, index: int) -> np.ndarray:
        """Read image number `index`, checked against the annotated size: uint8 [h, w, 3] RGB."""
        height, width = self.image_sizes[index]
        return load_image(self.image_path(index), expected_size=(int(height), int(width)))

    def instances(self, index: int) -> Instances:
        """Decode the objects of image number `index`."""
        height, width = map(int, self.image_sizes[index])
        table = self.annotations
        first, last = table.offsets[index], table.offsets[index + 1]
        objects = first + np.flatnonzero(table.is_object[first:last])
        regions = first + np.flatnonzero(table.is_region[first:last])
        return Instances(
            boxes=table.boxes[objects],
            classes=table.classes[objects],
            segmentations=[
                decode_segmentation(table.segmentations[row], height=height, width=width).segmentation
                for row in objects
            ],
            annotation_ids=ids_of(table.ids, objects),
            crowd_boxes=table.boxes[regions],
        )

    def num_objects(self) -> np.ndarray:
        """Count the objects (not crowds) of every image: int64 [I]."""
        totals = np.concatenate([[0], np.cumsum(self.annotations.is_object)])
        return np.asarray(np.diff(totals[self.annotations.offsets]))

    def classes_of_objects(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the image number (int64) and the class (int32) of every object; crowds are left out."""
        table = self.annotations
        images = np.repeat(np.arange(len(self)), np.diff(table.offsets))  # [A]
        return images[table.is_object], table.classes[table.is_object]

    def describe_annotations(self, rows: np.ndarray) -> list[object]:
        """Return the ids of the annotations in these rows of `annotations`; with several files, the file's name too."""
        ids: list[object] = list(ids_of(self.annotations.ids, rows))
        if len(self.sources) == 1:
            return ids
        images = np.searchsorted(self.annotations.offsets, rows, side="right") - 1
        numbers = np.searchsorted(self._source_offsets, images, side="right") - 1
        return [
            f"{annotation_id} of {self.sources[number].annotation_path.name}"
            for annotation_id, number in zip(ids, numbers, strict=True)
        ]

    def with_classes(self, category_ids: Sequence[int], class_names: Sequence[str], *, reference: str) -> CocoDataset:
        """Return the dataset with the classes of other data or of a model; itself if they are the same.

        Categories are matched by name: other ids, and classes that are missing here, are in the report.

        Args:
            category_ids, class_names: of the others.
            reference: what has them, for messages.
        Raises:
            DatasetError: there are objects of a category that the others do not have.
        """
        own = dict(zip(self.category_ids, self.class_names, strict=True))
        others = dict(sorted(zip(category_ids, class_names, strict=True)))
        if own == others:
            return self
        matched = match_classes(self.annotations.classes, own, others, name=self.name, reference=reference)
        report = copy.deepcopy(self.opening_report)
        report.merge(matched.report)
        return CocoDataset(
            Opened(
                sources=self.sources,
                source_offsets=self._source_offsets,
                image_ids=self.image_ids,
                file_names=self.file_names,
                image_sizes=self.image_sizes,
                categories=others,
                annotations=self.annotations._replace(classes=matched.classes),
                report=report,
            )
        )

    @functools.cached_property
    def scored(self) -> ScoredAnnotations:
        """What an evaluation requires. The first access decodes and rasterises every segmentation once."""
        return scored_annotations(self)

    @functools.cached_property
    def report(self) -> Report:
        """What was dropped or repaired, or looks odd. The first access decodes every segmentation once."""
        report = copy.deepcopy(self.opening_report)
        table = self.annotations
        report_segmentations(
            table.segmentations,
            describe=self.describe_annotations,
            is_object=table.is_object,
            boxes=table.boxes,
            areas=table.areas,
            offsets=table.offsets,
            image_sizes=self.image_sizes,
            report=report,
        )
        return report


def instance_masks(dataset: CocoDataset, image_index: int) -> np.ndarray:
    """Rasterise the objects of an image over the whole image, for pictures.

    Returns:
        uint8 [n, h, w] of 0 and 1, in the order of `dataset.instances(image_index)`; all 0 for a box-only object.
    """
    height, width = map(int, dataset.image_sizes[image_index])
    segmentations = dataset.instances(image_index).segmentations
    masks = np.zeros((len(segmentations), height, width), np.uint8)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        if segmentation is not None:
            mask[...] = full_mask(segmentation, height=height, width=width)
    return masks
