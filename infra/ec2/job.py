"""Start, follow and stop a run on one machine or several that ssh reaches.

    python -m infra.ec2.job start /data/runs/first +experiment=32x4_24ep data.root=/data/coco
    python -m infra.ec2.job follow /data/runs/first
    python -m infra.ec2.job stop /data/runs/first

`infra/ec2/hosts` names the machines, `[USER@]HOST [PROCESSES]` a line; without it the run is on this machine alone. By
default each machine runs a process for each of its GPUs. `start` again goes on with a run that was stopped or lost.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

HOSTS = Path(__file__).with_name("hosts")
STOP_SECONDS = 300
AMAZON = "/opt/amazon"
LIBRARIES = (f"{AMAZON}/ofi-nccl/lib", f"{AMAZON}/efa/lib", f"{AMAZON}/openmpi/lib")
# Asked of every machine: how many GPUs it has, how many EFA devices, and whether NCCL's plugin for them is there.
QUESTION = (
    "nvidia-smi -L 2>/dev/null | grep -c ^GPU; "
    "ls -d /sys/bus/pci/drivers/efa/*:* 2>/dev/null | wc -l; "
    f"ls {AMAZON}/ofi-nccl/lib*/libnccl-net*.so 2>/dev/null | wc -l"
)
# What is set here.
OWN_OPTIONS = ("run.dir", "resume", "launch.processes", "launch.hosts")


class JobError(ValueError):
    """Something that the user has to change; one line."""


class Machine(NamedTuple):
    """A line of the hosts file."""

    host: str  # as ssh takes it
    processes: int | None = None


class Equipment(NamedTuple):
    """What a machine has."""

    gpus: int
    efa_devices: int
    has_plugin: bool  # NCCL's plugin for EFA


def read_hosts(text: str, *, file: Path = HOSTS) -> list[Machine]:
    """Read a hosts file.

    Raises:
        JobError: a line that is not HOST or HOST PROCESSES, a host twice, or no host.
    """
    machines: list[Machine] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2 or (len(words) == 2 and not (words[1].isdigit() and int(words[1]) > 0)):
            raise JobError(f'{file}:{number}: "{line.strip()}" is not [USER@]HOST or [USER@]HOST PROCESSES')
        if words[0] in (machine.host for machine in machines):
            raise JobError(f"{file}:{number}: {words[0]} is there twice")
        machines.append(Machine(words[0], int(words[1]) if len(words) == 2 else None))
    if not machines:
        raise JobError(f"{file} names no host")
    return machines


def ask(machine: Machine | None, ssh: Sequence[str] = ("ssh", "-o", "BatchMode=yes")) -> Equipment:
    """Find out what a machine has; None for this one.

    Raises:
        JobError: it cannot be reached.
    """
    command = ["sh", "-c", QUESTION] if machine is None else [*ssh, machine.host, QUESTION]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    words = done.stdout.split()
    if machine is not None and (done.returncode == 255 or len(words) != 3):
        lines = done.stderr.strip().splitlines() or ["no answer"]
        raise JobError(f"{machine.host} cannot be reached by ssh: {lines[-1]}")
    return Equipment(int(words[0]), int(words[1]), int(words[2]) > 0)


def launch_options(machines: Sequence[Machine] | None, equipment: Sequence[Equipment]) -> list[str]:
    """Return the options of mrcnn_train that say how many processes run where.

    Args:
        machines: None for this machine alone.
        equipment: of each machine.
    """
    if machines is None:
        return [f"launch.processes={max(1, equipment[0].gpus)}"]
    counts = [machine.processes or has.gpus or 1 for machine, has in zip(machines, equipment, strict=True)]
    entries = ",".join(f"'{machine.host}:{count}'" for machine, count in zip(machines, counts, strict=True))
    return [f"launch.hosts=[{entries}]"]


def network_variables(equipment: Sequence[Equipment], environment: Mapping[str, str]) -> dict[str, str]:
    """Return what NCCL and EFA are told about the network; what the environment has already stays.

    Raises:
        JobError: only some of the machines have EFA, or one lacks NCCL's plugin.
    """
    variables = {"NCCL_SOCKET_IFNAME": "^lo,docker"}  # all but these
    with_efa = [has for has in equipment if has.efa_devices > 0]
    if len(equipment) > 1 and with_efa:
        if len(with_efa) < len(equipment):
            raise JobError(f"{len(with_efa)} of {len(equipment)} machines have EFA: start all with it, or none")
        if not all(has.has_plugin for has in equipment):
            raise JobError(
                f"EFA, but no {LIBRARIES[0]}/libnccl-net.so on some machine: install AWS's EFA installer 1.51"
            )
        variables |= {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1"}
        searched = [*LIBRARIES, *environment.get("LD_LIBRARY_PATH", "").split(":")]
        variables["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(filter(None, searched)))
    return {name: value for name, value in variables.items() if name not in environment or name == "LD_LIBRARY_PATH"}


def beside(run_dir: Path, ending: str) -> Path:
    """Return a file beside the run directory: its log, or the number of its process."""
    return run_dir.with_name(run_dir.name + ending)


def running(run_dir: Path) -> int | None:
    """Return the process that runs this run on this machine, if there is one."""
    try:
        pid = int(beside(run_dir, ".pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if f"run.dir={run_dir}".encode() in command else None


def start(run_dir: Path, overrides: Sequence[str], *, hosts: Path | None, preflight: bool) -> int:
    """Check the machines and start the run in the background.

    Returns:
        0, or the preflight's exit code.

    Raises:
        JobError: the hosts, the network or an option cannot be right, or the run is running.
    """
    for override in overrides:
        name = override.lstrip("+~").partition("=")[0]
        if name in OWN_OPTIONS:
            raise JobError(f"{name} is set here: leave it out")
    if (pid := running(run_dir)) is not None:
        raise JobError(f"{run_dir} is running as process {pid}: follow or stop it")
    if hosts is None and HOSTS.exists():
        hosts = HOSTS
    machines = None if hosts is None else read_hosts(_read(hosts), file=hosts)
    equipment = [ask(None)] if machines is None else [ask(machine) for machine in machines]
    environment = {**os.environ, **network_variables(equipment, os.environ)}
    options = [*overrides, *launch_options(machines, equipment), f"run.dir={run_dir}"]
    if preflight:
        code = subprocess.run([sys.executable, "-m", "mrcnn_train.preflight", *options], env=environment).returncode
        if code:
            return code
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mrcnn_train", *options, "resume=auto"]
    with open(beside(run_dir, ".log"), "a", encoding="utf-8") as log:
        print(f"$ {shlex.join(command)}", file=log, flush=True)
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    beside(run_dir, ".pid").write_text(str(process.pid))
    print(f"started as process {process.pid}; its output: {beside(run_dir, '.log')}")
    return 0


def follow(run_dir: Path) -> int:
    """Show the output of a run until it ends or Ctrl-C."""
    log, pid = beside(run_dir, ".log"), running(run_dir)
    if not log.exists():
        raise JobError(f"{log} does not exist: start the run first")
    until = [] if pid is None else ["--follow", f"--pid={pid}"]
    try:
        subprocess.run(["tail", "--lines=40", *until, str(log)], check=False)
    except KeyboardInterrupt:
        return 0  # the run goes on
    if pid is None:
        print(f"{run_dir} is not running")
    return 0


def stop(run_dir: Path, *, patience: float = STOP_SECONDS) -> int:
    """Let a run save and end; 1 if it has not ended in time."""
    pid = running(run_dir)
    if pid is None:
        print(f"{run_dir} is not running on this machine")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while running(run_dir) == pid:
        if time.monotonic() > deadline:
            print(f"process {pid} has not ended in {patience:g} s: see {beside(run_dir, '.log')}", file=sys.stderr)
            return 1
        time.sleep(0.2)
    print("stopped; start again goes on from its checkpoint")
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.ec2.job", description="A run on machines that ssh reaches.")
    parser.add_argument("command", choices=["start", "follow", "stop"])
    parser.add_argument("run_dir", type=Path, help="folder of the run, the same on all machines")
    parser.add_argument("overrides", nargs="*", help="start: options of mrcnn_train, +experiment=... first")
    parser.add_argument("--hosts", type=Path, help=f"start: file of machines; default {HOSTS}, if it exists")
    parser.add_argument("--no-preflight", action="store_true", help="start: do not check machines and data first")
    parsed = parser.parse_intermixed_args(arguments)
    run_dir = parsed.run_dir.absolute()
    try:
        if parsed.command == "start":
            return start(run_dir, parsed.overrides, hosts=parsed.hosts, preflight=not parsed.no_preflight)
        if parsed.overrides:
            raise JobError(f"{parsed.command} takes no options")
        return follow(run_dir) if parsed.command == "follow" else stop(run_dir)
    except JobError as error:
        print(f"infra.ec2.job: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
