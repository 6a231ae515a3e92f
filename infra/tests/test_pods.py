"""The chart's commands on two hosts (network namespaces), with the hostfile, names and key that the MPI operator gives.

mpirun and ssh are real; a stand-in trains. test_real_training.py trains.
"""

import os
import shlex
import signal

import pytest

from infra.tests import fake_job
from infra.tests.containers import LAUNCHER, WORKER, Pods, needs_hosts, render
from infra.tests.fake_job import log

pytestmark = needs_hosts


@pytest.fixture(scope="module")
def job(helm):
    """The MPIJob with two processes on each machine."""
    return render(helm, {"slotsPerWorker": 2, "env": {"FAKE_LOG": "log", "FAKE_CODE": "0"}})


@pytest.fixture
def pods(tmp_path, job):
    shell = fake_job.install(tmp_path)
    (tmp_path / "bin" / "mpirun").unlink()  # the real one
    with Pods(tmp_path, job, shell) as pods:
        yield pods


def launch(pods, **more):
    return pods.launch(FAKE_LOG=str(pods.folder / "log"), **more)


def test_four_ranks_on_two_hosts_run_and_end(pods, tmp_path):
    process = launch(pods)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    ranks = sorted((tmp_path / "log.ranks").read_text().splitlines())
    assert ranks == [f"0 4 {LAUNCHER}", f"1 4 {LAUNCHER}", f"2 4 {WORKER}", f"3 4 {WORKER}"]
    lines = log(tmp_path, "train", 4)
    assert sum(line.startswith("preflight ") for line in lines) == 4
    run_dir = f"{tmp_path}/fsx/runs/run1"
    assert f"train +experiment=32x4_24ep data.root={tmp_path}/fsx/coco run.dir={run_dir} resume=auto" in lines


def test_sigterm_to_the_launcher_stops_the_job_with_143(pods, tmp_path):
    process = launch(pods, FAKE_CODE=None)
    log(tmp_path, "ready", 4)
    pods.signal_launcher(signal.SIGTERM.value)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert log(tmp_path, "stopped")


def test_a_worker_that_is_drained_stops_its_ranks_and_the_job_goes_on_later(pods, tmp_path):
    process = launch(pods, FAKE_CODE=None)
    log(tmp_path, "ready", 4)
    environment, _ = pods.container("Worker")
    command = pods.spec("Worker")["lifecycle"]["preStop"]["exec"]["command"]
    stop = [str(tmp_path / "scripts" / "stop.sh"), *command[1:]]
    pods.hosts[WORKER].run(stop, env={**os.environ, **environment}, timeout=60)
    assert log(tmp_path, "stopped")
    process.communicate(timeout=60)
    assert process.returncode != 0
    again = launch(pods)
    again.communicate(timeout=90)
    assert again.returncode == 0


def test_no_secret_is_on_a_command_line(pods, tmp_path):
    process = launch(pods, FAKE_CODE=None, AWS_SECRET_ACCESS_KEY="do-not-show", WANDB_API_KEY="do-not-show")
    log(tmp_path, "ready", 4)
    for host in pods.hosts:
        shown = host.run(["ps", "-eww", "-o", "args"]).stdout
        assert "mrcnn_train" in shown
        assert "do-not-show" not in shown
        ranks = host.run(["bash", "-c", shlex.join(["pgrep", "-f", "python.* -m mrcnn_train "])]).stdout.split()
        for rank in ranks[-1:]:
            environment = host.run(["cat", f"/proc/{rank}/environ"]).stdout
            assert host.name == LAUNCHER or "do-not-show" not in environment
    pods.signal_launcher(signal.SIGTERM.value)
    process.communicate(timeout=60)
