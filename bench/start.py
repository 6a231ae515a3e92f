"""Measure how long a user waits: for the first step of the demo, the help of a command, the import of a package.

    make bench-start        or        python bench/start.py [--repeats 5] [--demo-repeats 3]

Each figure is the median of processes that were started one after the other, with warm file caches. The demo's first
step counts from the start of the command to the end of the first update, with its data already generated and without
its evaluation.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from results import Figure, write_results

DEMO = ("+experiment=demo", "device=cpu", "train.max_steps=1", "data.val=null", "checkpoint.every_epochs=null")
FIRST_STEP = """
import os, sys
from mrcnn_train.app import main
from mrcnn_train.training.step import TrainStep

update = TrainStep.__call__

def first_update(*arguments, **options):
    metrics = update(*arguments, **options)
    metrics.measured.total.numpy()
    print("first step", flush=True)
    os._exit(0)

TrainStep.__call__ = first_update
sys.exit(main())
"""


def seconds(command: list[str], folder: Path, *, until: str | None = None) -> float:
    """Return the seconds until a command ends, or prints a line with `until`."""
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        elapsed, is_found = 0.0, until is None
        for line in process.stdout:
            if until is not None and until in line:
                elapsed, is_found = time.perf_counter() - began, True
        code = process.wait()
        if code or not is_found:
            errors.seek(0)
            missing = "" if is_found else f", {until!r} was not printed"
            raise RuntimeError(f"{' '.join(command)}: exit code {code}{missing}: {errors.read()[-1000:]}")
    return elapsed or time.perf_counter() - began


def median_seconds(command: list[str], folder: Path, *, repeats: int, until: str | None = None) -> float:
    """Return the median of some runs; one more run before warms the file caches, and generates data."""
    runs = [seconds(command, folder, until=until) for _ in range(repeats + 1)][1:]
    print(f"{' '.join(command[-3:])[-60:]:60} {', '.join(f'{run:.2f}' for run in runs)} s", flush=True)
    return statistics.median(runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--demo-repeats", type=int, default=3)
    options = parser.parse_args()
    python = sys.executable
    print(f"machine: {machine()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = [python, "-c", FIRST_STEP, *DEMO]
        shown_help = [python, "-m", "mrcnn_eval", "--help"]
        import_data = [python, "-c", "import mrcnn_data"]
        first_step = median_seconds(demo, folder, repeats=options.demo_repeats, until="first step")
        shown, imported = (median_seconds(one, folder, repeats=options.repeats) for one in (shown_help, import_data))
    return write_results(
        "start",
        [
            Figure("demo, to the end of the first step", first_step, "s", at_most=20.0),
            Figure("mrcnn-eval --help", shown, "s", at_most=1.5),
            Figure("import mrcnn_data", imported, "s", at_most=0.5),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
