"""SageMaker's entry script on two hosts (network namespaces), each with its own /opt/ml. mpirun and ssh are real.

A stand-in trains. Needs root, Open MPI and OpenSSH.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

from infra.tests import fake_job
from infra.tests.fake_job import log

hosts = pytest.importorskip("infra.tests.hosts")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mpirun") or not shutil.which("sshd", path="/usr/sbin"),
    reason="needs root, mpirun and sshd",
)
NAMES = ("algo-1", "algo-2")


@pytest.fixture
def job(tmp_path, root):
    """Two containers. Gives the hosts, their /opt/ml seen from outside, and a function that starts the job."""
    shell = fake_job.install(tmp_path)
    (tmp_path / "bin" / "mpirun").unlink()  # the real one
    place = tmp_path / "opt-ml"
    place.mkdir()
    folders = {name: tmp_path / f"ml-{name}" for name in NAMES}
    for name, ml in folders.items():
        for folder in ("input/config", "input/data/training", "checkpoints", "model", "output"):
            (ml / folder).mkdir(parents=True)
        config = {"current_host": name, "hosts": list(NAMES), "network_interface_name": "eth0"}
        (ml / "input" / "config" / "resourceconfig.json").write_text(json.dumps(config))
        (ml / "input" / "config" / "hyperparameters.json").write_text('{"+experiment": "demo", "train.max_steps": "5"}')
    started = []
    with hosts.Hosts(tmp_path / "hosts", NAMES) as both:
        for host in both:
            host.show_instead(place, folders[host.name])
            for path in (host.folder / "ssh").iterdir():
                path.unlink()  # the containers hold no key

        def start():
            # As MRCNN_OPT_ML names it on both; two processes a host.
            environment = {**shell, "MRCNN_OPT_ML": str(place), "SM_NUM_GPUS": "2", "SECRET_KEY": "do-not-show"}
            del environment["FAKE_LOG"]
            command = [sys.executable, "-m", "infra.sagemaker.entry", "train"]
            pair = {host.name: host.start(command, env=environment, cwd=root, stderr=subprocess.PIPE) for host in both}
            started.extend(pair.values())
            return pair

        yield both, folders, start
    for process in started:
        process.wait()


def ended(processes, seconds=60):
    return {name: (process.communicate(timeout=seconds), process.returncode)[1] for name, process in processes.items()}


def test_four_ranks_on_two_hosts_run_and_leave_the_model(job, tmp_path):
    _, folders, start = job
    (tmp_path / "code").write_text("0")
    assert ended(start()) == {"algo-1": 0, "algo-2": 0}
    ranks = sorted((tmp_path / "log.ranks").read_text().splitlines())
    assert ranks == ["0 4 algo-1", "1 4 algo-1", "2 4 algo-2", "3 4 algo-2"]
    place = tmp_path / "opt-ml"
    expected = (
        f"+experiment=demo train.max_steps=5 data.root={place}/input/data/training run.dir={place}/checkpoints/run"
    )
    assert f"train {expected} resume=auto" in log(tmp_path, "train", 4)
    assert sorted(path.name for path in (folders["algo-1"] / "model").iterdir()) == ["model.json", "model.safetensors"]
    assert list((folders["algo-2"] / "model").iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_sigterm_to_either_host_stops_the_job_and_it_goes_on_later(job, tmp_path, name):
    both, folders, start = job
    processes = start()
    log(tmp_path, "ready", 4)
    both[name].run(["pkill", "-TERM", "-f", "infra.sagemaker.entry"])
    codes = ended(processes)
    assert codes[name] == 143
    assert 0 not in codes.values(), "a pre-empted job must not look finished"
    assert log(tmp_path, "stopped", 1)
    assert (folders[name] / "checkpoints" / "run" / "checkpoints" / "step-00000003" / "trainer.json").exists()
    (tmp_path / "code").write_text("0")
    assert ended(start()) == {"algo-1": 0, "algo-2": 0}


def test_a_host_that_is_lost_ends_the_others(job, tmp_path):
    both, folders, start = job
    processes = start()
    log(tmp_path, "ready", 4)
    both["algo-2"].power_off()
    processes["algo-2"].communicate(timeout=60)
    processes["algo-1"].communicate(timeout=90)
    assert processes["algo-1"].returncode != 0
    assert (folders["algo-1"] / "output" / "failure").read_text()


def test_no_secret_is_on_a_command_line(job, tmp_path):
    both, _, start = job
    processes = start()
    log(tmp_path, "ready", 4)
    for host in both:
        shown = host.run(["ps", "-eww", "-o", "args"]).stdout
        assert "-m mrcnn_train" in shown
        assert "do-not-show" not in shown
    both["algo-1"].run(["pkill", "-TERM", "-f", "infra.sagemaker.entry"])
    ended(processes)
