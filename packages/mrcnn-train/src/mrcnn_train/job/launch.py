"""Start the processes of a job, on this machine and on others by ssh, and end them together."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import NamedTuple

from mrcnn_train.config.options import LaunchOptions
from mrcnn_train.config.values import asked_processes
from mrcnn_train.errors import EXIT_PEER_LOST, ConfigError
from mrcnn_train.job.distributed import rendezvous
from mrcnn_train.job.hosts import (
    Host,
    Ssh,
    address_of_interface,
    addresses_of,
    is_local,
    own_address_toward,
    parse_hosts,
    require_reachable,
    start,
)
from mrcnn_train.job.link import LINKED, signal_line

GRACE = 60.0  # seconds from the failure of one process until the others are killed
POLL = 0.1  # seconds
SSH_FAILED = 255  # exit code of ssh when the connection failed or broke

# Names of the variables that processes on other hosts get from this one, besides those in launch.environment.
PASSED = re.compile(
    r"PATH|LD_LIBRARY_PATH|PYTHON(PATH|HASHSEED|UNBUFFERED)|VIRTUAL_ENV|OMP_NUM_THREADS|TZ|LANG|LC_[A-Z]+"
    r"|(TF|XLA|ONEDNN|DNNL|NCCL|FI|CUDA|HOROVOD|MRCNN)_[A-Z0-9_]+"
)


class Started(NamedTuple):
    """A process of the job."""

    host: Host
    process: subprocess.Popen[bytes]


def launch(options: LaunchOptions, arguments: Sequence[str], *, module: str = "mrcnn_train") -> int:
    """Run `python -m mrcnn_train`, or another module, in the processes that `options` asks for; see `run_together`."""
    hosts = [Host("localhost", asked_processes(options))] if options.hosts is None else parse_hosts(options.hosts)
    return run_together(
        ["-m", module, *arguments],
        hosts=hosts,
        ssh=Ssh(options.ssh_port, options.ssh_key),
        interface=options.interface,
        also_passed=options.environment or [],
    )


def run_here(arguments: Sequence[str], *, count: int) -> int:
    """Run Python with these arguments in `count` processes on this machine; see `run_together`."""
    return run_together(arguments, hosts=[Host("localhost", count)])


def run_together(
    arguments: Sequence[str],
    *,
    hosts: Sequence[Host],
    ssh: Ssh = Ssh(),  # noqa: B008  (a NamedTuple, which nothing changes)
    interface: str | None = None,
    also_passed: Sequence[str] = (),
) -> int:
    """Run Python with these arguments as the processes of one job, and wait for them.

    When one fails, those that have not ended a minute later are killed.

    Args:
        interface: network interface of this machine that the other hosts reach; None: that of the route to each host.
        also_passed: names of variables that processes on other hosts get besides those in PASSED.

    Returns:
        0, or the exit code of the process that failed first: 128 + signal if a signal ended it, 3 if the connection by
        ssh ended.

    Raises:
        ConfigError: Horovod is not installed, a host cannot be reached, or a variable is not set.
    """
    addresses = addresses_of(hosts, ssh)
    own = [is_local(address) for address in addresses]
    require_reachable([host for host, local in zip(hosts, own, strict=True) if not local], ssh)
    passed = passed_variables(os.environ, also=also_passed)
    points = meeting_points(addresses, own, interface=interface)
    processes: list[Started] = []
    with rendezvous([host.processes for host in hosts], addresses) as (port, ranks), _passing_on_signals(processes):
        for number, variables in ranks:
            process = start(
                hosts[number],
                ssh,
                arguments=arguments,
                environment={**passed, **variables, **meeting_variables(points[number], port), LINKED: "1"},
                folder=os.getcwd(),
                local=own[number],
            )
            processes.append(Started(hosts[number], process))
        _wait(processes)
        code = _exit_code(processes)
        _kill_the_rest(processes)
        return code


def meeting_points(addresses: Sequence[str], own: Sequence[bool], *, interface: str | None) -> list[str]:
    """Return for each host the address of this machine at which its processes find the meeting point.

    Args:
        addresses: those of the hosts.
        own: for each host, whether it is this machine.
        interface: network interface of this machine to use for all hosts; None: the one of the route to each host.
    """
    others = [address for address, local in zip(addresses, own, strict=True) if not local]
    if interface is not None:
        return [address_of_interface(interface)] * len(addresses)
    first = own_address_toward(others[0]) if others else "127.0.0.1"
    return [first if local else own_address_toward(address) for address, local in zip(addresses, own, strict=True)]


def meeting_variables(address: str, port: int) -> dict[str, str]:
    """Return the variables from which Horovod learns where the processes meet."""
    return {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
    }


def passed_variables(environment: Mapping[str, str], *, also: Sequence[str]) -> dict[str, str]:
    """Return the variables that processes on other hosts get from this environment.

    Args:
        also: further names (`launch.environment`).

    Raises:
        ConfigError: one of the further names is not set.
    """
    missing = [name for name in also if name not in environment]
    if missing:
        raise ConfigError(f"launch.environment names {missing[0]}, which is not set here: set it, or leave it out")
    return {name: value for name, value in environment.items() if PASSED.fullmatch(name) or name in also}


def run_job(arguments: Sequence[str]) -> int:
    """Run `python -m mrcnn_train` with these arguments in a new process, and return its exit code."""
    environment = {LINKED: "1"}
    job = Host("localhost", 1)
    arguments = ["-m", "mrcnn_train", *arguments]
    process = start(job, Ssh(), arguments=arguments, environment=environment, folder=os.getcwd(), local=True)
    processes = [Started(job, process)]
    with _passing_on_signals(processes):
        return _as_in_shells(process.wait())


def _wait(processes: Sequence[Started]) -> None:
    """Wait until all processes have ended, or until `GRACE` seconds after one has failed."""
    deadline = math.inf
    while any(one.process.poll() is None for one in processes) and time.monotonic() < deadline:
        if deadline == math.inf and any(one.process.returncode for one in processes):
            deadline = time.monotonic() + GRACE
        time.sleep(POLL)


def _kill_the_rest(processes: Sequence[Started]) -> None:
    for rank, one in enumerate(processes):
        if one.process.poll() is None:
            print(f"mrcnn_train: error: process {rank} did not end in {GRACE:g} s: killed", file=sys.stderr)
            one.process.kill()  # of a process on another host this kills ssh; the process stops when its link closes
            one.process.wait()


def _exit_code(processes: Sequence[Started]) -> int:
    """Return the exit code of the process that failed first, and print which one was ended by a signal or by ssh.

    EXIT_PEER_LOST is returned only if no process has another code: it means that another process failed first.
    """
    for rank, (host, process) in enumerate(processes):
        where = f"process {rank} of {len(processes)}" + (f" on {host.name}" if host.name != "localhost" else "")
        if process.returncode is not None and process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            print(f"mrcnn_train: error: {where} was ended by {name}", file=sys.stderr)
            return _as_in_shells(process.returncode)
        if process.returncode == SSH_FAILED:
            print(f"mrcnn_train: error: {where}: the connection by ssh ended", file=sys.stderr)
            return EXIT_PEER_LOST
    failures = [one.process.returncode for one in processes if one.process.returncode]
    return min(failures, key=lambda code: code == EXIT_PEER_LOST, default=0)


def _as_in_shells(code: int) -> int:
    """Return 128 + signal for a process that a signal ended, as shells do; Python gives -signal."""
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _passing_on_signals(processes: Sequence[Started]) -> Iterator[None]:
    """Pass SIGTERM and Ctrl-C on to the processes started so far, over their links."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for one in processes:
            pipe = one.process.stdin
            if one.process.poll() is None and pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.write(signal_line(number))
                    pipe.flush()

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
