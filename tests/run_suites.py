"""Run the tests of every package and of the workspace, each in another pytest process.

TensorFlow keeps what a test sets (threads, determinism, op libraries) until the process ends.

    run_suites.py [--jobs N] [PYTEST_ARGUMENT...]        for example: run_suites.py --jobs 2 -m "not slow"

With one job, the default, output appears while the tests run; with more, when a suite ends. The last line looks like
pytest's own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from packaging.requirements import Requirement
from workspace import PACKAGES, ROOT, project_table

EXIT_OK = 0
EXIT_NO_TESTS = 5  # pytest's code for "nothing collected or everything deselected"
COUNTS = ("tests", "failures", "errors", "skipped")


class SuiteResult(NamedTuple):
    name: str
    exit_code: int
    passed: int
    failed: int
    errors: int
    skipped: int
    seconds: float


def suites() -> list[Path]:
    """Return the folders of tests, those of packages that need most of the others first: they take longest."""
    packages = sorted(PACKAGES, key=num_siblings, reverse=True)
    return [*(ROOT / "packages" / name / "tests" for name in packages), ROOT / "tests", ROOT / "infra" / "tests"]


def num_siblings(package: str) -> int:
    return sum(Requirement(text).name in PACKAGES for text in project_table(package)["dependencies"])


def run_suite(tests: Path, pytest_args: list[str], *, is_live: bool) -> SuiteResult:
    """Run one folder of tests. What pytest prints appears at once if `is_live`, otherwise when the suite ends."""
    name = str(tests.relative_to(ROOT))
    print(f"=== {name}" if is_live else f"started {name}", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [sys.executable, "-m", "pytest", name, f"--junit-xml={report}", *pytest_args]
        # TensorFlow's C++ start-up notes would hide the output of the tests.
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ}
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            check=False,
            stdout=None if is_live else subprocess.PIPE,
            stderr=None if is_live else subprocess.STDOUT,
        )
        counts = read_counts(report) if report.exists() else dict.fromkeys(COUNTS, 0)
    if not is_live:
        print(f"\n=== {name}\n{done.stdout.decode(errors='replace')}", flush=True)
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    seconds = time.monotonic() - start
    return SuiteResult(name, done.returncode, passed, counts["failures"], counts["errors"], counts["skipped"], seconds)


def read_counts(report: Path) -> dict[str, int]:
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    return {key: int(suite.attrib[key]) for key in COUNTS}


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


def closing_line(results: list[SuiteResult], seconds: float) -> str:
    # A process that crashed or was killed leaves no counts: it counts as an error.
    crashed = sum(is_failure(r) and not (r.failed or r.errors) for r in results)
    totals = {
        "failed": sum(r.failed for r in results),
        "passed": sum(r.passed for r in results),
        "skipped": sum(r.skipped for r in results),
        "errors": sum(r.errors for r in results) + crashed,
    }
    words = ", ".join(f"{count} {word}" for word, count in totals.items() if count) or "no tests ran"
    return f" {words} in {seconds:.2f}s ".center(80, "=")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--jobs", type=int, default=1)
    options, pytest_args = parser.parse_known_args(arguments)
    start = time.monotonic()
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = [pool.submit(run_suite, tests, pytest_args, is_live=options.jobs == 1) for tests in suites()]
        results = [run.result() for run in as_completed(runs)]
    width = max(len(r.name) for r in results)
    for result in results:
        print(f"{result.name:{width}}  {result.seconds:6.1f} s  {describe(result)}")
    print(closing_line(results, time.monotonic() - start))
    ran_any = any(r.exit_code != EXIT_NO_TESTS for r in results)
    return int(any(map(is_failure, results)) or not ran_any)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
