"""The chart's scripts: what the launcher starts, when it refuses, and how pods are stopped. Stand-ins train."""

import json
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from infra.tests import fake_job
from infra.tests.fake_job import log

SCRIPTS = Path(__file__).parents[1] / "eks" / "chart" / "files"


@pytest.fixture
def pod(tmp_path):
    """Environment of the launcher's container: from the chart, and from the MPI operator."""
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("localhost slots=2\nlocalhost slots=2\n")
    return {
        **fake_job.install(tmp_path),
        "HOME": str(tmp_path),
        "OMPI_MCA_orte_default_hostfile": str(hostfile),
        "PROCESSES": "4",
        "RUN_DIR": str(tmp_path / "runs" / "run1"),
        "SSH_PORT": "2222",
        "PREFLIGHT": "true",
        "RANK_ENVIRONMENT": "NCCL_DEBUG FI_PROVIDER",
        "NCCL_DEBUG": "INFO",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "secret",
    }


@pytest.fixture
def launch(pod):
    """A function that starts launch.sh with the chart's arguments, and more environment; gives the process."""
    command = [SCRIPTS / "launch.sh", "+experiment=demo", f"run.dir={pod['RUN_DIR']}", "resume=auto", "a=b c"]
    with fake_job.starting(command, pod) as start:
        yield start


def test_the_launcher_checks_and_starts_all_ranks(launch, tmp_path, pod):
    process = launch(FAKE_CODE="0")
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")
    options = f"+experiment=demo run.dir={pod['RUN_DIR']} resume=auto a=b c"
    assert log(tmp_path)[:2] == [f"preflight {options}", f"train {options}"]
    preflight, train = map(json.loads, (tmp_path / "log.mpirun").read_text().splitlines())
    assert preflight[: preflight.index("-m")] == train[: train.index("-m")]
    assert train[train.index("-np") + 1] == "4"
    names = [train[index + 1] for index, word in enumerate(train) if word == "-x"]
    assert names == ["PATH", "PYTHONPATH", "NCCL_DEBUG"], "ranks get names that are set, and no others"
    assert "-p 2222 " in train[train.index("plm_rsh_args") + 1]
    assert train[-4:] == ["+experiment=demo", f"run.dir={pod['RUN_DIR']}", "resume=auto", "a=b c"]
    assert os.path.isabs(train[train.index("-m") - 1]), "the other hosts' PATH is another"
    assert not list(Path(pod["RUN_DIR"]).glob(".rename*"))


def test_the_exit_code_is_the_jobs(launch):
    process = launch(FAKE_CODE="3")
    process.communicate(timeout=30)
    assert process.returncode == 3


def test_sigterm_lets_the_ranks_save(launch, tmp_path, pod):
    process = launch()
    log(tmp_path, "ready")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert log(tmp_path)[-1] == "stopped"
    assert (Path(pod["RUN_DIR"]) / "checkpoints" / "step-00000003" / "trainer.json").exists()


def test_a_failed_preflight_starts_no_training(launch, tmp_path):
    process = launch(FAKE_PREFLIGHT="2")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "launch.sh: preflight failed" in errors
    assert [line.split()[0] for line in log(tmp_path)] == ["preflight"]


def test_the_preflight_may_be_left_out(launch, tmp_path):
    launch(PREFLIGHT="false", FAKE_CODE="0").communicate(timeout=30)
    assert log(tmp_path)[0].startswith("train")


def test_a_host_without_an_address_is_named(launch, pod):
    Path(pod["OMPI_MCA_orte_default_hostfile"]).write_text("localhost slots=1\nnone.invalid slots=1\n")
    process = launch(NAME_TRIES="1")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors.startswith("launch.sh: host none.invalid of ")
    assert errors.count("\n") == 1


def test_a_folder_that_cannot_rename_is_refused_before_the_start(launch, tmp_path, pod):
    # As Mountpoint for S3 answers.
    move = tmp_path / "bin" / "mv"
    move.write_text("#!/bin/sh\necho 'mv: Function not implemented' >&2\nexit 1\n")
    move.chmod(0o755)
    process = launch()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"launch.sh: run.dir={pod['RUN_DIR']} lies on a file system that cannot rename" in errors
    assert not (tmp_path / "log").exists()


def test_a_folder_that_cannot_be_made_is_named(launch, tmp_path):
    (tmp_path / "runs").touch()
    process = launch()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "cannot be made" in errors


def test_a_worker_that_is_stopped_waits_for_its_ranks(launch, tmp_path, pod):
    process = launch()
    log(tmp_path, "ready")
    subprocess.run([SCRIPTS / "stop.sh", "--wait"], env=pod, check=True, timeout=20)
    assert log(tmp_path)[-1] == "stopped"
    process.communicate(timeout=30)


def test_stopping_where_nothing_runs_is_no_error(pod):
    subprocess.run([SCRIPTS / "stop.sh", "--wait"], env=pod, check=True, timeout=20)


def test_ranks_of_other_runs_are_not_stopped(launch, tmp_path, pod):
    process = launch()
    log(tmp_path, "ready")
    for other in (f"{pod['RUN_DIR']}2", pod["RUN_DIR"][:-1]):
        subprocess.run([SCRIPTS / "stop.sh"], env={**pod, "RUN_DIR": other}, check=True, timeout=20)
    assert process.poll() is None
    assert log(tmp_path)[-1] == "ready"


@pytest.mark.skipif(not shutil.which("sshd", path="/usr/sbin"), reason="no ssh server here")
def test_a_worker_serves_ssh_to_the_jobs_key(tmp_path, pod):
    (tmp_path / ".ssh").mkdir()
    key = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", key], check=True)
    (tmp_path / ".ssh" / "authorized_keys").write_text(Path(f"{key}.pub").read_text())
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    worker = subprocess.Popen([SCRIPTS / "serve.sh"], env={**pod, "SSH_PORT": str(port)}, stderr=subprocess.PIPE)
    try:
        options = (
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o BatchMode=yes -o ConnectionAttempts=10"
        )
        command = ["ssh", "-F", "none", "-i", key, "-p", str(port), *options.split(), "localhost", "echo logged in"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.stdout == "logged in\n", done.stderr
    finally:
        worker.terminate()
        worker.communicate()
