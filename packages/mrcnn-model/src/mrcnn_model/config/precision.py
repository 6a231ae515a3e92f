"""The precisions of a network, and the fastest one of this machine.

The instruction set decides; a short measurement may only veto. TensorFlow is imported where it is used.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tensorflow as tf

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")  # types of the arithmetic; see `build_model`
AUTO_PRECISION = "auto"  # stands for what `choose_precision` chooses
LEAST_GAIN = 1.5  # half precision that is less than this many times as fast as float32 is not used

# Instructions of x86 processors that multiply bfloat16 numbers, fastest first: name, flags in /proc/cpuinfo, and the
# values of ONEDNN_MAX_CPU_ISA at which oneDNN does not use them. It would then compute them with float32 instructions.
_BELOW_BF16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
_BELOW_AMX = (*_BELOW_BF16, "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512")
BFLOAT16_INSTRUCTIONS = (
    ("AMX", {"amx_tile", "amx_bf16"}, _BELOW_AMX),
    ("AVX-512 bfloat16", {"avx512_bf16"}, _BELOW_BF16),
)

# Of compute capability 7.5, but without tensor cores.
WITHOUT_TENSOR_CORES = re.compile(r"GTX 16\d\d|MX[45]50|\bT(400|500|550|600|1000|1200|2000)\b")


class PrecisionChoice(NamedTuple):
    """A precision, one of `PRECISIONS`, and why this machine has it."""

    precision: str
    reason: str

    def __str__(self) -> str:
        return f"{self.precision} ({AUTO_PRECISION}: {self.reason})"


def choose_precision() -> PrecisionChoice:
    """Choose the precision that `auto` stands for on this machine, for the device that TensorFlow uses.

    The instruction set decides. On a CPU with bfloat16 instructions, a measurement of a quarter of a second follows,
    once per process, and leaves float32 where bfloat16 is not `LEAST_GAIN` times as fast. A GPU is not measured: its
    tensor cores are known by its compute capability, and a measurement would set up cuDNN first, which takes seconds.
    """
    import tensorflow as tf

    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return choice_for_gpu(details.get("device_name", "GPU"), details.get("compute_capability"))
    return vetoed(choice_for_cpu(cpu_flags(), os.environ), _bfloat16_gain)


def choice_for_gpu(name: str, capability: tuple[int, int] | None) -> PrecisionChoice:
    """Choose by the compute capability of a GPU, None for a GPU that has none.

    Tensor cores take float16 from 7.0 (Volta) and bfloat16 from 8.0 (Ampere).
    """
    if capability is None:
        return PrecisionChoice("float32", f"{name}, a GPU of unknown compute capability")
    described = f"{name}, compute capability {capability[0]}.{capability[1]}"
    if capability >= (8, 0):
        return PrecisionChoice("mixed_bfloat16", described)
    if capability >= (7, 0) and not WITHOUT_TENSOR_CORES.search(name):
        return PrecisionChoice("mixed_float16", described)
    return PrecisionChoice("float32", f"{described}, without tensor cores")


def choice_for_cpu(flags: Collection[str] | None, environment: Mapping[str, str]) -> PrecisionChoice:
    """Choose by the instructions of a CPU and by the variables that keep oneDNN from using them.

    Args:
        flags: those in /proc/cpuinfo; None if the system has none.
        environment: may set TF_ENABLE_ONEDNN_OPTS and ONEDNN_MAX_CPU_ISA.
    """
    if flags is None:
        kind = f"{platform.system()} on {platform.machine()}"
        return PrecisionChoice("float32", f"no fast half precision known for {kind}")
    present = [(name, hiding) for name, needed, hiding in BFLOAT16_INSTRUCTIONS if needed <= set(flags)]
    if not present:
        return PrecisionChoice("float32", "CPU without bfloat16 instructions")
    if environment.get("TF_ENABLE_ONEDNN_OPTS", "1").lower() in ("0", "false"):
        return PrecisionChoice("float32", f"CPU with {present[0][0]}, which TF_ENABLE_ONEDNN_OPTS turns off")
    limit = environment.get("ONEDNN_MAX_CPU_ISA", environment.get("DNNL_MAX_CPU_ISA", "")).upper()
    for name, hiding in present:
        if limit not in hiding:
            return PrecisionChoice("mixed_bfloat16", f"CPU with {name}")
    return PrecisionChoice("float32", f"CPU with {present[0][0]}, which ONEDNN_MAX_CPU_ISA={limit} turns off")


def vetoed(choice: PrecisionChoice, measure_gain: Callable[[], float]) -> PrecisionChoice:
    """Return a choice with its measured gain, or float32 if the gain is too small; float32 is not measured."""
    if choice.precision == "float32":
        return choice
    gain = measure_gain()
    if gain >= LEAST_GAIN:
        return PrecisionChoice(choice.precision, f"{choice.reason}, {gain:.1f} times float32 here")
    half = choice.precision.removeprefix("mixed_")
    return PrecisionChoice("float32", f"{choice.reason}, but {half} is only {gain:.2f} times as fast as float32 here")


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str] | None:
    """Read the features of an x86 processor; None on other processors and systems."""
    try:
        found = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    return frozenset(found[1].split()) if found else None


# The measured convolution, one of the second stage's: 3 x 3, 128 to 128 channels, on maps of ROWS x 152.
_WIDTH, _CHANNELS = 152, 128
_FEWEST_ROWS, _MOST_ROWS = 32, 2048
_LEAST_SECONDS = 0.005  # of a float32 pass; in a shorter one, handing out the work to many cores would count
_FEWEST_PASSES = 3
_SECONDS, _SECONDS_OF_DOUBT = 0.1, 0.5  # how long to measure; before a veto


@functools.cache
def _bfloat16_gain() -> float:
    """Measure how many times as fast as in float32 a convolution is in bfloat16, forward and backward, on this CPU.

    CPU time is compared, and the fastest of several passes in turns counts, so that other programs on the machine and
    the CPU limit of a container matter little: on two Zen 5 cores with a load of 20, fifteen measurements gave 1.73 to
    2.09; wall-clock time, with a load of 6, gave 0.9 to 4. It is measured once per process, so that all models of a
    process have the same precision.
    """
    import tensorflow as tf

    rows = _FEWEST_ROWS
    while True:
        passes = [_convolution(rows, dtype) for dtype in (tf.float32, tf.bfloat16)]
        for run in passes:
            run()  # compiles the kernels
        began = time.perf_counter()
        passes[0]()
        if time.perf_counter() - began >= _LEAST_SECONDS or rows >= _MOST_ROWS:
            break
        rows *= 2
    full = half = float("inf")
    began = time.perf_counter()
    for number in itertools.count(1):
        full, half = min(full, _cpu_seconds(passes[0])), min(half, _cpu_seconds(passes[1]))
        enough = _SECONDS if full >= LEAST_GAIN * half else _SECONDS_OF_DOUBT
        if number >= _FEWEST_PASSES and time.perf_counter() - began >= enough:
            break
    return full / half


def _cpu_seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def _convolution(rows: int, dtype: tf.DType) -> Callable[[], None]:
    """Return a function that runs a convolution and its two gradients."""
    import tensorflow as tf

    image = tf.fill([1, rows, _WIDTH, _CHANNELS], tf.cast(0.01, dtype))
    kernel = tf.fill([3, 3, _CHANNELS, _CHANNELS], tf.cast(0.01, dtype))
    options = {"strides": [1, 1, 1, 1], "padding": "SAME"}

    def run() -> None:
        output = tf.raw_ops.Conv2D(input=image, filter=kernel, **options)
        tf.raw_ops.Conv2DBackpropFilter(input=image, filter_sizes=kernel.shape, out_backprop=output, **options)
        tf.raw_ops.Conv2DBackpropInput(input_sizes=image.shape, filter=kernel, out_backprop=output, **options)

    return run
