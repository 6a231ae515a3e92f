"""The fuzz loop (fuzz.py), run in another process: a crash there is a failure here and does not end the tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

OPS = ("roi_align", "proposals", "matching", "detections", "encoding")


def fuzz(*arguments):
    result = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("fuzz.py")), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    # The last "case N" of the output is the one to repeat.
    last = re.findall(r"case (\d+)", result.stdout)[-1:]
    assert result.returncode == 0, f"case {last} ended with {result.returncode}:\n{result.stderr[-3000:]}"
    assert "no reason" not in result.stdout, result.stdout
    for op in OPS:  # a loop in which an op never ran, or never refused anything, would show little
        assert f"{op} ran" in result.stdout, result.stdout
        assert f"{op} refused" in result.stdout, result.stdout


def test_a_few_seconds():
    fuzz("--seconds", "3")


@pytest.mark.slow
def test_long():
    """Seconds from MRCNN_FUZZ_SECONDS (default 60); other cases than those of the short run."""
    fuzz("--seconds", os.environ.get("MRCNN_FUZZ_SECONDS", "60"), "--first", "1000000")
