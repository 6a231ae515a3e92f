"""What evaluations cost the training loop beyond their inference, in the background and in the foreground.

Trains the demo's network on its shapes three times: without evaluation, scoring in a thread, scoring in between:

    make bench-background_evaluation        or        python bench/background_evaluation.py --steps 200

Seconds from the tenth step to the last, without those of the detection.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MOST_COST = 0.05
MEASURE = """
import json, sys, time
from mrcnn_train.app import main
from mrcnn_train.evaluation import Evaluation
from mrcnn_train.step import TrainStep

WARM_UP = 10
calls, detecting, times = [0], [0.0], {}
update, detect = TrainStep.__call__, Evaluation.detect

def timed_update(*args, **options):
    metrics = update(*args, **options)
    calls[0] += 1
    if calls[0] == WARM_UP:
        metrics["total"].numpy()
        times["began"] = time.perf_counter()
    if calls[0] == LAST:
        metrics["total"].numpy()
        times["loop"] = time.perf_counter() - times.pop("began") - detecting[0]
        times["detecting"] = detecting[0]
    return metrics

def timed_detect(*args, **options):
    began = time.perf_counter()
    found = detect(*args, **options)
    detecting[0] += time.perf_counter() - began
    return found

TrainStep.__call__, Evaluation.detect = timed_update, timed_detect
out, last, *sys.argv[1:] = sys.argv[1:]
LAST = int(last)
code = main()
json.dump(times, open(out, "w"))
sys.exit(code)
"""


def measure(*overrides: str, steps: int, directory: Path) -> dict[str, float]:
    out = directory / "times.json"
    command = [sys.executable, "-c", MEASURE, str(out), str(steps), "+experiment=demo", f"train.max_steps={steps}"]
    command += ["checkpoint.every_steps=null", "eval.limit=50", *overrides]
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=directory)
    times: dict[str, float] = json.loads(out.read_text())
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every-epochs", type=float, default=0.1)
    options = parser.parse_args()
    every = f"eval.every_epochs={options.every_epochs}"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        bare = measure("data.val=null", steps=options.steps, directory=directory)["loop"]
        print(f"without evaluation: {bare:.1f} s")
        for what, background in (("in the background", "true"), ("in between", "false")):
            times = measure(every, f"eval.background={background}", steps=options.steps, directory=directory)
            cost = times["loop"] / bare - 1
            print(f"scored {what}: {times['loop']:.1f} s, {cost:+.1%}; detecting {times['detecting']:.1f} s more")
    print(f"in the background it is to be below {MOST_COST:.0%}")


if __name__ == "__main__":
    main()
