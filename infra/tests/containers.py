"""The containers of a chart's job, and of a SageMaker job, as two hosts (network namespaces) with real mpirun and ssh.

What they train with is given by the environment: the stand-ins of fake_job.py, or mrcnn_train itself. Needs root, Open
MPI and OpenSSH.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.tests.hosts import Host, Hosts

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER, WORKER = "run1-launcher.run1.jobs.svc", "run1-worker-0.run1.jobs.svc"
INSTANCES = ("algo-1", "algo-2")

needs_hosts = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mpirun") or not shutil.which("sshd", path="/usr/sbin"),
    reason="needs root, mpirun and sshd",
)


class _Processes:
    """Started processes, which are waited for at the end: they have ended with their hosts."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[str]] = []

    def start(self, host: Host, command: list[str], **options: Any) -> subprocess.Popen[str]:
        self._all.append(host.start(command, **options))
        return self._all[-1]

    def wait(self) -> None:
        for process in self._all:
            process.wait()


class Pods:
    """Launcher and worker of a rendered MPIJob of two machines, as the MPI operator and the kubelet make them.

    Args:
        folder: for scripts, keys and the volume `fsx`, in place of /etc/mrcnn and /fsx.
        shell: environment variables of the image.
    """

    def __init__(self, folder: Path, job: dict[str, Any], shell: Mapping[str, str]) -> None:
        self.folder, self._job, self._shell = folder, job, dict(shell)
        self._slots = job["spec"]["slotsPerWorker"]
        self._processes = _Processes()

    def __enter__(self) -> Pods:
        shutil.copytree(ROOT / "infra/eks/chart/files", self.folder / "scripts")
        self.hosts = Hosts(self.folder / "hosts", (LAUNCHER, WORKER)).__enter__()
        self._give_the_key_of_the_job()
        self._hostfile = self.folder / "hostfile"
        self._hostfile.write_text("".join(f"{host.name} slots={self._slots}\n" for host in self.hosts))
        environment, command = self.container("Worker")
        self._processes.start(self.hosts[WORKER], command, env={**self._shell, **environment})
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.hosts.__exit__(*exc_info)
        self._processes.wait()

    def container(self, role: str) -> tuple[dict[str, str], list[str]]:
        """Return environment and command of a pod's container, with paths of this machine for its mounts."""
        found = self.spec(role)
        environment = {entry["name"]: entry["value"] for entry in found["env"]}
        words = json.dumps([environment, [*found["command"], *found.get("args", ())]])
        words = words.replace("/fsx/", f"{self.folder}/fsx/").replace("/etc/mrcnn/", f"{self.folder}/scripts/")
        environment, command = json.loads(words)
        return environment, command

    def spec(self, role: str) -> dict[str, Any]:
        """Return the container of a pod as the chart writes it."""
        pod = self._job["spec"]["mpiReplicaSpecs"][role]["template"]["spec"]
        return dict(pod["containers"][0])

    def launch(self, **more: str | None) -> subprocess.Popen[str]:
        """Start the launcher, with more environment variables; None unsets one."""
        environment, command = self.container("Launcher")
        operator = {
            "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
            "OMPI_MCA_orte_default_hostfile": str(self._hostfile),
            "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
            "OMPI_MCA_orte_set_default_slots": str(self._slots),
            "K_MPI_JOB_ROLE": "launcher",
            # These hosts have no other user than root.
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        variables = {**self._shell, **environment, **operator, **more}
        given = {name: value for name, value in variables.items() if value is not None}
        return self._processes.start(self.hosts[LAUNCHER], command, env=given, stderr=subprocess.PIPE)

    def signal_launcher(self, number: int) -> None:
        """Send a signal to launch.sh from inside its host, as the kubelet does to process 1."""
        self.hosts[LAUNCHER].run(["pkill", f"-{number}", "-f", "scripts/launch.sh"])

    def _give_the_key_of_the_job(self) -> None:
        key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", key], check=True)
        for host in self.hosts:
            ssh = host.folder / "ssh"
            for path in ssh.iterdir():
                path.unlink()
            shutil.copy(key, ssh / "id_rsa")
            for name in ("id_rsa.pub", "authorized_keys"):
                shutil.copy(f"{key}.pub", ssh / name)


def render(helm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the MPIJob of release run1 with these values, on two machines without GPUs."""
    of_test = {"image": "r/n:1", "nodes": 2, "gpu": False, "efa": 0, "home": "/root"}
    text = yaml.safe_dump({**of_test, **values})
    code, out, err = helm("template", "run1", "infra/eks/chart", "-f", "-", stdin=text)
    assert code == 0, err
    return next(item for item in yaml.safe_load_all(out) if item and item["kind"] == "MPIJob")


class Instances:
    """The containers of a SageMaker job on two instances, each with its own /opt/ml.

    Args:
        folder: for the folders /opt/ml.
        shell: environment variables of the image.
        data: what the input channel holds; None for nothing.

    Attributes:
        place: /opt/ml as the containers see it.
        folders: /opt/ml of each, seen from outside.
    """

    def __init__(
        self, folder: Path, hyperparameters: Mapping[str, str], shell: Mapping[str, str], data: Path | None = None
    ) -> None:
        self._folder, self._shell, self._processes = folder, dict(shell), _Processes()
        self.place = folder / "opt-ml"
        self.place.mkdir()
        self.folders = {name: folder / f"ml-{name}" for name in INSTANCES}
        for name, ml in self.folders.items():
            for part in ("input/config", "input/data", "checkpoints", "model", "output"):
                (ml / part).mkdir(parents=True)
            if data is None:
                (ml / "input/data/training").mkdir()
            else:
                (ml / "input/data/training").symlink_to(data)
            config = {"current_host": name, "hosts": list(INSTANCES), "network_interface_name": "eth0"}
            (ml / "input/config/resourceconfig.json").write_text(json.dumps(config))
            (ml / "input/config/hyperparameters.json").write_text(json.dumps(hyperparameters))

    def __enter__(self) -> Instances:
        self.hosts = Hosts(self._folder / "hosts", INSTANCES).__enter__()
        for host in self.hosts:
            host.show_instead(self.place, self.folders[host.name])
            for path in (host.folder / "ssh").iterdir():
                path.unlink()  # the containers hold no key
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.hosts.__exit__(*exc_info)
        self._processes.wait()

    def start(self, *, ranks_per_host: int) -> dict[str, subprocess.Popen[str]]:
        """Start the entry script in both, which `SM_NUM_GPUS` tells how many ranks to start."""
        variables = {"MRCNN_OPT_ML": str(self.place), "SM_NUM_GPUS": str(ranks_per_host), "SECRET_KEY": "do-not-show"}
        command = [sys.executable, "-m", "infra.sagemaker.entry", "train"]
        options = {"env": {**self._shell, **variables}, "cwd": ROOT, "stderr": subprocess.PIPE}
        return {host.name: self._processes.start(host, command, **options) for host in self.hosts}

    def stop(self, name: str) -> None:
        """Send SIGTERM to the entry script of one instance, as SageMaker does."""
        self.hosts[name].run(["pkill", "-TERM", "-f", "infra.sagemaker.entry"])


def ended(processes: Mapping[str, subprocess.Popen[str]], seconds: float = 60) -> dict[str, int]:
    """Wait for all; return their exit codes."""
    for process in processes.values():
        process.communicate(timeout=seconds)
    return {name: process.returncode for name, process in processes.items()}
