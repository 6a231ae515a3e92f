"""Look at the pixels of some images: are they what a network can learn from?"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.reading import READING_THREADS, decode_as_stored, decode_image, read_image_file
from mrcnn_data.report import Report

SAMPLE = 64  # images that are decoded, evenly spread
DARK = 32  # of 255: brighter pixels are missing in images that are nearly black
MOST = 0.5  # part of the images that makes it a warning


class Pixels(NamedTuple):
    """What an image holds as it is loaded: its largest value (0 to 255), and the part of pixels that is 0 or 255.

    `stored` is the largest value in the file, if it has more than 8 bits.
    """

    largest: int
    extreme: float
    stored: int | None


def report_pixels(dataset: CocoDataset, report: Report) -> None:
    """Decode a sample of the images, and report those that are nearly black, or black and white only."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(int)).tolist()
    paths = [dataset.image_path(index) for index in chosen]
    with ThreadPoolExecutor(READING_THREADS) as threads:
        looked_at = [(path, pixels) for path, pixels in zip(paths, threads.map(_look, paths), strict=True) if pixels]
    wide = [(path, pixels) for path, pixels in looked_at if pixels.stored is not None and pixels.largest < DARK]
    dark = [(path, pixels) for path, pixels in looked_at if pixels.stored is None and pixels.largest < DARK]
    masks = [(path, pixels) for path, pixels in looked_at if pixels.extreme == 1.0 and pixels.largest >= DARK]
    for kind, action, found, is_always_warned in (
        (
            "16-bit image that is nearly black in 8 bits",
            "values are divided by 256: stretch them to 0 to 65535, or convert the images to 8 bits",
            wide,
            True,
        ),
        ("image that is nearly black", "used as it is", dark, False),
        ("image of black and white pixels only", "used as it is; is it a mask?", masks, False),
    ):
        is_warned = is_always_warned or len(found) > MOST * len(looked_at)
        report.add(
            kind,
            severity="warning" if is_warned else "note",
            action=f"{action} ({len(looked_at)} images were looked at)",
            where=[_described(path, pixels) for path, pixels in found],
            what="file",
        )


def _described(path: Path, pixels: Pixels) -> str:
    if pixels.stored is None:
        return f"{path.name} (largest value {pixels.largest} of 255)"
    return f"{path.name} (largest value {pixels.stored} of 65535, {pixels.largest} of 255 when loaded)"


def _look(path: Path) -> Pixels | None:
    """Return what an image holds; None if it cannot be read, which is reported elsewhere."""
    try:
        data = read_image_file(path)
        loaded = decode_image(path, data)
        stored = decode_as_stored(path, data, cv2.IMREAD_UNCHANGED)
    except DatasetError:
        return None
    is_wide = stored.dtype == np.uint16
    extreme = float(((loaded == 0) | (loaded == 255)).mean())
    return Pixels(int(loaded.max()), extreme, int(stored.max()) if is_wide else None)
