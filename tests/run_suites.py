"""Runs the tests of every package, and of the workspace, each in a pytest process of its own.

One process each, because TensorFlow keeps what a test sets (threads, determinism, op libraries) until the process ends.
Arguments are handed to pytest as they are: `run_suites.py -m "not slow"`. Closes with one line like pytest's own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
EXIT_OK = 0
EXIT_NO_TESTS = 5  # pytest's code for "nothing collected or everything deselected"


class SuiteResult(NamedTuple):
    name: str
    exit_code: int
    passed: int
    failed: int
    errors: int
    skipped: int
    seconds: float


def suites() -> list[Path]:
    return [*sorted((ROOT / "packages").glob("*/tests")), ROOT / "tests"]


def run_suite(tests: Path, pytest_args: list[str]) -> SuiteResult:
    name = str(tests.relative_to(ROOT))
    print(f"\n=== {name}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", name, f"--junit-xml={report}", *pytest_args]
        # TensorFlow's C++ start-up notes would bury the tests' own output.
        exit_code = subprocess.run(command, cwd=ROOT, env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}).returncode
        counts = (
            read_counts(report) if report.exists() else dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        )
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    seconds = time.monotonic() - start
    return SuiteResult(name, exit_code, passed, counts["failures"], counts["errors"], counts["skipped"], seconds)


def read_counts(report: Path) -> dict[str, int]:
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    return {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}


def is_failure(result: SuiteResult) -> bool:
    return result.exit_code not in (EXIT_OK, EXIT_NO_TESTS)


def describe(result: SuiteResult) -> str:
    if result.exit_code == EXIT_NO_TESTS:
        return "no tests selected"
    verdict = "ok" if result.exit_code == EXIT_OK else f"FAILED (pytest exit code {result.exit_code})"
    counts = (
        f"{result.passed:5d} passed {result.failed:3d} failed {result.errors:3d} errors {result.skipped:3d} skipped"
    )
    return f"{counts}  {verdict}"


def closing_line(results: list[SuiteResult]) -> str:
    # A process that died (a crash in an op, a kill) leaves no counts; it still is an error in the closing line.
    crashed = sum(is_failure(r) and not (r.failed or r.errors) for r in results)
    totals = {
        "failed": sum(r.failed for r in results),
        "passed": sum(r.passed for r in results),
        "skipped": sum(r.skipped for r in results),
        "errors": sum(r.errors for r in results) + crashed,
    }
    words = ", ".join(f"{count} {word}" for word, count in totals.items() if count) or "no tests ran"
    return f" {words} in {sum(r.seconds for r in results):.2f}s ".center(80, "=")


def main(pytest_args: list[str]) -> int:
    results = [run_suite(tests, pytest_args) for tests in suites()]
    width = max(len(r.name) for r in results)
    print()
    for result in results:
        print(f"{result.name:{width}}  {result.seconds:6.1f} s  {describe(result)}")
    print(closing_line(results))
    ran_any = any(r.exit_code != EXIT_NO_TESTS for r in results)
    return int(any(map(is_failure, results)) or not ran_any)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
