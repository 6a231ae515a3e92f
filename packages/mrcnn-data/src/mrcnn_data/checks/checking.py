"""Find all faults of a dataset: what opening finds, segmentations, image files, repeated objects, copied images.

Legend: A annotations.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.annotations.opening import SKIPPED
from mrcnn_data.checks.doubts import report_doubts
from mrcnn_data.checks.image_copies import fingerprints, report_copies, report_shared
from mrcnn_data.checks.pixels import report_pixels
from mrcnn_data.checks.report_cache import ReportCache
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.header import read_header
from mrcnn_data.images.reading import READING_THREADS, decode_image, is_tiff, read_image_file
from mrcnn_data.images.tiff import tiff_pages
from mrcnn_data.report import Report

STOPS_WHEN_MET = "training stops when it reads the file, unless data.on_error=skip"


def check_dataset(dataset: CocoDataset, *, image_files: bool = True) -> Report:
    """Find all faults: the dataset's report, and the faults that only show when all of the data is read.

    Args:
        dataset: to check.
        image_files: also read the header of every image file, decode those with an unusual header, and look for copies.
    """
    return check_datasets({"": dataset}, image_files=image_files)[""]


def check_datasets(
    datasets: Mapping[str, CocoDataset],
    *,
    image_files: bool = True,
    on_error: str = "raise",
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Report]:
    """Check each dataset, and compare them with each other: images that two of them share are in both reports.

    Args:
        datasets: by the name that the reports use.
        image_files: as of `check_dataset`.
        on_error: "raise", or "skip": image files that cannot be used are dropped, not errors.
        cache_dir: folder for reports without errors. As long as annotation and image files keep their sizes and times,
            they are not checked again. With None, or a folder that cannot be written to, they are checked every time.
    Returns:
        A report for each name.
    """
    if cache_dir is None:
        return _checked(datasets, image_files=image_files, on_error=on_error)
    cache = ReportCache(datasets, Path(cache_dir), options=(image_files, on_error))
    reports = cache.load()
    if reports is None:
        reports = _checked(datasets, image_files=image_files, on_error=on_error)
        cache.save(reports)
    return reports


def _checked(datasets: Mapping[str, CocoDataset], *, image_files: bool, on_error: str) -> dict[str, Report]:
    reports = {name: copy.deepcopy(dataset.report) for name, dataset in datasets.items()}
    prints = fingerprints(datasets) if image_files else {}
    for name, dataset in datasets.items():
        report = reports[name]
        _report_missing_masks(dataset, report)
        _report_repeated_objects(dataset, report)
        _report_categories(dataset, report)
        report_doubts(dataset, report)
        if image_files:
            _report_image_files(dataset, report, on_error=on_error)
            report_pixels(dataset, report)
            report_copies(dataset, prints[name], report)
    for name, other in itertools.permutations(prints, 2):
        report_shared(
            datasets[name],
            prints[name],
            other=datasets[other],
            other_prints=prints[other],
            other_name=other,
            report=reports[name],
        )
    return reports


def _report_missing_masks(dataset: CocoDataset, report: Report) -> None:
    num_objects = int(dataset.annotations.is_object.sum())
    without_mask = sum(finding.count for finding in report.findings if finding.leaves_box_only)
    report.add(
        "no object has a mask",
        severity="note",
        action="masks are not trained",
        where=[dataset.name] if num_objects and without_mask == num_objects else [],
        what="in",
    )


def _report_repeated_objects(dataset: CocoDataset, report: Report) -> None:
    """Report objects with the same image, class, box and segmentation: often from merging two files."""
    table = dataset.annotations
    images = np.repeat(np.arange(len(dataset)), np.diff(table.offsets))  # [A]
    rows = np.flatnonzero(table.is_object)
    columns = [column[rows] for column in (*table.boxes.T, table.classes, images)]
    order = np.lexsort(columns)  # stable: equal objects stay in the order of the file
    differs = np.zeros(max(len(rows) - 1, 0), bool)
    for column in columns:
        differs |= column[order[1:]] != column[order[:-1]]
    starts = np.concatenate([[0], np.flatnonzero(differs) + 1, [len(rows)]])
    again = []
    for group in np.flatnonzero(np.diff(starts) > 1).tolist():
        seen: set[bytes] = set()
        for row in rows[order[starts[group] : starts[group + 1]]].tolist():
            segmentation = bytes(table.segmentations[row])
            if segmentation in seen:
                again.append(row)
            seen.add(segmentation)
    where = dataset.describe_annotations(np.array(again, np.int64))
    report.add("object listed twice", severity="note", action="both are trained on", where=where)


def _report_categories(dataset: CocoDataset, report: Report) -> None:
    used = set(np.unique(dataset.classes_of_objects()[1]).tolist())
    pairs = list(enumerate(zip(dataset.category_ids, dataset.class_names, strict=True), start=1))
    report.add(
        "category without an object",
        severity="note",
        action="the class is never trained",
        where=[f"{category_id} ({name})" for number, (category_id, name) in pairs if number not in used],
        what="category",
    )
    counts = Counter(dataset.class_names)
    report.add(
        "category name that occurs twice",
        severity="note",
        action="counted as two classes",
        where=[f"{category_id} ({name})" for _, (category_id, name) in pairs if counts[name] > 1],
        what="category",
    )


def _report_image_files(dataset: CocoDataset, report: Report, *, on_error: str) -> None:
    with ThreadPoolExecutor(READING_THREADS) as threads:
        outcomes = list(threads.map(lambda index: look_at_image(dataset, index), range(len(dataset)), chunksize=64))
    for kind, severity, action in _IMAGE_KINDS:
        found = [index for index, (found_kind, _) in enumerate(outcomes) if found_kind == kind]
        if severity == "error" and on_error == "skip":
            severity, action = "dropped", SKIPPED
        report.add(
            kind,
            severity=severity,
            action=action,
            where=[dataset.file_names[index] for index in found],
            what="file",
            message=outcomes[found[0]][1] if found else "",
        )


UNREADABLE, WRONG_SIZE = "image file that cannot be read", "image of another size than annotated"
_TURNED, _NOT_TURNED = "EXIF orientation that the annotations follow", "EXIF orientation that is not applied"
_PAGES = "image file with several pages"
_IMAGE_KINDS: Sequence[tuple[str, str, str]] = (
    (UNREADABLE, "error", STOPS_WHEN_MET),
    (WRONG_SIZE, "error", STOPS_WHEN_MET),
    (_TURNED, "note", "applied, because the annotated size is that of the upright image"),
    (_NOT_TURNED, "note", "pixels are taken as stored, because the annotated size is the stored one"),
    (_PAGES, "note", "only the first page is used"),
)


def look_at_image(dataset: CocoDataset, index: int) -> tuple[str, str]:
    """Return the kind of fault of an image file ("" if there is none), and a line about it.

    Missing files are not reported here: opening the dataset reports them.
    """
    path = dataset.image_path(index)
    expected = (int(dataset.image_sizes[index, 0]), int(dataset.image_sizes[index, 1]))
    header = read_header(path)
    if header is not None and header.size == expected:
        return (_NOT_TURNED if header.orientation > 1 else ""), ""
    if not os.path.lexists(path):
        return "", ""
    try:
        data = read_image_file(path)
        stored_size = decode_image(path, data).shape[:2]
    except DatasetError as error:
        return UNREADABLE, str(error)
    if stored_size == expected:
        return (_PAGES if is_tiff(data) and tiff_pages(data) > 1 else ""), ""
    try:
        decode_image(path, data, expected_size=expected)
    except DatasetError as error:
        return WRONG_SIZE, str(error)
    return _TURNED, ""
