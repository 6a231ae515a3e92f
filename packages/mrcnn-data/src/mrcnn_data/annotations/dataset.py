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

from mrcnn_data.annotations.boxes import check_boxes
from mrcnn_data.annotations.cache import read_columns
from mrcnn_data.annotations.columns import Columns, ConcatenatedSegmentations, Id, Segmentations, compact_ids, ids_of
from mrcnn_data.annotations.file import encode_content, read_annotations
from mrcnn_data.annotations.image_files import SKIPPED, complete_image_sizes, missing_files
from mrcnn_data.annotations.report import Report
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.reading import load_image
from mrcnn_data.masks.checks import report_segmentations
from mrcnn_data.masks.rasterising import full_mask
from mrcnn_data.masks.segmentation import Segmentation, decode_segmentation

PathLike = str | os.PathLike[str]

# COCO 2014 has two splits that share the images of a third.
_IMAGE_FOLDERS = {"minival2014": "val2014", "valminusminival2014": "val2014"}


IN_MEMORY = Path("annotations in memory")  # stands for the path of a file in messages


class Instances(NamedTuple):
    """The objects of one image, source pixels.

    `boxes` float32 [n, 4], clipped to the image; `classes` int32 [n]; `segmentations` n, None = box only;
    `annotation_ids` n, as in the file; `crowd_boxes` float32 [k, 4]: regions (`iscrowd` or `ignore`), never
    objects; background too, unless the trainer leaves them out (`model.crowd_overlap_threshold` below 1).
    """

    boxes: np.ndarray
    classes: np.ndarray
    segmentations: list[Segmentation | None]
    annotation_ids: list[Id | None]
    crowd_boxes: np.ndarray


class Source(NamedTuple):
    """An annotation file, and the folder that its file names are relative to."""

    annotation_path: Path
    image_dir: Path


class Annotations(NamedTuple):
    """Checked annotations of all images, by image.

    Attributes:
        offsets: int64 [I + 1]: those of image i are offsets[i] to offsets[i + 1].
        ids: A, as in the file.
        boxes: float32 [A, 4] (x1, y1, x2, y2), clipped to the image.
        areas: float64 [A], as in the file, NaN where missing.
        classes: int32 [A].
        is_object, is_region: bool [A]; what is neither is not used.
        segmentations: A.
    """

    offsets: np.ndarray
    ids: np.ndarray | list[Id | None]
    boxes: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    is_object: np.ndarray
    is_region: np.ndarray
    segmentations: Segmentations


