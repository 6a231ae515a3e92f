"""The drill of faults holds: see drill.py."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_fault_is_survived() -> None:
    script = Path(__file__).with_name("drill.py")
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
