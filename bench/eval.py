"""Measure seconds and peak memory of evaluation at the size of COCO val2017 beside pycocotools, on generated data.

    make bench-eval        or        python bench/eval.py [--images 5000 --objects 36000 --detections 100000 --rounds 3]

Two comparisons, each for boxes and masks, each figure from another process:

- score: from a results list with run-length code, in memory, to AP. `from file` includes reading it.
- network: from 28 x 28 mask probabilities and boxes to AP: encode_masks and CocoEvaluator, beside resizing each mask
  into a bitmap of the image's size, pycocotools' encode, and COCOeval.

The two sides take turns, so that other work on the machine slows both; a ratio is the median over the rounds. Peak
memory is the largest resident size of the process, with its libraries (TensorFlow in `network, ours`). Below the full
size ratios are lower, because some work does not depend on the number of detections (the curves of 80 classes).

The data (irregular outlines, 80 classes, detections that are false or are objects moved by various amounts) is
generated into outputs/bench-eval in the current folder (or --folder), and reused if it is there.

Legend: D detections.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from machine import machine
from results import Figure, write_results

FULL = (5_000, 36_000, 100_000)  # images, objects, detections of val2017; the wanted ratios are for them
CATEGORIES = 80
SIZES = ((480, 640), (640, 480), (427, 640), (640, 427), (375, 500))  # (h, w), the most frequent of COCO
VERTICES = 24
MASK = 28
BATCH = 8  # images whose masks are encoded in one call, as in inference
SUBPIXELS = 4  # per edge of a mask cell, from which its probability is the covered share
LEAST_RATIOS = {"score": 15.0, "network": 10.0}  # wanted: their seconds / our seconds
SIDES = {
    "score": {"ours": "score-ours", "pycocotools": "score-pycocotools"},
    "network": {"ours": "network-ours", "paste + encode + pycocotools": "network-pasted"},
}


class Raw(NamedTuple):
    """The outputs of a network for all images, in the order of the images.

    Attributes:
        image_ids: int64 [D].
        category_ids: int64 [D].
        scores: float32 [D].
        boxes: float32 [D, 4], (x1, y1, x2, y2), pixels of the image.
        masks: uint8 [D, 28, 28], probability * 255.
        sizes: int32 [D, 2], (h, w) of the image.
    """

    image_ids: np.ndarray
    category_ids: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray
    sizes: np.ndarray


def main() -> int:
    if sys.argv[1:2] == ["measure"]:  # started by the other part of this script
        MEASURES[sys.argv[2]](Path(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=FULL[0])
    parser.add_argument("--objects", type=int, default=FULL[1])
    parser.add_argument("--detections", type=int, default=FULL[2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench-eval"))
    options = parser.parse_args()
    counts = (options.images, options.objects, options.detections)
    folder = options.folder / "_".join(map(str, counts))
    if not (folder / "results.json").is_file():
        generate(folder, num_images=counts[0], num_objects=counts[1], num_detections=counts[2])
        run("results", folder)
    print(f"machine: {machine()}")
    print(f"data: {counts[0]} images, {counts[1]} objects, {counts[2]} detections; {options.rounds} rounds")
    figures = [figure for comparison in SIDES for figure in compare(comparison, folder, rounds=options.rounds)]
    why = None if counts == FULL else "not the full size"
    return write_results("eval", [one._replace(unchecked=why) if one.at_least else one for one in figures])


def compare(comparison: str, folder: Path, *, rounds: int) -> list[Figure]:
    """Measure both sides in turns, print the results, and return the figures."""
    runs = [{side: run(what, folder) for side, what in SIDES[comparison].items()} for _ in range(rounds)]
    ours, theirs = SIDES[comparison]
    for side in (ours, theirs):
        show(f"{comparison}, {side}", [each[side] for each in runs])
    ratios = {
        key: statistics.median(each[theirs][key] / each[ours][key] for each in runs)
        for key in ("seconds", "from file", "cpu")
        if key in runs[0][ours]
    }
    others = ", ".join(f"{value:.1f} by {key}" for key, value in ratios.items() if key != "seconds")
    print(f"  {theirs} / ours: {ratios['seconds']:.1f}; {others}")
    numbers = [runs[0][side]["numbers"] for side in (ours, theirs)]
    difference = max(abs(a - b) for a, b in zip(*numbers, strict=True))
    aps = " and ".join(f"{each[0]:.4f}, {each[12]:.4f}" for each in numbers)
    why = " (another interpolation at the borders of masks)" if comparison == "network" else ""
    print(f"  box and mask AP {aps}; the 24 numbers differ by at most {difference:.1e}{why}", flush=True)
    figures = [
        Figure(f"{comparison}, {side}{suffix}", statistics.median(each[side][key] for each in runs), unit)
        for side in (ours, theirs)
        for key, unit, suffix in (("seconds", "s", ""), ("peak", "MB", ", peak memory"))
    ]
    least = LEAST_RATIOS[comparison]
    return [*figures, Figure(f"{comparison}, times {theirs}", ratios["seconds"], "times", at_least=least)]


def run(what: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "measure", what, str(folder)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def show(what: str, runs: list[dict[str, Any]]) -> None:
    medians = {key: statistics.median(each[key] for each in runs) for key in runs[0] if key != "numbers"}
    from_file = f", from file {medians['from file']:.2f} s" if "from file" in medians else ""
    rounds = ", ".join(f"{each['seconds']:.2f}" for each in runs)
    print(
        f"{what:38} {medians['seconds']:7.2f} s ({rounds}); {medians['cpu']:.2f} s of CPU{from_file}, "
        f"peak {medians['peak']:.0f} MB",
        flush=True,
    )


# ---- Measured, each in another process -----------------------------------------------------------------------------


def score_ours(folder: Path) -> None:
    import msgspec

    from mrcnn_eval import CocoEvaluator

    started = time.perf_counter()
    results = msgspec.json.decode((folder / "results.json").read_bytes())  # as the command reads it
    evaluator = CocoEvaluator(folder / "truth.json")
    evaluator.add_results(results)
    report(lambda: stats_of(evaluator), started=started)


def score_pycocotools(folder: Path) -> None:
    from pycocotools.coco import COCO

    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))
        detections = truth.loadRes(str(folder / "results.json"))
        # With a box, loadRes takes the size of a mask from the box, so boxes are dropped for masks.
        results = json.loads((folder / "results.json").read_bytes())
        masks = truth.loadRes([{key: entry[key] for key in entry if key != "bbox"} for entry in results])
        report(lambda: reference_stats(truth, detections, masks), started=started, out=sys.__stdout__)


def network_ours(folder: Path) -> None:
    tf = quiet_tensorflow()
    from mrcnn_eval import CocoEvaluator

    raw = read_raw(folder)
    evaluator = CocoEvaluator(folder / "truth.json")
    encode(tf, raw, slice(0, 1))  # loads the op

    def work() -> list[float]:
        images = rows_by_image(raw)
        for first in range(0, len(images), BATCH):
            batch = images[first : first + BATCH]
            start = batch[0][1].start
            counts = encode(tf, raw, slice(start, batch[-1][1].stop))
            for image_id, rows in batch:
                size = raw.sizes[rows.start].tolist()
                rles = [{"size": size, "counts": text} for text in counts[rows.start - start : rows.stop - start]]
                evaluator.add(image_id, raw.boxes[rows], raw.scores[rows], raw.category_ids[rows], rles)
        return stats_of(evaluator)

    report(work)


def network_pasted(folder: Path) -> None:
    from pycocotools.coco import COCO

    raw = read_raw(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "truth.json"))

        def work() -> list[float]:
            entries = [pasted_entry(raw, row) for row in range(len(raw.scores))]
            boxes = truth.loadRes([{key: entry[key] for key in entry if key != "segmentation"} for entry in entries])
            masks = truth.loadRes([{key: entry[key] for key in entry if key != "bbox"} for entry in entries])
            return reference_stats(truth, boxes, masks)

        report(work, out=sys.__stdout__)


def encode_results(folder: Path) -> None:
    tf = quiet_tensorflow()
    raw = read_raw(folder)
    counts = [text.decode() for _, rows in rows_by_image(raw) for text in encode(tf, raw, rows)]
    entries = [result_entry(raw, row, text) for row, text in enumerate(counts)]
    (folder / "results.partial").write_text(json.dumps(entries))
    (folder / "results.partial").rename(folder / "results.json")
    print("{}")


MEASURES: dict[str, Callable[[Path], None]] = {
    "results": encode_results,
    "score-ours": score_ours,
    "score-pycocotools": score_pycocotools,
    "network-ours": network_ours,
    "network-pasted": network_pasted,
}


def report(work: Callable[[], list[float]], *, started: float | None = None, out: Any = None) -> None:
    begun, cpu = time.perf_counter(), time.process_time()
    numbers = work()
    ended, cpu = time.perf_counter(), time.process_time() - cpu
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e6
    result: dict[str, Any] = {"seconds": ended - begun, "cpu": cpu, "peak": peak, "numbers": numbers}
    if started is not None:
        result["from file"] = ended - started
    print(json.dumps(result), file=out or sys.stdout, flush=True)


def stats_of(evaluator: Any) -> list[float]:
    stats = evaluator.evaluate().stats
    return [*stats["bbox"].values(), *stats["segm"].values()]


def reference_stats(truth: Any, boxes: Any, masks: Any) -> list[float]:
    from pycocotools.cocoeval import COCOeval

    numbers: list[float] = []
    for iou_type, detections in (("bbox", boxes), ("segm", masks)):
        evaluation = COCOeval(truth, detections, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        numbers.extend(map(float, evaluation.stats))
    return numbers


def quiet_tensorflow() -> Any:
    from mrcnn_model import import_tensorflow_quietly

    import_tensorflow_quietly()
    import tensorflow

    return tensorflow


def encode(tf: Any, raw: Raw, rows: slice) -> list[bytes]:
    from mrcnn_ops import encode_masks

    masks = raw.masks[rows].astype(np.float32) / 255
    return list(encode_masks(tf.constant(masks), tf.constant(raw.boxes[rows]), tf.constant(raw.sizes[rows])).numpy())


def pasted_entry(raw: Raw, row: int) -> dict[str, Any]:
    """Resize a mask to the whole pixels that its box touches, cut at the border, and encode the image-size bitmap."""
    import cv2
    from pycocotools import mask as mask_utils

    height, width = (int(edge) for edge in raw.sizes[row])
    x1, y1 = np.floor(raw.boxes[row, :2]).astype(int)
    x2, y2 = np.maximum(np.ceil(raw.boxes[row, 2:]).astype(int), (x1 + 1, y1 + 1))
    resized = cv2.resize(raw.masks[row].astype(np.float32) / 255, (int(x2 - x1), int(y2 - y1))) > 0.5
    bitmap = np.zeros((height, width), np.uint8)
    bitmap[y1:y2, x1:x2] = resized[: height - y1, : width - x1]
    return result_entry(raw, row, mask_utils.encode(np.asfortranarray(bitmap))["counts"])


def result_entry(raw: Raw, row: int, counts: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in raw.boxes[row])
    return {
        "image_id": int(raw.image_ids[row]),
        "category_id": int(raw.category_ids[row]),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": float(raw.scores[row]),
        "segmentation": {"size": raw.sizes[row].tolist(), "counts": counts},
    }


def rows_by_image(raw: Raw) -> list[tuple[int, slice]]:
    image_ids, starts = np.unique(raw.image_ids, return_index=True)
    ends = [*starts[1:].tolist(), len(raw.image_ids)]
    return [(int(id_), slice(start, end)) for id_, start, end in zip(image_ids, starts.tolist(), ends, strict=True)]


def read_raw(folder: Path) -> Raw:
    with np.load(folder / "raw.npz") as arrays:
        return Raw(**{name: arrays[name] for name in Raw._fields})


# ---- Generated -------------------------------------------------------------------------------------------------------


def generate(folder: Path, *, num_images: int, num_objects: int, num_detections: int) -> None:
    """Write truth.json, and raw.npz: of ten detections seven are jittered objects, half of these of the right class."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    sizes = np.array(SIZES, np.int32)[rng.integers(0, len(SIZES), num_images)]  # (h, w)
    images = np.sort(rng.integers(0, num_images, num_objects))
    radii = np.exp(rng.normal(3.3, 0.9, num_objects)).clip(4, 150)  # about 40 % small, 35 % medium, 25 % large
    outlines = rng.uniform(0.55, 1.0, (num_objects, VERTICES))
    stretches = rng.uniform(0.6, 1.0, (num_objects, 2))
    centres = rng.uniform(0.05, 0.95, (num_objects, 2)) * sizes[images][:, ::-1]  # (x, y)
    categories = np.minimum(rng.geometric(0.06, num_objects), CATEGORIES)
    truth = {
        "info": {},
        "images": [{"id": n + 1, "height": int(h), "width": int(w)} for n, (h, w) in enumerate(sizes)],
        "categories": [{"id": n, "name": f"class {n}"} for n in range(1, CATEGORIES + 1)],
        "annotations": [
            annotation(
                n, int(images[n]), int(categories[n]), outline(centres[n], radii[n], outlines[n], stretches[n]), sizes
            )
            for n in range(num_objects)
        ],
    }
    (folder / "truth.json").write_text(json.dumps(truth))

    sources = np.sort(rng.integers(0, num_objects, num_detections))  # objects in the order of their images
    real = rng.random(num_detections) < 0.7
    spread = np.where(real, rng.exponential(0.08, num_detections), 1.5)[:, None]  # of the object's radius
    moved = centres[sources] + rng.normal(0, 1, (num_detections, 2)) * spread * radii[sources][:, None]
    grown = radii[sources] * np.exp(rng.normal(0, 1, num_detections) * spread[:, 0].clip(0, 0.4))
    shapes = (outlines[sources] + rng.normal(0, 0.06, (num_detections, VERTICES))).clip(0.3, 1.1)
    right_class = rng.random(num_detections) < 0.75
    boxes, masks = [], []
    for n, source in enumerate(sources):
        polygon = outline(moved[n], grown[n], shapes[n], stretches[source])
        box, mask = box_and_mask(polygon, sizes[images[source]])
        boxes.append(box)
        masks.append(mask)
    np.savez(
        folder / "raw.npz",
        **Raw(
            image_ids=images[sources].astype(np.int64) + 1,
            category_ids=np.where(right_class, categories[sources], rng.integers(1, CATEGORIES + 1, num_detections)),
            scores=(0.95 - 0.9 * rng.random(num_detections) ** np.where(real, 2, 0.5)).astype(np.float32),
            boxes=np.array(boxes, np.float32),
            masks=np.array(masks, np.uint8),
            sizes=sizes[images[sources]],
        )._asdict(),
    )


