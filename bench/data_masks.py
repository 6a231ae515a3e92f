"""Measure how exact mask targets are that are made from 112 x 112 crops, by size class.

    make bench-data        or        python bench/data_masks.py [--data-root DIR]

For every object with a mask in `coco_open` and `nuclei` (as polygons, and as RLE), the RoI is the object's box with
each side moved by up to 15 % of the box, like a proposal. Its 28 x 28 target is sampled from the crop (bilinear, 2 x 2
samples a cell, threshold 0.5, as in mrcnn-model). It is compared with the exact coverage of the segmentation (8 x 8
samples a cell, threshold 0.5). Prints the mean IoU by COCO's size classes: area below 32 x 32, below 96 x 96, and
above, in pixels of the file.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from machine import machine, shared_data
from results import Figure, write_results

from mrcnn_data import MASK_SIZE, CocoDataset, instance_masks
from mrcnn_data.images.geometry import resize_only
from mrcnn_data.masks.rasterising import crop_mask
from mrcnn_data.masks.segmentation import RunLengths, Segmentation

TARGET, SAMPLES, JITTER, LEAST_IOU = 28, 8, 0.15, 0.98
# Name: folder, annotation files, image folder of each.
SETS = {
    "coco_open": ("coco_open", [("train", "train"), ("val", "val")]),
    "nuclei": ("nuclei", [("train", "train"), ("val", "val")]),
    "nuclei as RLE": ("nuclei", [("train_rle", "train"), ("val_rle", "val")]),
}
SIZES = ("small", "medium", "large")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=shared_data("."))
    options = parser.parse_args()
    if not options.data_root.is_dir():
        print(f"skipped: no data at {options.data_root} (--data-root)")
        return 0
    print(f"machine: {machine()}")
    figures: list[Figure] = []
    print(f"{'mean IoU (objects)':<20}" + "".join(f"{size:>18}" for size in SIZES))
    for name, (folder, files) in SETS.items():
        ious: defaultdict[str, list[float]] = defaultdict(list)
        for split, images in files:
            root = options.data_root / folder
            add_ious(CocoDataset.open(root / f"annotations/instances_{split}.json", root / images), ious)
        cells = [f"{np.mean(ious[size]):.3f} ({len(ious[size])})" if ious[size] else "" for size in SIZES]
        print(f"{name:<20}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
        figures += [
            Figure(f"{name}, {size}", float(np.mean(ious[size])), "mean IoU", at_least=LEAST_IOU)
            for size in SIZES
            if ious[size]
        ]
    return write_results("data_masks", figures)


def add_ious(dataset: CocoDataset, ious: defaultdict[str, list[float]]) -> None:
    rng = np.random.default_rng(0)
    for index in range(len(dataset)):
        instances = dataset.instances(index)
        areas = instance_masks(dataset, index).sum(axis=(1, 2), dtype=np.int64)
        size = (int(dataset.image_sizes[index, 0]), int(dataset.image_sizes[index, 1]))
        for box, segmentation, area in zip(instances.boxes, instances.segmentations, areas.tolist(), strict=True):
            if segmentation is None:
                continue
            crop = np.zeros((MASK_SIZE, MASK_SIZE), np.uint8)
            crop_mask(segmentation, box, resize_only(size, size), crop)
            roi = box + rng.uniform(-JITTER, JITTER, 4) * np.tile(box[2:] - box[:2], 2)
            got, exact = target_from_crop(crop, box, roi) >= 0.5, exact_coverage(segmentation, roi) >= 0.5
            if exact.any():
                name = SIZES[(area >= 32**2) + (area >= 96**2)]
                ious[name].append(float((got & exact).sum() / (got | exact).sum()))


def target_from_crop(crop: np.ndarray, box: np.ndarray, roi: np.ndarray) -> np.ndarray:
    """Return the mean of 2 x 2 bilinear samples of each cell of `roi`, zero outside the box: float [28, 28]."""
    steps = (np.arange(TARGET * 2) + 0.5) / (TARGET * 2)
    at = roi[:2] + steps[:, None] * (roi[2:] - roi[:2])  # [56, 2], pixels
    at = (at - box[:2]) * (MASK_SIZE / (box[2:] - box[:2])) - 0.5 + 1  # cells of the padded crop
    values = interpolated(interpolated(np.pad(crop, 1).astype(np.float64), at[:, 1], axis=0), at[:, 0], axis=1)
    return np.asarray(values.reshape(TARGET, 2, TARGET, 2).mean(axis=(1, 3)))


def interpolated(values: np.ndarray, at: np.ndarray, *, axis: int) -> np.ndarray:
    at = np.clip(at, 0, values.shape[axis] - 1)
    low = np.minimum(np.floor(at).astype(int), values.shape[axis] - 2)
    share = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
    return np.asarray(np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share)


def exact_coverage(segmentation: Segmentation, roi: np.ndarray) -> np.ndarray:
    """Return the covered share of each cell of `roi`: float [28, 28]."""
    steps = (np.arange(TARGET * SAMPLES) + 0.5) / (TARGET * SAMPLES)
    x, y = (roi[:2] + steps[:, None] * (roi[2:] - roi[:2])).T
    if isinstance(segmentation, RunLengths):
        hit = pixels_at(segmentation, x, y)
    else:
        hit = np.any([even_odd(part, x, y) for part in segmentation.parts], axis=0)
    return np.asarray(hit.reshape(TARGET, SAMPLES, TARGET, SAMPLES).mean(axis=(1, 3)))


def pixels_at(runs: RunLengths, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    bits = np.repeat(np.arange(runs.counts.size) % 2, runs.counts).reshape(runs.width, runs.height).T
    columns, rows = (
        np.clip(np.floor(axis).astype(int) + 1, 0, limit + 1) for axis, limit in ((x, runs.width), (y, runs.height))
    )
    return np.asarray(np.pad(bits, 1)[np.ix_(rows, columns)] > 0)


def even_odd(part: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points of a rising grid are inside a polygon: bool [y, x]."""
    (x1, y1), (x2, y2) = part.T, np.roll(part, -1, axis=0).T
    edges, rows = np.nonzero((y1[:, None] > y) != (y2[:, None] > y))
    crossing = x1[edges] + (y[rows] - y1[edges]) * (x2 - x1)[edges] / (y2 - y1)[edges]
    crossed = np.zeros((len(y), len(x) + 1), np.int64)
    np.add.at(crossed, (rows, np.searchsorted(x, crossing)), 1)  # left of it, one crossing more to the right
    return np.asarray(np.cumsum(crossed[:, ::-1], axis=1)[:, ::-1][:, 1:] % 2 == 1)


if __name__ == "__main__":
    sys.exit(main())
