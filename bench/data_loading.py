"""Measure images per second of the training loader, beside plain decoding and resizing, and beside torch's DataLoader.

    make bench-data        or        python bench/data_loading.py [--threads 2] [--seconds 8] [--data-root DIR]

Every part loads the training images of `coco_open` (short edge 800, long edge at most 1333, batches of 4, horizontal
flips) from the page cache, with the same number of threads or workers:

- limit: read, decode and resize into reused batch buffers; no annotations, flips or padding.
- loader: `TrainLoader`, which also makes boxes, classes and 112 x 112 masks.
- torch: `DataLoader` over torchvision's `CocoDetection` with the transforms of its detection reference (v2), including
  resizing: boxes, labels, full-size masks. Skipped, with a message, if --torch-python has no torch.

Limit and loader take turns, so that other work on the machine slows both; medians are compared. Then the loader runs
for 20 more epochs, and the growth of its memory is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from machine import machine, shared_data
from results import Figure, write_results

from mrcnn_data import Augmentation, Batch, CocoDataset, TrainLoader, default_buckets
from mrcnn_data.images import resized_sizes
from mrcnn_data.loading import BufferPool, assign_buckets

ROOT = Path(__file__).resolve().parents[1]
SHORT_EDGE, MAX_SIZE, BATCH = 800, 1333, 4
BUCKETS = default_buckets(SHORT_EDGE, MAX_SIZE)
ROUNDS = 5
EPOCHS = 20
LEAST_SHARE_OF_LIMIT, LEAST_TIMES_TORCH, MOST_MB_PER_EPOCH = 0.65, 5.0, 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=shared_data("coco_open"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each round of each part")
    parser.add_argument(
        "--torch-python",
        type=Path,
        default=ROOT / ".bench/bin/python",
        help="a Python that has torch and torchvision (default: that of .bench, which `make bench-data` makes)",
    )
    options = parser.parse_args()
    if not options.data_root.is_dir():
        print(f"skipped: no data at {options.data_root} (--data-root)")
        return 0
    dataset = CocoDataset.from_root(options.data_root, "train")
    print(f"machine: {machine()}; {len(dataset)} images, {options.threads} loader threads")

    limits, rates = [], []
    with make_loader(dataset, options.threads) as loader:
        for _ in range(ROUNDS):
            limits.append(limit_rate(dataset, options.threads, seconds=options.seconds))
            rates.append(loader_rate(loader, seconds=options.seconds))
    limit, rate = statistics.median(limits), statistics.median(rates)
    share = statistics.median(one / other for one, other in zip(rates, limits, strict=True))
    print(f"decode + resize limit: {limit:7.1f} images/s  (rounds: {', '.join(f'{one:.0f}' for one in limits)})")
    print(f"TrainLoader:           {rate:7.1f} images/s  (rounds: {', '.join(f'{one:.0f}' for one in rates)})")
    figures = [
        Figure("decode + resize alone", limit, "images/s"),
        Figure("TrainLoader", rate, "images/s"),
        Figure("TrainLoader, share of decode + resize", 100 * share, "%", at_least=100 * LEAST_SHARE_OF_LIMIT),
    ]
    torch_rate = torch_loader_rate(
        options.torch_python, options.data_root, options.threads, seconds=2 * options.seconds
    )
    if torch_rate is not None:
        print(f"torch DataLoader:      {torch_rate:7.1f} images/s")
        figures += [
            Figure("torch DataLoader", torch_rate, "images/s"),
            Figure("TrainLoader, times torch", rate / torch_rate, "times", at_least=LEAST_TIMES_TORCH),
        ]

    slope = memory_slope(dataset, options.threads)
    figures.append(Figure(f"memory growth over {EPOCHS} epochs", slope, "MB an epoch", at_most=MOST_MB_PER_EPOCH))
    return write_results("data_loading", figures)


def make_loader(dataset: CocoDataset, num_threads: int) -> TrainLoader:
    return TrainLoader(
        dataset,
        buckets=BUCKETS,
        short_edge=SHORT_EDGE,
        max_size=MAX_SIZE,
        images_per_batch=BATCH,
        global_batch=BATCH,
        seed=0,
        augmentation=Augmentation(horizontal_flip=0.5),
        num_threads=num_threads,
    )


def loader_rate(loader: TrainLoader, *, seconds: float) -> float:
    """Return images per second from the second step on. Each batch is freed when the next one arrives."""
    steps = loader.steps()
    next(steps)
    started, num_images = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        num_images += len(next(steps)[0].image_ids)
    return num_images / (time.perf_counter() - started)


def limit_rate(dataset: CocoDataset, num_threads: int, *, seconds: float) -> float:
    """Return images per second of the loader's threads, queue and buffers, with decoding and resizing alone."""
    cv2.setNumThreads(0)
    sizes = resized_sizes(dataset.image_sizes, short_edge=SHORT_EDGE, max_size=MAX_SIZE)
    assigned = assign_buckets(sizes, BUCKETS)
    pool = BufferPool()

    def fill(padded: np.ndarray, image: int) -> None:
        data = np.frombuffer(dataset.image_path(image).read_bytes(), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        assert pixels is not None
        height, width = sizes[image].tolist()
        cv2.resize(pixels, (width, height), dst=padded[:height, :width], interpolation=cv2.INTER_LINEAR)

    rng = np.random.default_rng(0)
    ahead: deque[list[Future[None]]] = deque()
    num_images = 0
    with ThreadPoolExecutor(num_threads) as threads:
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            # Images of one bucket, which is as likely as it has images.
            first = int(rng.integers(len(dataset)))
            images = rng.choice(np.flatnonzero(assigned == assigned[first]), BATCH).tolist()
            batch = pool.take((BATCH, *BUCKETS[assigned[first]], 3))
            ahead.append([threads.submit(fill, batch[row], image) for row, image in enumerate(images)])
            if len(ahead) > max(1, 2 * num_threads // BATCH):
                for row in ahead.popleft():
                    row.result()
                num_images += BATCH
        elapsed = time.perf_counter() - started
        for rows in ahead:
            for row in rows:
                row.cancel()
    return num_images / elapsed


def memory_slope(dataset: CocoDataset, num_threads: int) -> float:
    """Return the growth in MB an epoch: the slope of the resident size after each epoch, without three to warm up."""
    steps_per_epoch = -(-len(dataset) // BATCH)
    resident = []
    with make_loader(dataset, num_threads) as loader:
        steps = loader.steps()
        batch: Batch | None = None
        for epoch in range(3 + EPOCHS):
            for _ in range(steps_per_epoch):
                (batch,) = next(steps)
            if epoch >= 3:
                resident.append(resident_mb())
        del batch
    return float(np.polyfit(np.arange(EPOCHS), resident, 1)[0])


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def torch_loader_rate(python: Path, data_root: Path, num_workers: int, *, seconds: float) -> float | None:
    """Run the torch part in its own Python; return None, with a message, if that has no torch."""
    command = [str(python), "-c", "import torch, torchvision, PIL"]
    if not python.exists() or subprocess.run(command, capture_output=True, check=False).returncode:
        print(f"torch DataLoader: skipped, {python} has no torch and torchvision (--torch-python names one that has)")
        return None
    arguments = json.dumps([str(data_root), num_workers, BATCH, SHORT_EDGE, MAX_SIZE, seconds])
    result = subprocess.run([python, "-c", TORCH_PART, arguments], check=True, stdout=subprocess.PIPE, text=True)
    return float(result.stdout.split()[-1])


TORCH_PART = """
import json, sys, time
import torch
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms import v2

root, num_workers, batch_size, short_edge, max_size, seconds = json.loads(sys.argv[1])
torch.set_num_threads(1)
transforms = v2.Compose([
    v2.ToImage(),
    v2.RandomHorizontalFlip(0.5),
    v2.RandomShortestSize(short_edge, max_size),
    v2.ToDtype(torch.float32, scale=True),
    v2.SanitizeBoundingBoxes(),
    v2.ToPureTensor(),
])
dataset = CocoDetection(root + "/train", root + "/annotations/instances_train.json", transforms=transforms)
dataset.ids = [image for image in dataset.ids if dataset.coco.getAnnIds(image)]  # as the reference does
dataset = wrap_dataset_for_transforms_v2(dataset, target_keys=("boxes", "labels", "masks"))
sampler = torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=10**6)
loader = torch.utils.data.DataLoader(
    dataset, batch_size, sampler=sampler, num_workers=num_workers, collate_fn=lambda rows: tuple(zip(*rows))
)
batches = iter(loader)
for _ in range(2 * num_workers):  # until the workers have loaded ahead
    next(batches)
started, count = time.perf_counter(), 0
while time.perf_counter() - started < seconds:
    images, targets = next(batches)
    count += len(images)
assert targets[0]["masks"].shape[1:] == images[0].shape[1:]
print(count / (time.perf_counter() - started))
"""


if __name__ == "__main__":
    sys.exit(main())
