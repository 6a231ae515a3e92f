"""Measure the seconds that `mrcnn-data check` takes for 100,000 annotations in 13,700 images, the density of train2017.

    make bench-data        or        python bench/data_checking.py [--images 13700 --annotations 100000]

Annotations and grey JPEG files of 640 x 480 are generated into outputs/bench-data/checking in the current folder (or
--folder), and reused if they are there. One polygon in a hundred is faulty.
"""

from __future__ import annotations

import argparse
import struct
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from data_reading import annotation_entries, image_entries
from machine import machine
from results import Figure, write_results

from mrcnn_data import CocoDataset, check_dataset

MOST_SECONDS = 10.0
FAULTY = '"segmentation": [[1.0, 2.0, 3.0, 4.0]], '  # two points


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=13_700)
    parser.add_argument("--annotations", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench-data/checking"))
    options = parser.parse_args()
    annotations, images = generate(options.folder, num_images=options.images, num_annotations=options.annotations)
    print(f"machine: {machine()}")
    started, cpu_started = time.perf_counter(), time.process_time()
    dataset = CocoDataset.open(annotations, images, allow_errors=True)
    opened = time.perf_counter()
    dataset.report  # noqa: B018 (decodes and checks every segmentation)
    decoded = time.perf_counter()
    report = check_dataset(dataset)
    ended = time.perf_counter()
    print("\n".join(map(str, report.by_severity())))
    seconds, cpu_seconds = ended - started, time.process_time() - cpu_started
    print(f"open {opened - started:.2f} s, segmentations {decoded - opened:.2f} s, the rest {ended - decoded:.2f} s")
    what = f"{options.annotations} annotations in {options.images} images"
    most = MOST_SECONDS * options.annotations / 100_000
    return write_results(
        "data_checking",
        [Figure(what, seconds, "s", at_most=most), Figure(f"{what}, CPU time", cpu_seconds, "s")],
    )


def generate(folder: Path, *, num_images: int, num_annotations: int) -> tuple[Path, Path]:
    name = f"{num_images}_{num_annotations}"
    annotations, images = folder / f"instances_{name}.json", folder / name
    if annotations.is_file():
        return annotations, images
    images.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    entries = list(annotation_entries(num_annotations, num_images=num_images, rng=rng))
    for number in range(0, num_annotations, 100):
        head, _, rest = entries[number].partition('"segmentation": ')
        entries[number] = head + FAULTY + rest.partition("]], ")[2]
    categories = ", ".join(f'{{"id": {number}, "name": "c{number}"}}' for number in range(1, 81))
    _, encoded = cv2.imencode(".jpg", np.full((480, 640, 3), 128, np.uint8))
    jpeg = encoded.tobytes()
    for number in range(1, num_images + 1):
        comment = struct.pack(">HHI", 0xFFFE, 6, number)  # no two files are the same
        (images / f"{number:012d}.jpg").write_bytes(jpeg[:2] + comment + jpeg[2:])
    partial = annotations.with_suffix(".partial")
    partial.write_text(
        f'{{"images": [{", ".join(image_entries(num_images))}], "annotations": [{"".join(entries)}], '
        f'"categories": [{categories}]}}'
    )
    partial.rename(annotations)
    return annotations, images


if __name__ == "__main__":
    sys.exit(main())
