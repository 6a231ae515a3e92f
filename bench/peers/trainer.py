"""The trainer's side of bench/train_step.py: a run that waits before every step until it is asked for it.

Called as `trainer.py FOLDER THREADS OVERRIDE...`, with the options of mrcnn-train; it is started in FOLDER. It reads
lines from standard input: `train` runs a step and answers with its seconds: of the update, and of what the loop did
since the one before (waiting for data, logging); `memory` answers with the most memory that the process has held.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import hydra
import tensorflow as tf

from mrcnn_train import run
from mrcnn_train.config.composition import typed_config
from mrcnn_train.training.step import TrainStep

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import peak_gigabytes


def main(folder: str, threads: str, *overrides: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the trainer prints is not an answer
    os.chdir(folder)
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))
    update = TrainStep.__call__
    ended = time.perf_counter()

    def asked_update(self: TrainStep, *arguments: Any, **options: Any) -> Any:
        nonlocal ended
        seconds = time.perf_counter() - ended  # of the loop
        while (request := sys.stdin.readline().strip()) == "memory":
            print(json.dumps(peak_gigabytes()), file=answers)
        if request != "train":
            os._exit(0)
        began = time.perf_counter()
        metrics = update(self, *arguments, **options)
        metrics.measured.total.numpy()
        ended = time.perf_counter()
        print(json.dumps(seconds + ended - began), file=answers)
        return metrics

    TrainStep.__call__ = asked_update  # type: ignore[method-assign]
    with hydra.initialize_config_module("mrcnn_train.conf", version_base="1.3"):
        config = typed_config(hydra.compose("config", overrides=list(overrides)))
    print(json.dumps("ready"), file=answers)
    sys.exit(run(config))


if __name__ == "__main__":
    main(*sys.argv[1:])