class CocoDataset:
    """Images with their usable annotations.

    Attributes:
        sources: annotation files and image folders; several where they were opened together.
        image_ids: as in the file, in its order; of several files an id may occur again.
        file_names: relative to the image folder.
        image_sizes: int64 [I, 2] (h, w), pixels as stored.
        category_ids: sorted; contiguous class c is `category_ids[c - 1]`.
        class_names: likewise, `class_names[c - 1]`.
        opening_report: the part of `report` that is known from opening, without decoding segmentations.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        source_offsets: Sequence[int],
        image_ids: list[Id],
        file_names: list[str],
        image_sizes: np.ndarray,
        categories: dict[int, str],
        annotations: Annotations,
        opening_report: Report,
    ) -> None:
        self.sources = tuple(sources)
        self._source_offsets = np.asarray(source_offsets)  # number of the first image of each source
        self.image_ids = image_ids
        self.file_names = file_names
        self.image_sizes = image_sizes
        self.category_ids = tuple(sorted(categories))
        self.class_names = tuple(categories[category_id] for category_id in self.category_ids)
        self.annotations = annotations
        self.opening_report = opening_report

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
        """Read an instances file and check that every image file is there; or several, one after the other.

        Args:
            annotations, images: file and image folder, or as many of the one as of the other.
            on_error: "raise", or "skip": missing image files are reported and left to the loader's `on_error`.
            cache_dir: folder for mapped copies, which open in a fraction of the time and are shared by all processes
                (see `annotation_cache`). None: the file is read each time.
            allow_errors: leave out what cannot be used, and only report it: for tools that look at faulty files.
        Raises:
            DatasetError: anything that makes the data unusable, in one line.
        """
        files = [annotations] if isinstance(annotations, (str, os.PathLike)) else list(annotations)
        folders = [images] if isinstance(images, (str, os.PathLike)) else list(images)
        if len(files) != len(folders) or not files:
            raise DatasetError(f"{len(files)} annotation files and {len(folders)} image folders do not go together")
        cache = None if cache_dir is None else Path(cache_dir)
        return _concatenated(
            [
                _open_one(Source(Path(file), Path(folder)), cache, on_error=on_error, allow_errors=allow_errors)
                for file, folder in zip(files, folders, strict=True)
            ]
        )

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
        """Open ROOT/annotations/instances_SPLIT.json with the images of ROOT/SPLIT/; several splits together."""
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
            on_error, allow_errors: as of `open`.
        Raises:
            DatasetError: as of `open`; messages call the lists "annotations in memory".
        """
        lists = {"images": images, "annotations": annotations, "categories": categories}
        data = encode_content({name: list(entries) for name, entries in lists.items()})
        source = Source(IN_MEMORY, Path(image_dir))
        columns, report = read_annotations(source.annotation_path, data=data)
        return open_columns(columns, report, source, on_error=on_error, allow_errors=allow_errors)

    @property
    def annotation_path(self) -> Path:
        """Of the only annotation file.

        Raises:
            ValueError: there are several.
        """
        if len(self.sources) > 1:
            raise ValueError(f"{self.name} are several annotation files; `sources` lists them")
        return self.sources[0].annotation_path

    @property
    def image_dir(self) -> Path:
        """Folder of all images.

        Raises:
            ValueError: there are several.
        """
        if len({source.image_dir for source in self.sources}) > 1:
            raise ValueError(f"{self.name} have several image folders; `image_path` knows which")
        return self.sources[0].image_dir

    @property
    def name(self) -> str:
        """The annotation files, for messages."""
        return " + ".join(str(source.annotation_path) for source in self.sources)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """With background."""
        return len(self.category_ids) + 1

    def source_of(self, index: int) -> Source:
        """The annotation file and image folder of image number `index`."""
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
        """List the objects (not crowds): int64 number of the image, int32 class, of each."""
        table = self.annotations
        images = np.repeat(np.arange(len(self)), np.diff(table.offsets))  # [A]
        return images[table.is_object], table.classes[table.is_object]

    def describe_annotations(self, rows: np.ndarray) -> list[object]:
        """Name annotations, by their rows in `annotations`: ids, with the file where there are several."""
        ids: list[object] = list(ids_of(self.annotations.ids, rows))
        if len(self.sources) == 1:
            return ids
        images = np.searchsorted(self.annotations.offsets, rows, side="right") - 1
        numbers = np.searchsorted(self._source_offsets, images, side="right") - 1
        return [
            f"{annotation_id} of {self.sources[number].annotation_path.name}"
            for annotation_id, number in zip(ids, numbers, strict=True)
        ]

    @functools.cached_property
    def report(self) -> Report:
        """What was dropped, repaired or looks odd. The first access decodes every segmentation once."""
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


