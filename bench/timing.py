"""How long something takes, with TensorFlow's results waited for, and the rate of a matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds of a call that returns tensors or arrays, in any nesting."""
    begin = time.perf_counter()
    results = run()
    for tensor in tf.nest.flatten(results):
        memoryview(tensor)  # waits for the values; .numpy() would copy them
    return time.perf_counter() - begin


def gemm_gflops(torch_seconds: Callable[[], float], repeats: int) -> float:
    """The best of NumPy, TensorFlow and torch for a product of 2048 x 2048 matrices of float32, each some times.

    Args:
        torch_seconds: does it once by torch, in another process.
    """
    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    tensor = tf.constant(a)
    sides: list[Callable[[], float]] = [
        lambda: seconds_of(lambda: tf.matmul(tensor, tensor)),
        lambda: seconds_of(lambda: a @ a),
        torch_seconds,
    ]
    return 2 * 2048**3 / min(side() for side in sides for _ in range(repeats)) / 1e9
