"""Write the figures of a benchmark to bench/results, and read them: a JSON file for each machine, benchmark, precision.

`MACHINE-BENCHMARK.json` or `MACHINE-BENCHMARK-PRECISION.json` is an object with

- benchmark: the name of the script, such as "model"
- precision: of the arithmetic: "float32", "bfloat16", "float16"; null if the benchmark has no choice of precision
- machine: the processor, its best instructions for matrix products, and the number of its cores
- date: the day (UTC), "2026-12-01"
- command: the script and its arguments, with PATH for absolute paths
- versions: those of Python and of the libraries that were measured or compared with, by name
- figures: a list of objects:
  - name: what was measured, unique in the file
  - value: the number
  - unit: "s", "ms", "times" (the speed of the other side), "%", "GFLOP/s", "GB/s", "GiB", ...
  - at_least or at_most: what is wanted, if anything is
  - aim: what would be better still, if that is known
  - unchecked: why what is wanted does not apply on this machine, if it does not

A new run replaces the file. For a trial, the variable BENCH_RESULTS names another folder, or is empty to write nothing.
`python bench/page.py` makes the page of all files.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from machine import machine

RESULTS = Path(__file__).resolve().parent / "results"
FOLDER_VARIABLE = "BENCH_RESULTS"
LIBRARIES = ("tensorflow", "keras", "numpy", "pycocotools", "hotcoco", "opencv-python-headless")


class Figure(NamedTuple):
    """A measured number and what is wanted of it; see the module."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None
    unchecked: str | None = None

    @property
    def is_missed(self) -> bool:
        if self.unchecked:
            return False
        too_low = self.at_least is not None and self.value < self.at_least
        too_high = self.at_most is not None and self.value > self.at_most
        return too_low or too_high

    @property
    def wanted(self) -> str:
        """Say what is wanted, and whether it is met; empty if nothing is wanted."""
        limits = [
            f"{words} {number:g}"
            for words, number in (("at least", self.at_least), ("at most", self.at_most), ("aim", self.aim))
            if number is not None
        ]
        if not limits:
            return ""
        return f"{', '.join(limits)}: {self.unchecked or ('NOT MET' if self.is_missed else 'met')}"

    def __str__(self) -> str:
        wanted = f" ({self.wanted})" if self.wanted else ""
        return f"{self.name}: {rounded(self.value)} {self.unit}{wanted}"


class Result(NamedTuple):
    """The content of a file; see the module."""

    benchmark: str
    precision: str | None
    machine: str
    date: str
    command: list[str]
    versions: dict[str, str]
    figures: list[Figure]

    @property
    def name(self) -> str:
        """Return the name of the file, without `.json`."""
        parts = [self.machine, self.benchmark, *([self.precision] if self.precision else [])]
        return re.sub(r"[^a-z0-9_]+", "-", "-".join(parts).lower()).strip("-")


def write_results(
    benchmark: str,
    figures: Sequence[Figure],
    *,
    precision: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> int:
    """Write the figures of this run, print those that have a target, and return the exit code: 1 if any is missed.

    Args:
        versions: of libraries in another environment.
    """
    names = [figure.name for figure in figures]
    assert len(set(names)) == len(names), f"figures of the same name: {names}"
    result = Result(
        benchmark,
        precision,
        machine(),
        time.strftime("%Y-%m-%d", time.gmtime()),
        own_command(),
        {**own_versions(), **(versions or {})},
        list(figures),
    )
    for figure in figures:
        if figure.wanted:
            print(figure)
    folder = os.environ.get(FOLDER_VARIABLE, str(RESULTS))
    if folder:
        print(f"written: {save(result, Path(folder))}; `python bench/page.py` makes the page of it", flush=True)
    return 1 if any(figure.is_missed for figure in figures) else 0


def save(result: Result, folder: Path) -> Path:
    """Write the file of a result, which replaces an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    figures = [{key: value for key, value in one._asdict().items() if value is not None} for one in result.figures]
    path.write_text(json.dumps({**result._asdict(), "figures": figures}, indent=1) + "\n")
    return path


def read_results(folder: Path = RESULTS) -> list[Result]:
    """Read all files of a folder, by name."""
    results = []
    for path in sorted(folder.glob("*.json")):
        content: dict[str, Any] = json.loads(path.read_text())
        results.append(Result(**{**content, "figures": [Figure(**figure) for figure in content["figures"]]}))
    return results


def own_command() -> list[str]:
    """Return the script and its arguments, without the folders of this machine."""
    return [f"bench/{Path(sys.argv[0]).name}", *(re.sub(r"(^|=)/.*", r"\1PATH", word) for word in sys.argv[1:])]


def own_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def rounded(value: float) -> str:
    """Write a number with three digits, or all digits before the point.

    >>> rounded(0.4567), rounded(12.34), rounded(1234.5)
    ('0.457', '12.3', '1234')
    """
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
