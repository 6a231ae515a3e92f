"""Measure the time of a call, including the computation of TensorFlow's results, and the rate of a matrix product."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds of a call that returns tensors or arrays, nested in any way."""
    begin = time.perf_counter()
    results = run()
    for tensor in tf.nest.flatten(results):
        memoryview(tensor)  # waits for the values; .numpy() would copy them
    return time.perf_counter() - begin


def gemm_gflops(torch_seconds: Callable[[], float], repeats: int) -> float:
    """Return the best rate of NumPy, TensorFlow and torch for a product of 2048 x 2048 matrices of float32.

    Args:
        torch_seconds: computes it once with torch, in another process; returns the seconds.
        repeats: how often each of them computes it.
    """
    a = np.random.default_rng(0).random((2048, 2048), np.float32)
    tensor = tf.constant(a)
    sides: list[Callable[[], float]] = [
        lambda: seconds_of(lambda: tf.matmul(tensor, tensor)),
        lambda: seconds_of(lambda: a @ a),
        torch_seconds,
    ]
    return 2 * 2048**3 / min(side() for side in sides for _ in range(repeats)) / 1e9
