"""Describe the machine of a benchmark: its name (`python bench/machine.py`), memory, and speed of copying."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

# Instructions that multiply matrices, best first: name, flag in /proc/cpuinfo.
INSTRUCTIONS = (
    ("AMX", "amx_bf16"),
    ("AVX-512 bfloat16", "avx512_bf16"),
    ("AVX-512", "avx512f"),
    ("AVX2", "avx2"),
)


def machine() -> str:
    """Return the processor's name, its best instructions for matrix products, the number of its cores, and the GPUs."""
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    instructions = [instruction for instruction, flag in INSTRUCTIONS if flag in cpu_flags()]
    cores = f"{name}{f' with {instructions[0]}' if instructions else ''}, {os.cpu_count()} cores"
    return ", ".join([cores, *_gpus()])


def _gpus() -> list[str]:
    """Return the names of the GPUs, such as "8 x NVIDIA H100"; empty without NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    counts = Counter(line.strip() for line in listed.splitlines() if line.strip())
    return [f"{count} x {name}" if count > 1 else name for name, count in counts.items()]


def cpu_flags() -> frozenset[str]:
    """Return the features of an x86 processor; none elsewhere."""
    return frozenset(_cpuinfo("flags").split())


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def shared_data(name: str) -> Path:
    """Return the folder of a data set: in MRCNN_SHARED_DATA, or in ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("MRCNN_SHARED_DATA", beside)) / name


def peak_gigabytes() -> float:
    """Return the most memory that this process has held, in GiB. `ru_maxrss` also counts the parent before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20  # KiB


def copy_gigabytes_per_second(num_threads: int, repeats: int) -> float:
    """Return GB a second, read plus written, of threads that copy much more than the caches hold."""
    source = [np.ones(32 << 20, np.uint8) for _ in range(num_threads)]
    target = [np.zeros(32 << 20, np.uint8) for _ in range(num_threads)]

    def copy() -> float:
        threads = [threading.Thread(target=np.copyto, args=pair) for pair in zip(target, source, strict=True)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begin

    return 2 * num_threads * (32 << 20) / statistics.median(copy() for _ in range(repeats)) / 1e9


if __name__ == "__main__":
    print(machine())
