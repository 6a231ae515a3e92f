"""Measure what the training loop costs outside of the compiled step: waiting for data, feeding, logging, checkpoints.

ResNet-50 on batches of 320 x 480, one image a step, float32, on `coco_open` (or --data-root):

    make bench-loop_overhead        or        python bench/loop_overhead.py --steps 40 --data-root DIR

The loop waits for every step, so a step's time is that of the device, and no work of the loop is hidden behind it. The
first steps, which compile, do not count. If a later step compiles, the measurement ends with an error.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from machine import machine, shared_data
from results import Figure, write_results

from mrcnn_data import TrainLoader
from mrcnn_train import run
from mrcnn_train.config.composition import typed_config
from mrcnn_train.record.progress import ProgressDisplay
from mrcnn_train.record.run_record import RunRecord
from mrcnn_train.training import step as step_module
from mrcnn_train.training.step import TrainStep

MOST_OVERHEAD = 0.03  # share of the time
STEP = "compiled step"
FEEDING = "arrays into tensors"


class Clock:
    """Seconds by what they were spent on, since the end of the first `warm_up` steps."""

    def __init__(self, *, warm_up: int) -> None:
        self._warm_up = warm_up
        self.steps = 0
        self.began = 0.0
        self._num_traces = 0
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def measure(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **options)
            if self.steps >= self._warm_up:
                self.seconds[what] += time.perf_counter() - began
            return result

        return measure

    def step_done(self, num_traces: int) -> None:
        self.steps += 1
        if self.steps == self._warm_up:
            self.began = time.perf_counter()
            self._num_traces = num_traces
        if self.steps > self._warm_up and num_traces != self._num_traces:
            sys.exit(f"step {self.steps} compiled another batch shape: set a longer --warm-up")


def measure_run(overrides: list[str], *, warm_up: int) -> Clock:
    clock = Clock(warm_up=warm_up)
    update, steps = TrainStep.__call__, TrainLoader.steps

    def finished_update(self: TrainStep, *args: Any) -> Any:
        metrics = update(self, *args)
        metrics.measured.total.numpy()
        return metrics

    def counted_update(self: TrainStep, *args: Any) -> Any:
        metrics = clock.timed(STEP, finished_update)(self, *args)
        clock.step_done(self.num_traces)
        return metrics

    def timed_steps(self: TrainLoader, start_step: int = 0) -> Iterator[Any]:
        batches = steps(self, start_step)
        while True:
            yield clock.timed("waiting for data", next)(batches)

    TrainStep.__call__ = counted_update  # type: ignore[method-assign, assignment]
    TrainLoader.steps = timed_steps  # type: ignore[method-assign]
    step_module.model_inputs = clock.timed(FEEDING, step_module.model_inputs)
    RunRecord.training = clock.timed("metrics and TensorBoard", RunRecord.training)  # type: ignore[method-assign]
    RunRecord.save = clock.timed("checkpoint", RunRecord.save)  # type: ignore[method-assign]
    ProgressDisplay.log = clock.timed("progress line", ProgressDisplay.log)  # type: ignore[method-assign]
    ended = RunRecord.close

    def close(self: RunRecord) -> None:
        clock.seconds["all"] = time.perf_counter() - clock.began
        ended(self)

    RunRecord.close = close  # type: ignore[method-assign]
    with hydra.initialize_config_module("mrcnn_train.conf", version_base="1.3"):
        config = typed_config(hydra.compose("config", overrides=overrides))
    assert run(config) == 0
    return clock


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=shared_data("coco_open"))
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as run_dir:
        clock = measure_run(
            [
                *("+experiment=8x4_12ep", f"data.root={options.data_root}", "data.train=train", "data.val=null"),
                *("data.short_edge=320", "data.max_size=480", "data.buckets=[[320,480],[480,320]]"),
                *("model.weights=null", f"run.dir={run_dir}"),
                *("train.images_per_gpu=1", "train.global_batch=1", f"train.max_steps={options.steps}"),
                "checkpoint.every_epochs=null",
            ],
            warm_up=options.warm_up,
        )
    seconds, num_steps = clock.seconds, clock.steps - options.warm_up
    whole = seconds.pop("all") - seconds.pop("checkpoint")  # of the end of the run
    seconds[STEP] -= seconds[FEEDING]
    seconds["the rest of the loop"] = whole - sum(seconds.values())
    print(f"{machine()}; {num_steps} steps of 1 image")
    print(f"{'':26} ms a step    share")
    for what, spent in seconds.items():
        print(f"{what:26} {1000 * spent / num_steps:9.1f} {spent / whole:8.2%}")
    overhead = 1 - seconds[STEP] / whole
    figures = [Figure(what, 1000 * spent / num_steps, "ms a step") for what, spent in seconds.items()]
    most = 100 * MOST_OVERHEAD
    return write_results(
        "loop_overhead", [*figures, Figure("outside of the compiled step", 100 * overhead, "%", at_most=most)]
    )


if __name__ == "__main__":
    sys.exit(main())
