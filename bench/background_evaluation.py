"""Measure what evaluations cost the training loop beyond their inference, in the background and in the foreground.

Trains the demo's network without evaluation, with scoring in a thread, and with scoring in the loop, several times in
turn; medians are compared.

    make bench-background_evaluation        or        python bench/background_evaluation.py --steps 240 --repeats 3

Time is measured from the tenth step to the last, without the time of detection. The checkpoint, the table and the
pictures of every evaluation are part of the cost. There is one evaluation, half way through 230 steps (40 s, about an
epoch of the demo). In runs on COCO an epoch takes many minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine
from results import Figure, write_results

MOST_COST = 0.05
WARM_UP = 10
MEASURE = """
import json, sys, time
from mrcnn_train.app import main
from mrcnn_train.training.evaluation import Evaluation
from mrcnn_train.training.step import TrainStep

calls, detecting, evaluations, times = [0], [0.0], [0], {}
update, detect = TrainStep.__call__, Evaluation.detect

def timed_update(*args, **options):
    metrics = update(*args, **options)
    calls[0] += 1
    if calls[0] == WARM_UP:
        metrics.measured.total.numpy()
        times["began"] = time.perf_counter()
    if calls[0] == LAST:
        metrics.measured.total.numpy()
        times["loop"] = time.perf_counter() - times.pop("began") - detecting[0]
        times["detecting"], times["evaluations"] = detecting[0], evaluations[0]
    return metrics

def timed_detect(*args, **options):
    began = time.perf_counter()
    found = detect(*args, **options)
    detecting[0] += time.perf_counter() - began
    evaluations[0] += 1
    return found

TrainStep.__call__, Evaluation.detect = timed_update, timed_detect
out, warm_up, last, *sys.argv[1:] = sys.argv[1:]
WARM_UP, LAST = int(warm_up), int(last)
code = main()
json.dump(times, open(out, "w"))
sys.exit(code)
"""


def measure(*overrides: str, steps: int, directory: Path) -> dict[str, float]:
    out = directory / "times.json"
    command = [
        sys.executable,
        "-c",
        MEASURE,
        str(out),
        str(WARM_UP),
        str(steps),
        "+experiment=demo",
        f"train.max_steps={steps}",
    ]
    command += ["checkpoint.every_steps=null", "eval.limit=50", *overrides]
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=directory)
    times: dict[str, float] = json.loads(out.read_text())
    return times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--every-epochs", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    every = f"eval.every_epochs={options.every_epochs}"
    ways = {
        "without evaluation": ["data.val=null"],
        "scored in the background": [every, "eval.background=true"],
        "scored in between": [every, "eval.background=false"],
    }
    times: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(options.repeats):
            for way, overrides in ways.items():
                times[way].append(measure(*overrides, steps=options.steps, directory=Path(name)))
    print(f"{machine()}; {options.steps - WARM_UP} steps of 4 images, {options.repeats} runs each")
    loops = {way: statistics.median(one["loop"] for one in runs) for way, runs in times.items()}
    bare = loops["without evaluation"]
    for way, runs in times.items():
        spread = f"{min(one['loop'] for one in runs):.1f} to {max(one['loop'] for one in runs):.1f}"
        detecting = statistics.median(one["detecting"] for one in runs)
        evaluations = runs[0]["evaluations"]
        print(
            f"{way:26} {loops[way]:7.1f} s ({spread}) {loops[way] / bare - 1:+7.1%}; "
            f"{evaluations:.0f} evaluations, detecting {detecting:.1f} s more"
        )
    figures = [Figure(f"{options.steps - WARM_UP} steps, {way}", seconds, "s") for way, seconds in loops.items()]
    cost = 100 * (loops["scored in the background"] / bare - 1)
    return write_results(
        "background_evaluation", [*figures, Figure("cost in the background", cost, "%", at_most=100 * MOST_COST)]
    )


if __name__ == "__main__":
    sys.exit(main())
