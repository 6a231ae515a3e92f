"""Measure our ops beside torchvision's CPU ops: same inputs, one image of 800 x 1344, two threads each, in one run.

    make bench-ops        or        python bench/ops.py --torch-python PYTHON [--repeats 15] [--only NAME]

The two sides run in two processes (the other is bench/peers/torchvision_ops.py), so that their threads do not disturb
each other, and take turns, so that other work on the machine slows both. Before the timing, the script checks that both
compute the same. A row has both medians, their ratio beside the one that is wanted, and the share of its floor that our
op reaches. The floor is the longer of two times: of its memory traffic at the speed of a copy, and of its arithmetic at
the speed of a matrix product. Both speeds are measured in this run. What is counted as traffic and arithmetic is
printed below the table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from machine import copy_gigabytes_per_second, machine
from peer import Peer
from pycocotools import mask as coco_mask
from results import Figure, write_results
from timing import gemm_gflops, seconds_of

import mrcnn_ops

THREADS = 2
IMAGE_SIZE = (800, 1344)  # (h, w)
STRIDES = (4, 8, 16, 32)
ANCHOR_STRIDES = (*STRIDES, 64)
CHANNELS = 256
SAMPLING_RATIO = 2
TOP_K = 2000  # proposals: before NMS per level, and after it per image
WORKER = Path(__file__).with_name("peers") / "torchvision_ops.py"


class Work(NamedTuple):
    """The least memory traffic and arithmetic of a case."""

    megabytes: float
    mflop: float
    counted: str  # how the two are counted


class Case(NamedTuple):
    name: str
    title: str
    wanted: float  # times torchvision's speed
    run: Callable[[], Any]
    check: Callable[[list[np.ndarray]], None]  # raises AssertionError if torchvision's values differ
    work: Work


# ---- inputs ---------------------------------------------------------------------------------------------------------


def random_boxes(
    rng: np.random.Generator, count: int, *, size: tuple[int, int], edges: tuple[float, float]
) -> np.ndarray:
    """Return float32 [count, 4] inside an image of `size` (h, w), with log-uniform edge lengths within `edges`."""
    height, width = size
    lengths = np.exp(rng.uniform(np.log(edges[0]), np.log(edges[1]), (count, 2)))
    centres = rng.uniform(0, 1, (count, 2)) * [width, height]
    boxes = np.concatenate([centres - lengths / 2, centres + lengths / 2], -1)
    return boxes.clip(0, [width, height, width, height]).astype(np.float32)


def pyramid_anchors() -> tuple[np.ndarray, np.ndarray]:
    """Return three anchors a position on five levels: [A, 4] and the number of each level."""
    levels = []
    for stride in ANCHOR_STRIDES:
        y, x = np.mgrid[: -(-IMAGE_SIZE[0] // stride), : -(-IMAGE_SIZE[1] // stride)] * stride
        centres = np.stack([x, y, x, y], -1)[:, :, None]
        half = np.array([(4 * stride / r**0.5, 4 * stride * r**0.5) for r in (0.5, 1, 2)])
        levels.append((centres + np.concatenate([-half, half], -1)).reshape(-1, 4).astype(np.float32))
    return np.concatenate(levels), np.array([len(level) for level in levels], np.int32)


def make_inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    anchors, level_sizes = pyramid_anchors()
    inputs = {
        "image_size": np.array(IMAGE_SIZE),
        "top_k": np.array(TOP_K),
        "anchors": anchors,
        "level_sizes": level_sizes,
        "logits": rng.standard_normal((1, len(anchors))).astype(np.float32),
        "deltas": (0.2 * rng.standard_normal((1, len(anchors), 4))).astype(np.float32),
        "gt_boxes": random_boxes(rng, 20, size=IMAGE_SIZE, edges=(16, 800)),
        "nms_boxes": random_boxes(rng, 4000, size=IMAGE_SIZE, edges=(16, 800)),
        "nms_scores": rng.permutation(4000).astype(np.float32) / 4000,
        "masks": smooth_masks(rng, 100),
        "mask_boxes": random_boxes(rng, 100, size=(480, 640), edges=(16, 480)),
        "mask_image_size": np.array([480, 640]),
    }
    for name, count, size in (("box_rois", 512, 7), ("mask_rois", 128, 14)):
        inputs[name] = random_boxes(rng, count, size=IMAGE_SIZE, edges=(16, 800))
        inputs[f"{name}_gradient"] = rng.standard_normal((count, size, size, CHANNELS)).astype(np.float32)
    for level, stride in enumerate(STRIDES):
        shape = (1, IMAGE_SIZE[0] // stride, IMAGE_SIZE[1] // stride, CHANNELS)
        inputs[f"features{level}"] = rng.standard_normal(shape).astype(np.float32)
    return inputs


def smooth_masks(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return float32 [count, 28, 28] probabilities: ellipses with wavy outlines, like predicted masks."""
    y, x = (np.mgrid[:28, :28] + 0.5) / 14 - 1
    angle, distance = np.arctan2(y, x), np.hypot(y, x)
    waves = rng.uniform(0, 0.15, (count, 4)) @ np.stack([np.cos(k * angle + k) for k in range(2, 6)]).reshape(4, -1)
    outline = rng.uniform(0.6, 0.9, (count, 1)) + waves
    return (1 / (1 + np.exp(12 * (distance.reshape(-1) - outline)))).reshape(count, 28, 28).astype(np.float32)


