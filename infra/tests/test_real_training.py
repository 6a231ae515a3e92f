"""The chart's and SageMaker's commands train for real on two hosts, are stopped and go on to the end. Root, minutes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from infra.tests.containers import LAUNCHER, WORKER, Instances, Pods, ended, needs_hosts, render
from infra.tests.test_hosts_jobs import TINY, data, steps_of
from infra.tests.test_hosts_jobs import pytestmark as needs_a_job

__all__ = ["data"]  # pytest looks for fixtures here
pytestmark = [*needs_a_job, needs_hosts]

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = [*TINY[1:], "train.max_steps=60", "checkpoint.every_steps=20"]
END_SECONDS = 600


@pytest.fixture(autouse=True)
def horovod_has_mpi() -> None:
    import horovod.tensorflow

    if not horovod.tensorflow.mpi_built():
        pytest.skip("Horovod was built without MPI: install libopenmpi-dev and openmpi-bin, then make horovod")


@pytest.fixture
def shell() -> dict[str, str]:
    """Environment of the image: the commands find python first on the PATH."""
    foreign = ("SM_", "OMPI_", "LD_LIBRARY_PATH")  # OpenCV sets LD_LIBRARY_PATH when it is imported
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def wait_for_step(run_dir: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + END_SECONDS
    while not (run_dir / "metrics.jsonl").exists() or max(steps_of(run_dir), default=0) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"no step {step}"
        time.sleep(0.1)


def launches(run_dir: Path) -> list[dict[str, list[int]]]:
    """Return the ranks of each host, for each launch of a run."""
    entries = json.loads((run_dir / "environment.json").read_text())
    return [{host["host"]: host["ranks"] for host in entry["hosts"]} for entry in entries]


def test_the_pods_of_the_chart(helm: Any, data: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    job = render(helm, {"slotsPerWorker": 1, "experiment": "demo", "overrides": OPTIONS})
    (tmp_path / "fsx").mkdir()
    (tmp_path / "fsx" / "coco").symlink_to(data)
    run_dir = tmp_path / "fsx" / "runs" / "run1"
    with Pods(tmp_path, job, shell) as pods:
        process = pods.launch()
        wait_for_step(run_dir, 3, process)
        pods.signal_launcher(signal.SIGTERM.value)
        _, errors = process.communicate(timeout=END_SECONDS)
        assert process.returncode == 143, errors
        assert max(steps_of(run_dir)) < 60
        process = pods.launch()
        _, errors = process.communicate(timeout=END_SECONDS)
        assert process.returncode == 0, errors
    assert steps_of(run_dir) == list(range(1, 61))
    assert launches(run_dir) == [{LAUNCHER: [0], WORKER: [1]}] * 2


def test_the_instances_of_sagemaker(data: Path, tmp_path: Path, shell: dict[str, str]) -> None:
    """The second instance is stopped: it has no run directory, and the first one saves and goes on."""
    hyperparameters = dict(option.split("=", 1) for option in ["+experiment=demo", *OPTIONS])
    with Instances(tmp_path, hyperparameters, shell, data) as job:
        run_dir = job.folders["algo-1"] / "checkpoints" / "run"
        processes = job.start(ranks_per_host=1)
        wait_for_step(run_dir, 3, processes["algo-1"])
        job.stop("algo-2")
        codes = ended(processes, END_SECONDS)
        assert codes["algo-2"] == 143
        assert 0 not in codes.values()
        assert max(steps_of(run_dir)) < 60
        assert ended(job.start(ranks_per_host=1), END_SECONDS) == {"algo-1": 0, "algo-2": 0}
        model = job.folders["algo-1"] / "model"
        assert sorted(path.name for path in model.iterdir()) == ["model.json", "model.safetensors"]
    assert steps_of(run_dir) == list(range(1, 61))
    assert launches(run_dir) == [{"algo-1": [0], "algo-2": [1]}] * 2
