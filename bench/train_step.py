"""Measure the trainer's step of ResNet-50 at 800 x 1344 beside that of bench/model.py: seconds and peak memory.

    make bench-train_step        or        python bench/train_step.py [--precision bfloat16] [--data-root DIR]

The trainer runs as a user would, with the recipe of COCO, one image a step, buckets of 800 x 1344 and 1344 x 800, on
`coco_open`. Its time is that of a whole turn of the loop. bench/model.py's step is forward, backward and an update by
SGD alone, on one batch of 800 x 1344. The two processes take turns, so that other work on the machine slows both; what
the trainer adds is the ratio of the medians. Before its turn, bench/model.py waits until the trainer has logged and its
loader has decoded the next images. The first steps, which compile, do not count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine, shared_data
from model import settle_precision
from peer import Peer
from results import Figure, write_results
from timing import use_device

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from our_model import POLICIES, give_weights, make_inputs

HERE = Path(__file__).resolve().parent
THREADS = 2
SIZE = (1, 800, 1344)
WARM_UP = 12  # steps in which the trainer sees both buckets
MOST_TIMES = 1.1
LOADING_SECONDS = 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=shared_data("coco_open"))
    parser.add_argument("--precision", choices=("auto", *POLICIES), default="auto", help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=WARM_UP, help="steps of the trainer before (%(default)s)")
    options = parser.parse_args()
    if not options.data_root.is_dir():
        print(f"skipped: no data at {options.data_root} (--data-root)")
        return 0
    print(f"machine: {machine()}, {THREADS} threads")
    use_device("cpu", threads=THREADS)
    precision = settle_precision(options.precision)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = make_inputs(*SIZE)
        give_weights(inputs)
        np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
        del inputs
        overrides = [
            *("+experiment=8x4_12ep", f"data.root={options.data_root.resolve()}", "data.train=train", "data.val=null"),
            *("data.buckets=[[800,1344],[1344,800]]", "model.weights=null", f"precision={POLICIES[precision]}"),
            "device=cpu",
            *("train.images_per_gpu=1", "train.global_batch=1", "train.max_steps=100000", "log.every=1"),
            f"run.dir={folder / 'run'}",
        ]
        script, scripted = HERE / "peers" / "our_model.py", HERE / "peers" / "trainer.py"
        with (
            Peer(sys.executable, script, folder / "inputs.npz", THREADS, precision, "cpu") as bench,
            Peer(sys.executable, scripted, folder, THREADS, *overrides) as trainer,
        ):
            sides = (bench, trainer)
            for side, steps in zip(sides, (2, options.warm_up), strict=True):
                for _ in range(steps):
                    side.ask("train")
            turns = []
            for _ in range(options.repeats):
                time.sleep(LOADING_SECONDS)
                turns.append([side.ask("train") for side in sides])
            memory = [side.ask("memory") for side in sides]
    for name, column in zip(("bench/model.py", "trainer"), zip(*turns, strict=True), strict=True):
        print(f"{name:15} {', '.join(f'{seconds:.2f}' for seconds in column)} s")
    alone, trained = (statistics.median(column) for column in zip(*turns, strict=True))
    return write_results(
        "train_step",
        [
            Figure("1x800x1344 step of bench/model.py", alone, "s"),
            Figure("1x800x1344 step of the trainer", trained, "s"),
            Figure("trainer, of bench/model.py", trained / alone, "times the seconds", at_most=MOST_TIMES),
            Figure("peak memory of bench/model.py", memory[0], "GiB"),
            Figure("peak memory of the trainer", memory[1], "GiB"),
        ],
        precision=precision,
    )


if __name__ == "__main__":
    sys.exit(main())