def find_split(root: PathLike, split: str) -> Source:
    """Find annotation file and image folder of ROOT/annotations/instances_SPLIT.json and ROOT/SPLIT/.

    Raises:
        DatasetError: the root or the split does not exist.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: the data root does not exist")
    annotation_path = folder / "annotations" / f"instances_{split}.json"
    if not annotation_path.is_file():
        splits = sorted(path.stem.removeprefix("instances_") for path in folder.glob("annotations/instances_*.json"))
        raise DatasetError(
            f"{annotation_path}: split {split!r} does not exist"
            + (f"; {folder} has {', '.join(splits)}" if splits else "")
        )
    image_dir = folder / split
    if not image_dir.is_dir() and split in _IMAGE_FOLDERS:
        image_dir = folder / _IMAGE_FOLDERS[split]
    return Source(annotation_path, image_dir)


def _open_one(source: Source, cache_dir: Path | None, *, on_error: str, allow_errors: bool) -> CocoDataset:
    columns, report = read_columns(source.annotation_path, cache_dir)
    return open_columns(columns, report, source, on_error=on_error, allow_errors=allow_errors)


def open_columns(columns: Columns, report: Report, source: Source, *, on_error: str, allow_errors: bool) -> CocoDataset:
    """Check the columns of a file against its images; see `CocoDataset.open`."""
    if not source.image_dir.is_dir():
        raise DatasetError(f"{source.image_dir}: the image folder does not exist (for {source.annotation_path})")
    _report_missing_files(columns, source, report, on_error=on_error)
    if not allow_errors:
        report.raise_errors()
    sizes, is_known = complete_image_sizes(
        columns, source.image_dir, report, on_error="skip" if allow_errors else on_error
    )
    boxes, usable = check_boxes(columns, sizes, report)
    if not is_known.all():
        usable &= is_known[columns.image_index]
    is_region = columns.is_crowd | columns.is_ignored
    _note_oddities(columns, usable, report)
    return CocoDataset(
        sources=[source],
        source_offsets=[0],
        image_ids=columns.image_ids,
        file_names=columns.file_names,
        image_sizes=sizes,
        categories=dict(zip(columns.category_ids, columns.class_names, strict=True)),
        annotations=Annotations(
            offsets=columns.offsets,
            ids=columns.annotation_ids,
            boxes=boxes,
            areas=columns.areas,
            classes=columns.classes,
            is_object=usable & ~is_region,
            is_region=usable & is_region,
            segmentations=columns.segmentations,
        ),
        opening_report=report,
    )


def _report_missing_files(columns: Columns, source: Source, report: Report, *, on_error: str) -> None:
    missing = missing_files(columns.file_names, source.image_dir)
    if not missing:
        return
    path, image_id = source.image_dir / columns.file_names[missing[0]], columns.image_ids[missing[0]]
    is_error = on_error == "raise"
    report.add(
        "image file missing",
        severity="error" if is_error else "dropped",
        action="nothing trains before it is there, or data.on_error=skip" if is_error else SKIPPED,
        where=[columns.image_ids[index] for index in missing],
        what="image",
        message=f"{path}: the file of image {image_id!r} is missing (listed in {source.annotation_path})",
    )


def _note_oddities(columns: Columns, usable: np.ndarray, report: Report) -> None:
    as_region = "never an object; background unless model.crowd_overlap_threshold is below 1"
    crowds = columns.ids_where(columns.is_crowd)
    ignored = columns.ids_where(columns.is_ignored & ~columns.is_crowd)
    report.add("iscrowd", severity="note", action=as_region, where=crowds)
    report.add("ignore", severity="note", action=as_region, where=ignored)
    totals = np.concatenate([[0], np.cumsum(usable)])
    empty = np.flatnonzero(np.diff(totals[columns.offsets]) == 0)
    report.add(
        "image without annotations",
        severity="note",
        action="trains as background",
        where=[columns.image_ids[index] for index in empty],
        what="image",
    )
    if len(set(columns.file_names)) < len(columns.file_names):
        seen: set[str] = set()
        again = [name for name in columns.file_names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        report.add("image file listed twice", severity="note", action="trains twice", where=again, what="file")


def _concatenated(parts: list[CocoDataset]) -> CocoDataset:
    """One dataset after the other; classes are those of all.

    Raises:
        DatasetError: a category id or a name means different classes in two of them.
    """
    if len(parts) == 1:
        return parts[0]
    categories: dict[int, str] = {}
    report = Report()
    for part in parts:
        _add_categories(categories, part)
        report.merge(part.opening_report, source=part.annotation_path.name)
    tables = [part.annotations for part in parts]
    class_of = {category_id: number for number, category_id in enumerate(sorted(categories), start=1)}
    firsts = np.cumsum([0, *(len(table.classes) for table in tables)])
    return CocoDataset(
        sources=[source for part in parts for source in part.sources],
        source_offsets=np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist(),
        image_ids=[image_id for part in parts for image_id in part.image_ids],
        file_names=[name for part in parts for name in part.file_names],
        image_sizes=np.concatenate([part.image_sizes for part in parts]),
        categories=categories,
        annotations=Annotations(
            offsets=np.concatenate([[0], *(t.offsets[1:] + first for t, first in zip(tables, firsts, strict=False))]),
            ids=compact_ids([item for table in tables for item in ids_of(table.ids, np.arange(len(table.classes)))]),
            boxes=np.concatenate([table.boxes for table in tables]),
            areas=np.concatenate([table.areas for table in tables]),
            classes=np.concatenate([_renumbered(part, class_of) for part in parts]),
            is_object=np.concatenate([table.is_object for table in tables]),
            is_region=np.concatenate([table.is_region for table in tables]),
            segmentations=ConcatenatedSegmentations([table.segmentations for table in tables]),
        ),
        opening_report=report,
    )


def _add_categories(categories: dict[int, str], part: CocoDataset) -> None:
    ids = {name: category_id for category_id, name in categories.items()}
    for category_id, name in zip(part.category_ids, part.class_names, strict=True):
        if categories.get(category_id, name) != name:
            raise DatasetError(
                f"{part.annotation_path}: category {category_id} is {name!r}, "
                f"in the files before it is {categories[category_id]!r}"
            )
        if ids.get(name, category_id) != category_id:
            raise DatasetError(
                f"{part.annotation_path}: category {name!r} has the id {category_id}, in the files before {ids[name]}"
            )
        categories[category_id] = name


def _renumbered(part: CocoDataset, class_of: dict[int, int]) -> np.ndarray:
    """Classes of the part as classes of the whole: int32 [A of the part]."""
    table = np.array([0, *(class_of[category_id] for category_id in part.category_ids)], np.int32)
    return np.asarray(table[part.annotations.classes])