# ---- cases ----------------------------------------------------------------------------------------------------------


def roi_align_cases(inputs: dict[str, np.ndarray], rois: str, name: str, size: int) -> list[Case]:
    features = [tf.constant(inputs[f"features{level}"]) for level in range(4)]
    boxes, gradient = tf.constant(inputs[rois][None]), tf.constant(inputs[f"{rois}_gradient"][None])

    @tf.function
    def forward() -> Any:
        # aligned=False, because torchvision's pooler has no other rule; the work is the same.
        return mrcnn_ops.multilevel_roi_align(features, boxes, strides=STRIDES, output_size=size, aligned=False)

    @tf.function
    def both() -> Any:
        with tf.GradientTape() as tape:
            tape.watch(features)
            crops = mrcnn_ops.multilevel_roi_align(features, boxes, strides=STRIDES, output_size=size, aligned=False)
        return crops, tape.gradient(crops, features, output_gradients=gradient)

    def check(theirs: list[np.ndarray]) -> None:
        np.testing.assert_allclose(forward()[0], theirs[0], atol=1e-4)

    def check_gradient(theirs: list[np.ndarray]) -> None:
        for ours, other in zip(both()[1], theirs, strict=True):
            np.testing.assert_allclose(ours, other, atol=1e-3)

    count = len(inputs[rois])
    forward_work, both_work = roi_align_work(inputs[rois], size)
    title = f"ROIAlign {count} x {size} x {size} x {CHANNELS}"
    return [
        Case(name, f"{title}, forward", 5, forward, check, forward_work),
        Case(f"{name}_gradient", f"{title}, forward + backward", 8, both, check_gradient, both_work),
    ]


def axis_taps(low: np.ndarray, high: np.ndarray, stride: float, size: int, length: int) -> list[list[set[int]]]:
    """Return for each box and bin the rows (or columns) of a map of `length` that its samples read."""
    start, extent = low / stride, np.maximum((high - low) / stride, 1)
    samples = (np.arange(size * SAMPLING_RATIO) + 0.5) / (size * SAMPLING_RATIO)
    positions = np.clip(start[:, None] + samples * extent[:, None], 0, length - 1).reshape(-1, size, SAMPLING_RATIO)
    pixels = np.stack([np.floor(positions), np.ceil(positions)], -1).astype(int).reshape(len(low), size, -1)
    return [[set(pixel) for pixel in box] for box in pixels]


