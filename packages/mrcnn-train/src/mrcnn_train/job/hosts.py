"""The hosts of `launch.hosts`: read the option, find their addresses, try ssh, and start processes on them.

What a remote process needs (folder, variables, arguments) is sent over the standard input of ssh as one line of JSON,
because every user of a machine can see its command lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from mrcnn_train.errors import ConfigError

WRITTEN = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?(?P<name>[A-Za-z0-9_][A-Za-z0-9._-]*):(?P<processes>[1-9][0-9]{0,4})"
)
CONNECT_SECONDS = 10
SIOCGIFADDR = 0x8915  # of linux/sockios.h

# The program that Python runs on a remote host. It does not import this package, which may not be on the path before
# the variables are set. It reads byte by byte, because the link to the launcher follows the first line (see `link`).
BOOTSTRAP = """
import json, os, sys
line = b""
while not line.endswith(b"\\n"):
    byte = os.read(0, 1)
    if not byte:
        sys.exit(1)
    line += byte
job = json.loads(line)
os.environ.update(job["environment"])
try:
    os.chdir(job["folder"])
except OSError as error:
    sys.exit(f"mrcnn_train: error: the folder of the launch, {job['folder']}, cannot be entered on this host: {error}")
os.execv(sys.executable, [sys.executable, *job["arguments"]])
"""


class Host(NamedTuple):
    """A host as written in `launch.hosts`: [USER@]NAME:PROCESSES."""

    name: str  # a host name, an address, or an alias from ssh's configuration
    processes: int
    user: str | None = None


class Ssh(NamedTuple):
    """Options for ssh; None: ssh's configuration decides."""

    port: int | None = None
    key: str | None = None

    def command(self, host: Host, *remote: str) -> list[str]:
        """Return the command that runs `remote` on a host and never asks for a password."""
        options = ["-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
        options += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        options += [] if self.port is None else ["-p", str(self.port)]
        options += [] if self.key is None else ["-i", self.key]
        options += [] if host.user is None else ["-l", host.user]
        return ["ssh", *options, host.name, shlex.join(remote)]


def parse_hosts(written: Sequence[str]) -> list[Host]:
    """Read `launch.hosts`.

    Raises:
        ConfigError: an entry is not [USER@]NAME:PROCESSES, two name the same host, or there is none.
    """
    hosts = []
    for text in written:
        match = WRITTEN.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"launch.hosts has {text!r}; expected [HOST:PROCESSES, ...] or [USER@HOST:PROCESSES, ...]"
            )
        hosts.append(Host(match["name"], int(match["processes"]), match["user"]))
    names = [host.name for host in hosts]
    if not hosts or len(set(names)) < len(names):
        raise ConfigError(f"launch.hosts is {list(written)}; expected each host once")
    return hosts


def addresses_of(hosts: Sequence[Host], ssh: Ssh) -> list[str]:
    """Return the IPv4 address of each host, by ssh's configuration and the name service.

    Raises:
        ConfigError: a host has no address.
    """
    return [_address_of(host, ssh) for host in hosts]


def _address_of(host: Host, ssh: Ssh) -> str:
    name = host.name
    if name != "localhost":
        try:
            shown = subprocess.run(["ssh", "-G", *ssh.command(host)[1:-1]], capture_output=True, text=True)
        except FileNotFoundError:
            raise ConfigError("launch.hosts needs ssh: install openssh-client") from None
        found = re.search(r"^hostname (.+)$", shown.stdout, re.MULTILINE)
        name = found[1] if found else name
    try:
        return str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise ConfigError(f"launch.hosts: host {host.name!r} has no address: {error.strerror}") from error


def is_local(address: str) -> bool:
    """Return whether an address belongs to this machine: a socket can be bound only to such an address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def own_address_toward(address: str) -> str:
    """Return the address of this machine on the network that leads to another address.

    Raises:
        ConfigError: no network leads there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # chooses the route; sends nothing
        except OSError as error:
            raise ConfigError(f"no network leads to {address}: {error.strerror}") from None
        return str(probe.getsockname()[0])


def ipv4_addresses() -> dict[str, str]:
    """Return the IPv4 address of each network interface of this machine that has one (Linux)."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has none
                answer = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found[name] = socket.inet_ntoa(answer[20:24])
    return found


def interface_of(address: str) -> str:
    """Return the name of the network interface of this machine that has an address.

    Raises:
        ConfigError: no interface has it.
    """
    for name, own in ipv4_addresses().items():
        if own == address:
            return name
    raise ConfigError(f"no network interface of this machine has the address {address}")


def address_of_interface(interface: str) -> str:
    """Return the IPv4 address of a network interface of this machine.

    Raises:
        ConfigError: it does not exist or has no address; the message names the interfaces that have one.
    """
    found = ipv4_addresses()
    if interface not in found:
        raise ConfigError(f"launch.interface={interface} has no IPv4 address here; {', '.join(sorted(found))} have one")
    return found[interface]


def require_reachable(hosts: Sequence[Host], ssh: Ssh) -> None:
    """Check that each host can be reached by ssh and has our Python; all hosts at once.

    Raises:
        ConfigError: one cannot be used. The message names the first such host and has the last line that ssh printed.
    """
    for complaint in complaints(hosts, ssh):
        raise ConfigError(complaint)


def complaints(hosts: Sequence[Host], ssh: Ssh) -> list[str]:
    """Try ssh and the Python of each host, all at once; return a line for each host that fails."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        return [line for line in pool.map(lambda host: unreachable(host, ssh), hosts) if line is not None]


def unreachable(host: Host, ssh: Ssh) -> str | None:
    """Return why no process can be started on a host, in one line; None if one can."""
    try:
        tried = subprocess.run(
            ssh.command(host, sys.executable, "-c", "pass"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3 * CONNECT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"host {host.name}: ssh got no answer in {3 * CONNECT_SECONDS} s"
    except FileNotFoundError:
        return "launch.hosts needs the program ssh: install openssh-client"
    if tried.returncode == 0:
        return None
    said = [line.strip() for line in tried.stderr.splitlines() if line.strip()]
    if tried.returncode in (126, 127):
        return f"host {host.name}: {sys.executable} cannot be started there: install the same environment on every host"
    reason = said[-1] if said else f"exit code {tried.returncode}"
    return f"host {host.name}: ssh failed: {reason} (`ssh {host.name}` by hand shows more)"


def start(
    host: Host,
    ssh: Ssh,
    *,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    local: bool,
    read: bool = False,
) -> subprocess.Popen[bytes]:
    """Start one process of the job, with a pipe to its standard input (see `link`).

    Args:
        arguments: those of Python.
        environment: variables to set besides those of this process (on another host, those of the ssh login).
        folder: working directory of the process.
        local: whether the host is this machine, so that ssh is not needed.
        read: whether standard output becomes a pipe, too.
    """
    output = subprocess.PIPE if read else None
    # A new session: Ctrl-C in the terminal then reaches only the launcher, which passes it on.
    if local:
        command = [sys.executable, *arguments]
        return subprocess.Popen(
            command,
            env=os.environ | environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=output,
            start_new_session=True,
        )
    command = ssh.command(host, sys.executable, "-c", BOOTSTRAP)
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, start_new_session=True)
    assert process.stdin is not None
    job = {"environment": dict(environment), "arguments": list(arguments), "folder": folder}
    process.stdin.write(json.dumps(job).encode() + b"\n")
    process.stdin.flush()
    return process
