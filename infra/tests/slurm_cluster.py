"""A Slurm cluster of two nodes on one machine: the hosts of `hosts.py`, slurmctld on the first and slurmd on all.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra.tests.hosts import Host, HostError, Hosts

CPUS_PER_NODE = 2
START_SECONDS = 60.0
POLL = 0.25
# cred_expire: a requeued job waits for so long, 120 s by default.
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={controller.name}({controller.address})
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
MinJobAge=3600
KillWait=10
GresTypes=gpu
SchedulerParameters=bf_interval=1,sched_interval=1
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""


class SlurmCluster:
    """Runs a cluster on `hosts` inside this context; its files are in `folder`."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = list(hosts), folder
        self._daemons: list[subprocess.Popen[str]] = []

    @property
    def controller(self) -> Host:
        return self.hosts[0]

    def __enter__(self) -> SlurmCluster:
        (self.folder / "state").mkdir(parents=True)
        nodes = "\n".join(
            f"NodeName={host.name} NodeAddr={host.address} CPUs={CPUS_PER_NODE} RealMemory=8000 "
            f"Gres=gpu:{CPUS_PER_NODE}"
            for host in self.hosts
        )
        self._conf = self.folder / "slurm.conf"
        self._conf.write_text(SLURM_CONF.format(controller=self.controller, folder=self.folder, nodes=nodes))
        # Slurm counts and hands out GPUs without looking at what these files are.
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        # The hosts share /tmp, where PMIx would make the same folder on each; /dev/shm is their own.
        (self.folder / "mpi.conf").write_text("PMIxCliTmpDirBase=/dev/shm\n")
        try:
            self._start_munge()
            self._start(self.controller, ["slurmctld", "-D"])
            for host in self.hosts:
                self.start_node(host)
            self._wait_until_idle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            daemon.wait(timeout=20)

    def start_node(self, host: Host) -> None:
        """Start the slurmd of a host, after it was switched on."""
        self._start(host, ["slurmd", "-D", "-N", host.name])

    def sbatch(self, script: Path, arguments: Sequence[str] = (), options: Sequence[str] = (), **more: object) -> int:
        """Submit a batch script; return the id of the job."""
        output = self.run(["sbatch", "--parsable", *options, str(script), *arguments], **more)
        return int(output.split()[-1].partition(";")[0])

    def run(self, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
        """Run one of Slurm's commands on the first node; return what it printed."""
        environment = {**os.environ, **(env or {}), "SLURM_CONF": str(self._conf)}
        return self.controller.run(command, env=environment, cwd=cwd).stdout

    def state(self, job: int) -> tuple[str, str]:
        """Return the state and the exit code ("143:0") of a job, as `scontrol show job` prints them."""
        text = self.run(["scontrol", "show", "job", str(job)])
        state, code = re.search(r"JobState=(\S+)", text), re.search(r"ExitCode=(\S+)", text)
        if state is None or code is None:
            raise HostError(f"no state of job {job}:\n{text}")
        return state[1], code[1]

    def wait_for(self, job: int, states: Sequence[str], *, timeout: float) -> str:
        """Wait until a job is in one of the states; return this state."""
        deadline = time.monotonic() + timeout
        while (state := self.state(job)[0]) not in states:
            if time.monotonic() > deadline:
                raise HostError(f"job {job} is {state} after {timeout:g} s, not {' or '.join(states)}")
            time.sleep(POLL)
        return state

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        with open(self.folder / "munged.out", "ab") as log:  # --force: the folder may be open to more than its owner
            command = ["munged", "--foreground", "--force", *options]
            self._daemons.append(subprocess.Popen(command, text=True, stdout=log, stderr=log))

    def _start(self, host: Host, command: list[str]) -> None:
        with open(self.folder / f"{command[0]}.{host.name}.out", "ab") as log:
            environment = {**os.environ, "SLURM_CONF": str(self._conf)}
            self._daemons.append(host.start(command, env=environment, stdout=log, stderr=log))

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        output = ""
        while time.monotonic() < deadline:
            try:
                output = self.run(["sinfo", "--noheader", "--Node", "-o", "%T"])
            except HostError as error:  # slurmctld is not there yet
                output = str(error)
            if output.split() == ["idle"] * len(self.hosts):
                return
            time.sleep(POLL)
        raise HostError(f"the nodes are not idle after {START_SECONDS:g} s: {output}\nsee {self.folder}")