def outline(centre: np.ndarray, radius: float, shape: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, VERTICES, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return centre + radius * shape[:, None] * stretch * around  # [VERTICES, 2], (x, y)


def annotation(number: int, image: int, category: int, polygon: np.ndarray, sizes: np.ndarray) -> dict[str, Any]:
    clipped = np.clip(polygon, 0, sizes[image][::-1]).round(2)
    x, y = clipped.T
    low, extent = clipped.min(axis=0), np.ptp(clipped, axis=0)
    return {
        "id": number + 1,
        "image_id": image + 1,
        "category_id": category,
        "iscrowd": 0,
        "bbox": [*map(float, low), *map(float, extent)],
        "area": 0.5 * abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))),
        "segmentation": [clipped.ravel().tolist()],
    }


def box_and_mask(polygon: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the box of an outline inside the image, and the share of each of its 28 x 28 cells that is covered."""
    import cv2

    limits = size[::-1].astype(float)
    low = np.clip(polygon.min(axis=0), 0, limits - 2)
    high = np.clip(polygon.max(axis=0), low + 2, limits)
    grid = MASK * SUBPIXELS
    points = np.round((polygon - low) / (high - low) * grid).astype(np.int32)
    fine = cv2.fillPoly(np.zeros((grid, grid), np.uint8), [points], 255)
    mask = cv2.GaussianBlur(cv2.resize(fine, (MASK, MASK), interpolation=cv2.INTER_AREA), (3, 3), 0)
    return np.concatenate([low, high]), mask


if __name__ == "__main__":
    sys.exit(main())
