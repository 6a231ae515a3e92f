"""Slurm for real: slurmctld and two slurmd in namespaces, train.sbatch submitted to them. Root, minutes."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.tests.hosts import Hosts
from infra.tests.slurm_cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "infra" / "slurm" / "train.sbatch"
PROGRAMS = ("slurmctld", "slurmd", "srun", "munged", "sshd", "unshare")
HAS_PREFLIGHT = importlib.util.find_spec("mrcnn_train.preflight") is not None

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root"),
    pytest.mark.skipif(
        not all(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in PROGRAMS),
        reason="needs Debian's slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge openssh-server",
    ),
    pytest.mark.skipif(importlib.util.find_spec("horovod") is None, reason="no Horovod: make horovod"),
]

# The demo, smaller; with steps enough to be stopped in.
DEMO = (
    "+experiment=demo",
    "data.short_edge=64",
    "data.max_size=64",
    "data.buckets=[[64,64]]",
    "model.backbone_width=8",
    "train.images_per_gpu=1",
    "train.global_batch=2",
    "train.deterministic=true",
    "checkpoint.every_steps=10",
    "data.val=null",
    "log.every=1",
)
# Each task takes a GPU as a process of a job does, of GPUs that are pretended.
PROBE = """
import json, os
import tensorflow as tf
import mrcnn_model.device
from mrcnn_train.job.place import launched_place
place, chosen = launched_place(), []
tf.config.list_physical_devices = lambda kind: os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
tf.config.set_visible_devices = lambda gpu, kind: chosen.append(gpu)
tf.config.experimental.set_memory_growth = lambda gpu, grows: None
tf.config.experimental.get_device_details = lambda gpu: {}
mrcnn_model.device.read_driver = lambda: None
mrcnn_model.device.build_info = lambda: {"cuda": "12.9: 90"}
mrcnn_model.device.use_device("gpu", number=place.local_rank, processes=place.local_size)
print(json.dumps([os.uname().nodename, *place, *chosen]))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    folder = tmp_path_factory.mktemp("slurm")
    with Hosts(folder / "hosts") as hosts, SlurmCluster(hosts, folder / "slurm") as running:
        yield running


def places(cluster: SlurmCluster, *options: str) -> list[list[Any]]:
    """What each task of srun is told: node, rank, size, local rank, local size, GPU; by rank."""
    output = cluster.run(["srun", "--time=2", *options, sys.executable, "-c", PROBE], env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    found = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
    return sorted(found, key=lambda place: int(place[1]))


@pytest.mark.parametrize("mpi", ["none", "pmi2", "pmix"])
def test_ranks_sizes_and_devices(cluster: SlurmCluster, mpi: str) -> None:
    assert places(cluster, f"--mpi={mpi}", "-N1", "-n2", "-w", "one") == [
        ["one", 0, 2, 0, 2, "0"],
        ["one", 1, 2, 1, 2, "1"],
    ]
    assert places(cluster, f"--mpi={mpi}", "-N2", "-n2") == [["one", 0, 2, 0, 1, "0"], ["two", 1, 2, 0, 1, "0"]]
    spread = places(cluster, f"--mpi={mpi}", "-N2", "-n4", "-m", "cyclic")
    assert [place[:5] for place in spread] == [
        ["one", 0, 4, 0, 2],
        ["two", 1, 4, 0, 2],
        ["one", 2, 4, 1, 2],
        ["two", 3, 4, 1, 2],
    ]


def test_tasks_that_see_only_their_own_gpu(cluster: SlurmCluster) -> None:
    found = places(cluster, "-N1", "-n2", "--gpus-per-task=1", "--mpi=pmi2")
    assert [place[1:] for place in found] == [[0, 2, 0, 2, "0"], [1, 2, 1, 2, "1"]]


def submit(cluster: SlurmCluster, folder: Path, *overrides: str, mpi: str) -> int:
    environment = {
        "VENV": sys.prefix,
        "MPI": mpi,
        "PREFLIGHT": "yes" if HAS_PREFLIGHT else "no",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    options = ["-N", "2", "-n", "2", "--time=60", "--output", str(folder / "job.out")]
    return cluster.sbatch(SCRIPT, [*DEMO, "run.dir=run", *overrides], options, env=environment, cwd=folder)


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


def wait_for_step(cluster: SlurmCluster, job: int, folder: Path, step: int) -> None:
    deadline = time.monotonic() + 900  # the machine may be busy
    while not any(row["step"] >= step for row in rows(folder)):
        assert cluster.state(job)[0] in ("PENDING", "CONFIGURING", "RUNNING"), (folder / "job.out").read_text()
        assert time.monotonic() < deadline, (folder / "job.out").read_text()
        time.sleep(0.2)


@pytest.mark.parametrize("mpi", ["pmi2", "pmix"])
def test_a_stopped_job_goes_on_to_the_end(cluster: SlurmCluster, tmp_path: Path, mpi: str) -> None:
    job = submit(cluster, tmp_path, "train.max_steps=150", mpi=mpi)
    wait_for_step(cluster, job, tmp_path, 12)
    cluster.run(["scancel", "--signal=TERM", str(job)])
    state = cluster.wait_for(job, ["COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"], timeout=600)
    output = (tmp_path / "job.out").read_text()
    assert state == "COMPLETED", output
    assert "2 processes" in output
    assert "the job is queued again" in output
    assert f"job {job}, start 2" in output
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 151))
    assert (tmp_path / "run" / "checkpoints" / "step-00000150" / "model.safetensors").exists()


