"""A training job on EC2 instances: find the hosts, start, follow, stop. Run on the first instance.

    python -m infra.ec2.job hosts mrcnn                 # running instances with the tag mrcnn-job=mrcnn, into hosts.txt
    python -m infra.ec2.job start +experiment=32x4_24ep data.root=/data/coco run.dir=/data/runs/first
    python -m infra.ec2.job follow
    python -m infra.ec2.job stop                        # saves a checkpoint; `start` with the same words goes on

`start` runs the preflight, then the job in the background, with its output in job.log. One line of hosts.txt is
ADDRESS:PROCESSES, one process for each GPU; without the file the job runs on this machine alone.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HOSTS, LOG, PID = "hosts.txt", "job.log", "job.pid"  # in the folder of the launch
TAG = "mrcnn-job"
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]*:[1-9]\d*")
STOP_SECONDS = 300.0
# For instances with EFA (libfabric's provider `efa`): NCCL's plugin uses GPU memory directly, and finds it by itself.
EFA_VARIABLES = {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "FI_EFA_FORK_SAFE": "1"}


class JobError(ValueError):
    """A job that cannot be started or stopped; the message says why and what to do."""


def find_hosts(client: Any, job: str) -> list[str]:
    """Return ADDRESS:GPUS of the running instances that have the tag `mrcnn-job=JOB`, in the order of their addresses.

    Args:
        client: boto3's for EC2.

    Raises:
        JobError: there are none, or one has no GPU.
    """
    filters = [{"Name": f"tag:{TAG}", "Values": [job]}, {"Name": "instance-state-name", "Values": ["running"]}]
    pages = client.get_paginator("describe_instances").paginate(Filters=filters)
    instances = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    if not instances:
        raise JobError(f"no running instance has the tag {TAG}={job}")
    types = sorted({one["InstanceType"] for one in instances})
    described = client.describe_instance_types(InstanceTypes=types)["InstanceTypes"]
    gpus = {one["InstanceType"]: sum(g["Count"] for g in one.get("GpuInfo", {}).get("Gpus", [])) for one in described}
    without = [kind for kind in types if not gpus.get(kind)]
    if without:
        raise JobError(
            f"instances of type {without[0]} have no GPU: write {HOSTS} by hand, ADDRESS:PROCESSES on a line"
        )
    addresses = sorted((one["PrivateIpAddress"], gpus[one["InstanceType"]]) for one in instances)
    return [f"{address}:{count}" for address, count in addresses]


def read_hosts(folder: Path) -> list[str]:
    """Read hosts.txt; a missing file is no hosts.

    Raises:
        JobError: a line is not ADDRESS:PROCESSES.
    """
    path = folder / HOSTS
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()] if path.exists() else []
    hosts = [line for line in lines if line]
    for host in hosts:
        if not HOST.fullmatch(host):
            raise JobError(f"{path}: {host!r} is not ADDRESS:PROCESSES")
    return hosts


def has_efa(folder: Path = Path("/sys/class/infiniband")) -> bool:
    """Return whether this instance has an EFA device."""
    return folder.is_dir() and any(path.name.startswith(("efa", "rdmap")) for path in folder.iterdir())


def job_options(overrides: Sequence[str], hosts: Sequence[str]) -> list[str]:
    """Return the options of the run: what was given, the hosts, and `resume=auto`.

    Raises:
        JobError: an option is missing, or is set here.
    """
    names = [one.lstrip("+").partition("=")[0] for one in overrides]
    if "run.dir" not in names:
        raise JobError("give run.dir=DIR: the same command then goes on where a stopped job ended")
    taken = next((name for name in names if name == "resume" or (hosts and name.startswith("launch."))), None)
    if taken is not None:
        raise JobError(f"leave {taken} out: it is set here")
    return [*overrides, "resume=auto", *([f"launch.hosts=[{','.join(hosts)}]"] if hosts else [])]


def start(folder: Path, overrides: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the preflight, then start the job in the background; return the preflight's exit code.

    Raises:
        JobError: a job of this folder runs already.
    """
    if running(folder) is not None:
        raise JobError(
            f"a job runs already in {folder} (process {running(folder)}): stop it first, or use another folder"
        )
    options = job_options(overrides, read_hosts(folder))
    environment = {**(EFA_VARIABLES if has_efa() else {}), **environment}
    python = [sys.executable, "-m"]
    code = subprocess.run([*python, "mrcnn_train.preflight", *options], cwd=folder, env=environment).returncode
    if code:
        return code
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(
            [*python, "mrcnn_train", *options],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # lives on when the login ends
        )
    (folder / PID).write_text(f"{process.pid}\n")
    print(f"started: process {process.pid}, output in {folder / LOG}")
    return 0


def running(folder: Path) -> int | None:
    """Return the process id of the folder's job, None where none runs."""
    try:
        pid = int((folder / PID).read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return pid if b"mrcnn_train" in command and state != "Z" else None


def stop(folder: Path, *, patience: float = STOP_SECONDS) -> None:
    """Ask the job to save and end, and wait for it.

    Raises:
        JobError: no job runs, or it has not ended in time.
    """
    pid = running(folder)
    if pid is None:
        raise JobError(f"no job runs in {folder}")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + patience
    while running(folder) is not None:
        if time.monotonic() > deadline:
            raise JobError(f"process {pid} has not ended in {patience:g} s; {folder / LOG} says what it does")
        time.sleep(0.2)
    print("stopped, with a checkpoint")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; mistakes are one line."""
    parser = argparse.ArgumentParser(prog="python -m infra.ec2.job", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("hosts", help=f"write {HOSTS}").add_argument("job", help=f"value of the tag {TAG}")
    commands.add_parser("start", help="preflight, then the job").add_argument(
        "options", nargs="+", metavar="OPTION=VALUE"
    )
    commands.add_parser("follow", help="show the job's output as it comes")
    commands.add_parser("stop", help="save a checkpoint and end")
    given = parser.parse_args(arguments)
    folder = Path.cwd()
    try:
        if given.command == "hosts":
            import boto3

            from infra.settings import read_settings, require

            region = require("AWS_REGION", read_settings(), user="infra.ec2.job hosts")
            write_hosts(folder, find_hosts(boto3.client("ec2", region_name=region), given.job))
        elif given.command == "start":
            return start(folder, given.options, os.environ)
        elif given.command == "follow":
            return subprocess.run(["tail", "-n", "40", "-F", str(folder / LOG)]).returncode
        else:
            stop(folder)
    except ValueError as error:
        print(f"infra.ec2.job: {error}", file=sys.stderr)
        return 2
    return 0


def write_hosts(folder: Path, hosts: Iterable[str]) -> None:
    """Write hosts.txt, and show it."""
    text = "".join(f"{host}\n" for host in hosts)
    (folder / HOSTS).write_text(text)
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
