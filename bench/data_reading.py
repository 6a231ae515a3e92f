"""Measure opening annotations of train2017's size: uncached, cached, in four processes, and with pycocotools.

    make bench-data        or        python bench/data_reading.py [--images 118000 --annotations 860000]

The file (118,000 images, 860,000 polygons, about 600 MB) and its empty image files are generated into
outputs/bench-data in the current folder (or --folder), and reused if they are there. Each figure comes from another
process. The targets are for the full size and are checked only there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from machine import machine
from results import Figure, write_results

IMAGES, ANNOTATIONS = 118_000, 860_000
MOST_SECONDS, MOST_MB, MOST_SECONDS_CACHED, MOST_TIMES_ONE = 6.0, 1300.0, 0.5, 1.5
CATEGORIES = 80
POOL = 20_000  # different polygons; each is used many times, which does not make any reader faster
PROCESSES = 4
WALK_STEP = 8  # images; annotations of eight in a row lie in fewer pages than the system maps at a time


def main() -> int:
    if sys.argv[1:2] == ["measure"]:  # started by the other part of this script
        measure(*sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--annotations", type=int, default=ANNOTATIONS)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench-data"))
    parser.add_argument("--skip-pycocotools", action="store_true")
    options = parser.parse_args()
    print(f"machine: {machine()}")
    annotations, images = generate(options.folder, num_images=options.images, num_annotations=options.annotations)
    size = annotations.stat().st_size / 1e6
    print(f"{annotations}: {options.images} images, {options.annotations} polygons, {size:.0f} MB")
    cache = options.folder / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    paths = (str(annotations), str(images))
    uncached = show("open without cache", run("open", *paths, "none"))
    first = show("open, first time", run("open", *paths, str(cache)))
    cached = show("open, cached", run("open", *paths, str(cache)))
    theirs = None if options.skip_pycocotools else show("pycocotools.coco.COCO", run("pycocotools", *paths))
    one = together(1, *paths, str(cache))
    four = together(PROCESSES, *paths, str(cache))
    print(f"one process, all images walked: {one:.0f} MB; {PROCESSES} together: {four:.0f} MB ({four / one:.2f} x)")
    figures = [
        Figure("first open", max(uncached["seconds"], first["seconds"]), "s", at_most=MOST_SECONDS),
        Figure("first open, peak memory", max(uncached["peak"], first["peak"]), "MB", at_most=MOST_MB),
        Figure("cached open", cached["seconds"], "s", at_most=MOST_SECONDS_CACHED),
        Figure("memory of four processes", four / one, "times that of one", at_most=MOST_TIMES_ONE),
    ]
    if theirs is not None:
        figures += [
            Figure("pycocotools", theirs["seconds"], "s"),
            Figure("cached open, times pycocotools", theirs["seconds"] / cached["seconds"], "times"),
        ]
    why = None if (options.images, options.annotations) == (IMAGES, ANNOTATIONS) else "not the full size"
    return write_results("data_reading", [one._replace(unchecked=why) if one.at_most else one for one in figures])


def show(what: str, result: dict[str, float]) -> dict[str, float]:
    print(f"{what:24} {result['seconds']:6.2f} s, peak {result['peak']:5.0f} MB", flush=True)
    return result


def run(*arguments: str) -> dict[str, float]:
    command = [sys.executable, __file__, "measure", *arguments]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def together(count: int, *arguments: str) -> float:
    """Return the proportional memory in MB of processes that have walked the data set and hold it at the same time."""
    command = [sys.executable, __file__, "measure", "walk", *arguments]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    total = sum(proportional_memory(process.pid) for process in processes)
    for process in processes:
        process.communicate("")
    return total


def proportional_memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def measure(what: str, annotations: str, images: str, cache: str = "none") -> None:
    """Do one measurement in this process and print its seconds and memory."""
    if what == "pycocotools":
        from pycocotools.coco import COCO

        report(lambda: COCO(annotations))
        return
    from mrcnn_data import CocoDataset

    cache_dir = None if cache == "none" else cache
    if what == "open":
        report(lambda: CocoDataset.open(annotations, images, cache_dir=cache_dir))
        return
    dataset = CocoDataset.open(annotations, images, cache_dir=cache_dir)
    for index in range(0, len(dataset), WALK_STEP):
        dataset.instances(index)
    print("ready", flush=True)
    sys.stdin.read()


def report(work: Callable[[], object]) -> None:
    started = time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6
    print(json.dumps({"seconds": seconds, "peak": peak}))
    del kept


def generate(folder: Path, *, num_images: int, num_annotations: int) -> tuple[Path, Path]:
    """Write an annotation file and empty image files, unless they are there."""
    name = f"{num_images}_{num_annotations}"
    annotations, images = folder / f"instances_{name}.json", folder / name
    if annotations.is_file():
        return annotations, images
    images.mkdir(parents=True, exist_ok=True)
    partial = annotations.with_suffix(".partial")
    rng = np.random.default_rng(0)
    with open(partial, "w") as file:
        file.write('{"info": {"description": "generated"}, "licenses": [], "images": [')
        file.write(", ".join(image_entries(num_images)))
        file.write('], "annotations": [')
        file.writelines(annotation_entries(num_annotations, num_images=num_images, rng=rng))
        file.write('], "categories": [')
        file.write(", ".join(f'{{"supercategory": "thing", "id": {i}, "name": "c{i}"}}' for i in range(1, 81)))
        file.write("]}")
    for number in range(1, num_images + 1):
        (images / f"{number:012d}.jpg").touch()
    partial.rename(annotations)
    return annotations, images


def image_entries(num_images: int) -> Iterator[str]:
    for number in range(1, num_images + 1):
        name = f"{number:012d}.jpg"
        yield (
            f'{{"license": 3, "file_name": "{name}", "coco_url": "http://images.example/train2017/{name}", '
            f'"height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", '
            f'"flickr_url": "http://farm.example/{number % 9999}/{number}_z.jpg", "id": {number}}}'
        )


def annotation_entries(num_annotations: int, *, num_images: int, rng: np.random.Generator) -> Iterator[str]:
    pool = [polygon(rng) for _ in range(POOL)]
    image_ids = rng.integers(1, num_images + 1, num_annotations).tolist()
    categories = rng.integers(1, CATEGORIES + 1, num_annotations).tolist()
    shapes = rng.integers(0, POOL, num_annotations).tolist()
    for number, (image_id, category, shape) in enumerate(zip(image_ids, categories, shapes, strict=True), start=1):
        comma = ", " if number > 1 else ""
        yield f'{comma}{{{pool[shape]}, "image_id": {image_id}, "category_id": {category}, "id": {number}}}'


def polygon(rng: np.random.Generator) -> str:
    """Segmentation, area, iscrowd and bbox of a star-shaped outline of 4 to 64 vertices."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(4, 65))))
    radius = rng.uniform(10, 120) * rng.uniform(0.7, 1.0, len(angles))
    centre = rng.uniform([130, 130], [510, 350])
    points = np.round(centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1), 2)
    x, y = points.T
    area = 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1)))
    low, extent = points.min(axis=0), np.ptp(points, axis=0)
    box = ", ".join(f"{value:.2f}" for value in (*low, *extent))
    outline = ", ".join(f"{value:.2f}" for value in points.ravel())
    return f'"segmentation": [[{outline}]], "area": {area:.4f}, "iscrowd": 0, "bbox": [{box}]'


if __name__ == "__main__":
    sys.exit(main())
