"""What the benchmarks ran on, for their reports: `python bench/machine.py` prints it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """Name of the processor and number of its cores."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    print(machine())
