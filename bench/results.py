"""What benchmarks measured: one JSON file each in bench/results, from which `bench/page.py` writes docs/RESULTS.md.

A file is named MACHINE-BENCHMARK[-VARIANT].json and contains

    benchmark, variant   such as "model" and "bfloat16"
    command              that measured it
    date                 of the measurement
    machine, threads     name of the processor and number of its cores; threads of each side
    versions             of Python, TensorFlow, NumPy, and of the peer's packages
    limits               what the machine can do, such as the GFLOP/s of a matrix product
    rows                 one for each comparison: {"what", "ours", "peers": {name: value}, "unit", "ratio", "wanted", ...}

`ratio` is the best peer's value divided by ours, so that more is better for times; `wanted` is the least that it should
be, null without a target.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from machine import machine

FOLDER = Path(__file__).resolve().parent / "results"
PACKAGES = ("tensorflow", "numpy", "opencv-python-headless", "pycocotools", "hotcoco")


def row(
    what: str, ours: float, peers: Mapping[str, float], *, unit: str, wanted: float | None = None, **more: Any
) -> dict:
    """Return a row of results; `peers` has at least one value, of the same unit, and less is better."""
    best = min(peers.values())
    return {
        "what": what,
        "ours": round(ours, 4),
        "peers": {name: round(value, 4) for name, value in peers.items()},
        "unit": unit,
        "ratio": round(best / ours, 3),
        "wanted": wanted,
        **more,
    }


def write(
    benchmark: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    variant: str = "",
    threads: int | None = None,
    limits: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write what a benchmark measured, over the results of the same machine, and return the path."""
    slug = re.sub(r"[^a-z0-9]+", "-", machine().lower()).strip("-")
    path = FOLDER / f"{'-'.join(filter(None, (slug, benchmark, variant)))}.json"
    content = {
        "benchmark": benchmark,
        "variant": variant,
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "threads": threads,
        "versions": {"python": platform.python_version(), **_versions(), **(versions or {})},
        "limits": limits or {},
        "rows": list(rows),
    }
    FOLDER.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(FOLDER.parents[1])}")
    return path


def read_all() -> list[dict[str, Any]]:
    """Return the contents of all files, sorted by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def versions_in(python: Path | str, *packages: str) -> dict[str, str]:
    """Return the versions of packages in another environment."""
    code = f"import importlib.metadata as m, json; print(json.dumps({{p: m.version(p) for p in {packages!r}}}))"
    return dict(json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
