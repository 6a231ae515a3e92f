"""Image files of a dataset: which are missing, and the sizes that the annotations do not give."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrcnn_data.annotations.columns import Columns
from mrcnn_data.annotations.report import Report
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.reading import load_image

# What on_error="skip" does with an image whose file cannot be used.
SKIPPED = "skipped: another takes its place in training, and evaluation finds nothing in it"


def missing_files(file_names: Sequence[str], image_dir: Path) -> list[int]:
    """Return the indices of images without a file. Each folder is listed once: 118 k stat calls can take seconds."""
    folders = {name.rpartition("/")[0] for name in file_names if "/" in name}
    there = _listed(image_dir)
    for folder in folders:
        there.update(f"{folder}/{name}" for name in _listed(image_dir / folder))
    if there.issuperset(file_names):  # the usual case, without a loop in Python
        return []
    return [index for index, name in enumerate(file_names) if name not in there]


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def complete_image_sizes(
    columns: Columns, image_dir: Path, report: Report, *, on_error: str
) -> tuple[np.ndarray, np.ndarray]:
    """Read missing sizes from the image files.

    Args:
        on_error: "raise", or "skip": an image without a size whose file cannot be read has no usable objects.
    Returns:
        int64 [I, 2] (h, w), at least 1; bool [I], whether the size is known.
    Raises:
        DatasetError: the file of an image without a size cannot be read.
    """
    if (columns.image_sizes > 0).all():
        return columns.image_sizes, np.ones(len(columns.image_ids), bool)
    sizes = columns.image_sizes.copy()  # [I, 2]
    is_known = np.ones(len(sizes), bool)
    incomplete = np.flatnonzero((sizes <= 0).any(axis=1))
    for index in incomplete:
        try:
            sizes[index] = load_image(image_dir / columns.file_names[index]).shape[:2]
        except DatasetError:
            if on_error == "raise":
                raise
            sizes[index], is_known[index] = 1, False
    read = [columns.image_ids[index] for index in incomplete if is_known[index]]
    unread = [columns.image_ids[index] for index in incomplete if not is_known[index]]
    report.add(
        "image without width or height",
        severity="repaired",
        action="read from the image file",
        where=read,
        what="image",
    )
    report.add(
        "image without width or height, and no file to read them from",
        severity="dropped",
        action="skipped",
        where=unread,
        what="image",
    )
    return sizes, is_known