def test_a_lost_node(cluster: SlurmCluster, tmp_path: Path) -> None:
    """All processes of a node end before Slurm notices, as on a spot instance; the job is queued again and goes on."""
    job = submit(cluster, tmp_path, "train.max_steps=150", mpi="pmi2")
    wait_for_step(cluster, job, tmp_path, 25)
    two = cluster.hosts[1]
    two.power_off()
    time.sleep(2)
    two.power_on()
    cluster.start_node(two)
    state = cluster.wait_for(job, ["COMPLETED", "FAILED", "TIMEOUT", "CANCELLED"], timeout=900)
    assert state == "COMPLETED", (tmp_path / "job.out").read_text()
    steps = [row["step"] for row in rows(tmp_path)]
    assert steps[-1] == 150
    assert sorted(set(steps)) == list(range(1, 151))
    assert "a task was lost: the job is queued again" in (tmp_path / "job.out").read_text()


def test_what_is_wrong_is_told_before_the_start(cluster: SlurmCluster, tmp_path: Path) -> None:
    for overrides, message in ((["+experiment=demo"], "no run.dir="), (["run.dir=r", "resume=r"], "leave it out")):
        output = tmp_path / "wrong.out"
        output.unlink(missing_ok=True)
        options = ["-n", "2", "--time=2", "--output", str(output)]
        job = cluster.sbatch(SCRIPT, overrides, options, env={"VENV": sys.prefix}, cwd=tmp_path)
        assert cluster.wait_for(job, ["COMPLETED", "FAILED"], timeout=60) == "FAILED"
        assert cluster.state(job)[1] == "2:0"
        assert message in output.read_text()


def test_one_process_in_a_job_of_several(cluster: SlurmCluster, tmp_path: Path) -> None:
    """`python` instead of `srun python` would train on one GPU only, or separately in each task."""
    script = tmp_path / "plain.sh"
    script.write_text(f"#!/bin/bash\n{sys.executable} -m mrcnn_train {' '.join(DEMO)} run.dir=run train.max_steps=1\n")
    output = tmp_path / "job.out"
    job = cluster.sbatch(script, options=["-n", "2", "--time=5", "--output", str(output)], cwd=tmp_path)
    assert cluster.wait_for(job, ["COMPLETED", "FAILED"], timeout=120) == "FAILED", output.read_text()
    assert cluster.state(job)[1] == "2:0"
    assert "SLURM_NTASKS=2, but srun did not start this process" in output.read_text()
    assert not subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False).stdout
