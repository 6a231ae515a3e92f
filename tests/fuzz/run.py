"""Feed random files to the parsers until time is up; a content that breaks one is kept in tests/fuzz/found.

    python tests/fuzz/run.py [--minutes 20] [PARSER...]

Each parser runs in a process whose memory may grow by 2 GiB. A content may take 20 seconds of processor time. Anything
but the product's own errors is a failure: mend it, and move the file to tests/fuzz/seeds/PARSER, which the fast tests
read (`tests/test_fuzz.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, settings

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from fuzz.parsers import PARSERS  # noqa: E402

MORE_MEMORY = 2 << 30  # bytes above what the imports take
MOST_SECONDS = 20  # of processor time, for one content
HANGS = 300  # seconds without Python code running
PORTION = 100  # contents of one call of hypothesis


class TooSlowError(Exception):
    """A content takes too long."""


def main() -> int:
    """Fuzz every parser that was named, each in another process; return how many failed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("parsers", nargs="*", metavar="PARSER", help=f"of {', '.join(PARSERS)}; default: all")
    arguments.add_argument("--minutes", type=float, default=20.0, help="for each parser (default: 20)")
    arguments.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    unknown = set(options.parsers) - set(PARSERS)
    if unknown:
        arguments.error(f"unknown parser {unknown.pop()}: choose of {', '.join(PARSERS)}")
    if options.inside:
        return fuzz(options.parsers[0], seconds=60 * options.minutes)
    failed = 0
    for name in options.parsers or PARSERS:
        command = [sys.executable, __file__, "--inside", "--minutes", str(options.minutes), name]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


def fuzz(name: str, *, seconds: float) -> int:
    """Fuzz one parser in this process; return 1 if a content breaks it."""
    parser = PARSERS[name]
    contents = parser.contents()
    with tempfile.TemporaryDirectory() as folder:
        run_one(name, b"", Path(folder))  # imports what it needs
    limit_memory()
    count = 0
    last = b""

    @settings(
        max_examples=PORTION, deadline=None, database=None, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )  # fmt: skip
    @given(contents)
    def portion(content: bytes) -> None:
        nonlocal count, last
        count, last = count + 1, content
        with tempfile.TemporaryDirectory() as folder:
            run_one(name, content, Path(folder))

    logging.disable()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, sys.stderr.fileno())  # decoders in C write there
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            portion()
    except BaseException as error:
        found = HERE / "found" / name
        found.mkdir(parents=True, exist_ok=True)
        path = found / f"{hashlib.sha256(last).hexdigest()[:12]}"
        path.write_bytes(last)
        print(f"{name}: FAILED after {count} contents, the last one in {path}", flush=True)
        traceback.print_exception(error, limit=-4, file=sys.stdout)
        return 1
    print(f"{name}: {count} contents in {seconds / 60:g} minutes, no failure", flush=True)
    return 0


def run_one(name: str, content: bytes, folder: Path) -> None:
    """Parse one content, within the limit of time."""
    with limited_time(), contextlib.redirect_stdout(open(os.devnull, "w")):
        PARSERS[name].parse(content, folder)


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Raise TooSlowError where the code in it takes too long; end the process where it does not return to Python."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    faulthandler.dump_traceback_later(HANGS, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def limit_memory() -> None:
    """Limit the address space of this process to what it has now and `MORE_MEMORY`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    sys.exit(main())
