"""Measure the time of a call, including the computation of TensorFlow's results, and the rates of the device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import mrcnn_model

GEMM_EDGE = {"cpu": 2048, "gpu": 8192}  # of the square matrices whose product is timed


def use_device(device: str, *, threads: int) -> None:
    """Let TensorFlow use the CPU alone with a number of threads, or the first GPU; before its first computation.

    Raises:
        mrcnn_model.DeviceError: there is no GPU, or it would not be used as it should be.
    """
    mrcnn_model.use_device(device, cpu_option="--device cpu")
    if device == "cpu":
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def seconds_of(run: Callable[[], Any]) -> float:
    """Return the seconds of a call that returns tensors or arrays, nested in any way."""
    begin = time.perf_counter()
    results = run()
    for tensor in tf.nest.flatten(results):
        # Waits for the values; .numpy() would copy them. A memoryview cannot hold bfloat16.
        memoryview(tf.bitcast(tensor, tf.uint16) if tensor.dtype == tf.bfloat16 else tensor)
    if tf.config.get_visible_devices("GPU"):
        tf.test.experimental.sync_devices()  # an update may still be running
    return time.perf_counter() - begin


def gemm_gflops(
    torch_seconds: Callable[[], float], repeats: int, *, precision: str = "float32", device: str = "cpu"
) -> float:
    """Return the best rate of TensorFlow and torch, and of NumPy in float32 on a CPU, for a product of two matrices.

    Args:
        torch_seconds: computes it once with torch, in another process, in this precision; returns the seconds.
        repeats: how often each of them computes it.
        precision: type of the elements.
        device: "cpu" or "gpu": matrices of `GEMM_EDGE` rows and columns.
    """
    edge = GEMM_EDGE[device]
    a = np.random.default_rng(0).random((edge, edge), np.float32)
    tensor = tf.cast(tf.constant(a), precision)
    product = tf.function(lambda: tf.matmul(tensor, tensor)[:1, :1])  # one element: nothing to copy from a GPU
    seconds_of(product)  # compiles
    sides: list[Callable[[], float]] = [lambda: seconds_of(product), torch_seconds]
    if precision == "float32" and device == "cpu":
        sides.append(lambda: seconds_of(lambda: a @ a))
    return 2 * edge**3 / min(side() for side in sides for _ in range(repeats)) / 1e9


def gpu_gigabytes_per_second(repeats: int) -> float:
    """Return GB a second, read plus written, of a GPU that copies much more than its caches hold."""
    source, target = tf.Variable(tf.zeros([1 << 28])), tf.Variable(tf.zeros([1 << 28]))  # 1 GiB each

    @tf.function
    def copy() -> tf.Tensor:
        with tf.control_dependencies([target.assign(source + 1.0)]):
            return tf.zeros([1])

    seconds_of(copy)
    return 2 * 4 * (1 << 28) / statistics.median(seconds_of(copy) for _ in range(repeats)) / 1e9
