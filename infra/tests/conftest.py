"""Tests of the cloud paths.

Some need the tools of `.infra` (helm, moto, SageMaker's SDK, ...), some the five packages in `.venv`: each environment
collects what it can run. `make test-infra` uses both, `make test` only `.venv`.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEEDS_TOOLS = [
    "test_chart.py",
    "test_eks_files.py",
    "test_launch.py",
    "test_lint.py",
    "test_pods.py",
    "test_sagemaker_hosts.py",
    "test_stage.py",
]
NEEDS_PACKAGES = ["test_ec2_hosts.py", "test_hosts_jobs.py", "test_real_training.py", "test_slurm.py"]

collect_ignore = [
    *([] if importlib.util.find_spec("moto") else NEEDS_TOOLS),
    *([] if importlib.util.find_spec("tensorflow") else NEEDS_PACKAGES),
]


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def schemas() -> Path:
    """The folder of the JSON schemas of MPIJob and eksctl, beside the repository."""
    shared = Path(os.environ.get("MRCNN_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (shared / "schemas").is_dir():
        pytest.skip(f"no schemas at {shared}/schemas (or set MRCNN_SHARED_DATA)")
    return shared / "schemas"


@pytest.fixture(scope="session")
def helm():
    """Return a function that runs helm, which lies in `.infra`, and returns (exit code, stdout, stderr)."""
    beside = Path(sys.executable).with_name("helm")
    program = beside if beside.exists() else ROOT / ".infra" / "bin" / "helm"
    if not program.exists():
        pytest.skip("no helm: make test-infra installs it in .infra")

    def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
        done = subprocess.run([program, *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run
