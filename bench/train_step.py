"""Measure seconds per step and peak memory of training ResNet-50: 80 classes, short edge 800, one image.

Runs the trainer as a user would, without evaluation, on `coco_open` (or --data-root):

    make bench-train_step        or        python bench/train_step.py --steps 24 --data-root DIR

The first step of a bucket includes its compilation. Nearly all of these are in the first half of the run; the median is
that of the second half.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine, shared_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=shared_data("coco_open"))
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--precision", default="float32", help="(%(default)s) as the trainer takes it; or auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as run_dir:
        overrides = [
            *(f"data.root={options.data_root}", "data.train=train", "data.val=null", "model.weights=null"),
            *("train.images_per_gpu=1", "train.global_batch=1", f"train.max_steps={options.steps}"),
            *("log.every=1", f"run.dir={run_dir}", f"precision={options.precision}"),
        ]
        command = [sys.executable, "-m", "mrcnn_train", "+experiment=8x4_12ep", *overrides]
        subprocess.run(command, check=True, stdout=sys.stderr)
        report(Path(run_dir) / "metrics.jsonl")


def report(metrics: Path) -> None:
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    seconds = [1 / row["images_per_second"] for row in rows if row["kind"] == "train"]
    peak = (
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    )  # KiB -> GiB; the largest child is the trainer
    print(f"machine: {machine()}")
    print(f"seconds per step: {', '.join(f'{s:.1f}' for s in seconds)}")
    print(
        f"median of the second half {statistics.median(seconds[len(seconds) // 2 :]):.2f} s, peak memory {peak:.1f} GiB"
    )


if __name__ == "__main__":
    main()