def roi_align_work(boxes: np.ndarray, size: int) -> tuple[Work, Work]:
    """Return the work of the forward pass, and of forward and backward pass."""
    edges = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    levels = np.clip(np.floor(4 + np.log2(edges / 224 + 1e-6)), 2, 5).astype(int) - 2
    taps, pixels_read, pixels = 0, 0, 0
    for level, stride in enumerate(STRIDES):
        height, width = IMAGE_SIZE[0] // stride, IMAGE_SIZE[1] // stride
        x1, y1, x2, y2 = boxes[levels == level].T
        read = np.zeros((height, width), bool)
        for rows, columns in zip(
            axis_taps(y1, y2, stride, size, height), axis_taps(x1, x2, stride, size, width), strict=True
        ):
            taps += sum(map(len, rows)) * sum(map(len, columns))
            read[np.ix_(sorted(set.union(*rows)), sorted(set.union(*columns)))] = True
        pixels_read += int(read.sum())
        pixels += height * width
    out = len(boxes) * size * size
    to_megabytes = CHANNELS * 4 / 1e6
    mflop = 2 * taps * CHANNELS / 1e6
    forward = Work(
        (out + pixels_read) * to_megabytes,
        mflop,
        f"traffic: {out:,} crop pixels written and {pixels_read:,} map pixels read, {CHANNELS} float32 each; "
        f"arithmetic: {taps:,} (crop pixel, map pixel) pairs x {CHANNELS} multiply-adds",
    )
    both = Work(
        forward.megabytes + (out + pixels) * to_megabytes,
        2 * mflop,
        f"forward, and {out:,} crop pixels read, all {pixels:,} map pixels written; arithmetic twice that of forward",
    )
    return forward, both


def proposal_case(inputs: dict[str, np.ndarray]) -> Case:
    logits, deltas, anchors = (tf.constant(inputs[name]) for name in ("logits", "deltas", "anchors"))
    image_sizes, level_sizes = tf.constant(inputs["image_size"][None], tf.int32), tf.constant(inputs["level_sizes"])

    @tf.function
    def run() -> Any:
        return mrcnn_ops.generate_proposals(
            logits,
            deltas,
            anchors,
            image_sizes,
            level_sizes,
            pre_nms_top_k=TOP_K,
            post_nms_top_k=TOP_K,
            num_proposals=TOP_K,
            keep_padding_anchors=True,  # as torchvision does
            max_log_scale=float(np.log(1000 / 16)),  # its bound
        )

    def check(theirs: list[np.ndarray]) -> None:
        proposals = run()
        valid = proposals.valid[0].numpy()
        assert abs(int(valid.sum()) - len(theirs[0])) <= 2
        both = min(int(valid.sum()), len(theirs[0])) - 2
        close = np.isclose(proposals.boxes[0, :both], theirs[0][:both], atol=1e-2).all(-1)
        assert close.mean() > 0.98  # torchvision ranks by the sigmoid, where more scores are equal

    boxes, pairs, begin = inputs["anchors"], 0, 0
    for size in inputs["level_sizes"]:
        level_logits = inputs["logits"][0, begin : begin + size]
        best = np.argsort(-level_logits, kind="stable")[:TOP_K] + begin
        pairs += nms_pairs(decode(boxes[best], inputs["deltas"][0, best]), 0.7)
        begin += size
    selected = int(np.minimum(inputs["level_sizes"], TOP_K).sum())
    return Case(
        "proposals",
        "decode + top-k + NMS, five levels",
        2,
        run,
        check,
        Work(
            (4 * len(boxes) + 32 * selected + 21 * TOP_K) / 1e6,
            (40 * selected + PAIR_FLOP * pairs) / 1e6,
            f"traffic: {len(boxes):,} logits, {selected:,} deltas and anchors, {TOP_K:,} results; "
            f"arithmetic: 40 to decode, {PAIR_FLOP} for each of {pairs:,} pairs that greedy NMS compares",
        ),
    )


PAIR_FLOP = 14  # an IoU with the second box's area given, and its comparison


