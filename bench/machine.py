"""The machine that benchmarks run on: its name (`python bench/machine.py`), its memory, how fast it copies."""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from pathlib import Path

import numpy as np


def machine() -> str:
    """Name of the processor and number of its cores."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def peak_gigabytes() -> float:
    """The most memory that this process has held, in GiB; unlike `ru_maxrss` not that of the process it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20  # KiB


def copy_gigabytes_per_second(num_threads: int, repeats: int) -> float:
    """Bytes read plus bytes written per second by threads that copy far more than the caches hold."""
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