def decode(anchors: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    size = anchors[:, 2:] - anchors[:, :2]
    centre = anchors[:, :2] + size / 2 + deltas[:, :2] * size
    half = np.exp(deltas[:, 2:]) * size / 2
    height, width = IMAGE_SIZE
    return np.concatenate([centre - half, centre + half], -1).clip(0, [width, height, width, height])


def nms_pairs(boxes: np.ndarray, threshold: float) -> int:
    """Count the pairs that greedy NMS compares: a box with the kept ones before it, up to the first that covers it."""
    low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    part = np.prod(np.maximum(high - low, 0), -1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    over = part > threshold * (areas[:, None] + areas - part)
    kept: list[int] = []
    pairs = 0
    for i in range(len(boxes)):
        covering = np.flatnonzero(over[i, kept])
        pairs += covering[0] + 1 if len(covering) else len(kept)
        if len(covering) == 0:
            kept.append(i)
    return int(pairs)


def matching_case(inputs: dict[str, np.ndarray]) -> Case:
    anchors, gt_boxes = tf.constant(inputs["anchors"]), tf.constant(inputs["gt_boxes"][None])
    num_anchors, num_gt = len(inputs["anchors"]), len(inputs["gt_boxes"])
    gt_valid, crowds = tf.ones((1, num_gt), tf.bool), tf.zeros((1, 0, 4))

    @tf.function
    def run() -> Any:
        return mrcnn_ops.match_boxes(anchors, gt_boxes, gt_valid, crowds)

    def check(theirs: list[np.ndarray]) -> None:
        matches = run()
        kept = (matches.best_iou[0].numpy() >= 0.7) | matches.is_best_for_gt[0].numpy()
        np.testing.assert_array_equal(
            np.where(kept, matches.best_gt[0].numpy(), -1), np.where(theirs[0] >= 0, theirs[0], -1)
        )

    return Case(
        "matching",
        f"matching {num_anchors / 1e3:.0f} k anchors x {num_gt} boxes",
        4,
        run,
        check,
        Work(
            (16 + 13) * num_anchors / 1e6,
            10 * num_anchors * num_gt / 1e6,
            f"traffic: {num_anchors:,} anchors read, their 13 bytes of results written; "
            f"arithmetic: 10 for each of {num_anchors * num_gt:,} intersections",
        ),
    )


def nms_case(inputs: dict[str, np.ndarray]) -> Case:
    boxes, scores = tf.constant(inputs["nms_boxes"][None, :, None]), tf.constant(inputs["nms_scores"][None, :, None])
    count = len(inputs["nms_boxes"])

    @tf.function
    def run() -> Any:
        return mrcnn_ops.multiclass_nms(boxes, scores, score_threshold=-1.0, nms_threshold=0.5, max_detections=count)

    def check(theirs: list[np.ndarray]) -> None:
        detections = run()
        np.testing.assert_array_equal(detections.roi_indices[0].numpy()[detections.valid[0].numpy()], theirs[0])

    pairs = nms_pairs(inputs["nms_boxes"][np.argsort(-inputs["nms_scores"])], 0.5)
    return Case(
        "nms",
        f"NMS of {count:,} boxes",
        3,
        run,
        check,
        Work(
            (20 + 29) * count / 1e6,
            PAIR_FLOP * pairs / 1e6,
            f"traffic: {count:,} boxes and scores read, 29 bytes of results each; "
            f"arithmetic: {PAIR_FLOP} for each of {pairs:,} pairs that greedy NMS compares",
        ),
    )


def encoding_case(inputs: dict[str, np.ndarray]) -> Case:
    masks, boxes = tf.constant(inputs["masks"]), tf.constant(inputs["mask_boxes"])
    count, size = inputs["masks"].shape[:2]
    height, width = inputs["mask_image_size"].tolist()
    sizes = tf.constant(np.tile(inputs["mask_image_size"], (count, 1)), tf.int32)

    @tf.function
    def run() -> Any:
        return mrcnn_ops.encode_masks(masks, boxes, sizes)

    def check(theirs: list[np.ndarray]) -> None:
        # torchvision rounds boxes down to whole pixels: outlines differ, by less than a pixel all around the box.
        for counts, box, other in zip(run().numpy(), inputs["mask_boxes"], theirs, strict=True):
            ours = coco_mask.decode({"size": [height, width], "counts": counts})
            assert np.sum(ours != other) < 2 * (box[2] - box[0] + box[3] - box[1])

    x1, _, x2, _ = inputs["mask_boxes"].T
    columns = int((np.ceil(x2) - np.floor(x1)).sum())
    written = sum(map(len, run().numpy()))
    return Case(
        "encoding",
        f"{count} masks to RLE at {width} x {height}",
        10,
        run,
        check,
        Work(
            (4 * count * size * size + written) / 1e6,
            5 * columns * size / 1e6,
            f"traffic: {count} masks of {size} x {size} read, {written:,} characters written; "
            f"arithmetic: 3 to make and 2 to compare each of {size} values of {columns:,} image columns",
        ),
    )


# ---- measurement ----------------------------------------------------------------------------------------------------


class Torchvision(Peer):
    """The process of torchvision's side."""

    def seconds(self, case: str) -> float:
        return float(self.ask(f"run {case}"))

    def values(self, case: str, scratch: Path) -> list[np.ndarray]:
        path = scratch / "values.npz"
        self.ask(f"values {case} {path}")
        with np.load(path) as file:
            return [file[name] for name in file.files]


def measure(case: Case, torchvision: Torchvision, repeats: int) -> tuple[float, float]:
    """Return the median seconds of ours and of theirs, in turns, after two runs to warm up."""
    for _ in range(2):
        seconds_of(case.run)
        torchvision.seconds(case.name)
    pairs = [(seconds_of(case.run), torchvision.seconds(case.name)) for _ in range(repeats)]
    ours, theirs = zip(*pairs, strict=True)
    return statistics.median(ours), statistics.median(theirs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", type=Path, default=Path(__file__).resolve().parents[1] / ".bench/bin/python")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", help="cases whose name contains this")
    options = parser.parse_args()
    if not options.torch_python.exists():
        parser.error(f"{options.torch_python} is missing: run `make bench-ops`, or set --torch-python")
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)

    inputs = make_inputs()
    cases = [
        *roi_align_cases(inputs, "box_rois", "roi_align_box", 7),
        *roi_align_cases(inputs, "mask_rois", "roi_align_mask", 14),
        proposal_case(inputs),
        matching_case(inputs),
        nms_case(inputs),
        encoding_case(inputs),
    ]
    cases = [case for case in cases if options.only is None or options.only in case.name]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        np.savez(scratch / "inputs.npz", allow_pickle=False, **inputs)
        with Torchvision(options.torch_python, WORKER, scratch / "inputs.npz", THREADS) as torchvision:
            for case in cases:
                case.check(torchvision.values(case.name, scratch))
            bandwidth = copy_gigabytes_per_second(THREADS, options.repeats)
            gflops = gemm_gflops(lambda: torchvision.seconds("gemm"), options.repeats)
            results = [measure(case, torchvision, options.repeats) for case in cases]
    return report(cases, results, bandwidth, gflops)


def report(cases: list[Case], results: list[tuple[float, float]], bandwidth: float, gflops: float) -> int:
    instruction_set = mrcnn_ops.build_info()["instruction_set"]
    print(f"machine: {machine()}, {THREADS} threads a side; {instruction_set}")
    print(f"copy {bandwidth:.1f} GB/s (read + written), GEMM {gflops:.0f} GFLOP/s\n")
    print("| op | ours, ms | torchvision, ms | ratio | wanted | floor, ms | reached |")
    print("|---|---|---|---|---|---|---|")
    for case, (ours, theirs) in zip(cases, results, strict=True):
        floors = {"memory": case.work.megabytes / bandwidth, "arithmetic": case.work.mflop / gflops}
        kind = max(floors, key=lambda name: floors[name])
        print(
            f"| {case.title} | {1e3 * ours:.2f} | {1e3 * theirs:.1f} | {theirs / ours:.1f} | {case.wanted:g} | "
            f"{floors[kind]:.2f} {kind} | {floors[kind] / 1e3 / ours:.0%} |"
        )
    print()
    for case in cases:
        work = case.work
        print(f"{case.title}: {work.megabytes:.1f} MB, {work.mflop:.1f} MFLOP. {work.counted}.")
    figures = [Figure("copy, read plus written", bandwidth, "GB/s"), Figure("GEMM rate", gflops, "GFLOP/s")]
    for case, (ours, theirs) in zip(cases, results, strict=True):
        figures += [
            Figure(case.title, 1e3 * ours, "ms"),
            Figure(f"{case.title}, torchvision", 1e3 * theirs, "ms"),
            Figure(f"{case.title}, times torchvision", theirs / ours, "times", at_least=case.wanted),
        ]
    return write_results("ops", figures)


if __name__ == "__main__":
    sys.exit(main())
