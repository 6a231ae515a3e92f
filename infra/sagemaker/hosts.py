"""Connect the hosts of a SageMaker job, let the first one log in to the others, and stop them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

SSH_PORT = 2222
MEETING_PORT = 7777
MEETING_SECONDS = 600  # hosts of one job may start minutes apart
POLL = 0.2  # seconds


class EntryError(Exception):
    """Something wrong with the job, in one line, which becomes the failure reason of the job."""


class Cluster(NamedTuple):
    """This host and all hosts of the job, from `resourceconfig.json`; `hosts[0]` starts the ranks."""

    current: str
    hosts: list[str]
    interface: str

    @property
    def leads(self) -> bool:
        return self.current == self.hosts[0]


class Stop:
    """Notes SIGTERM, and passes it to the ranks of the run on this host."""

    def __init__(self, run_dir: Path) -> None:
        self.received = False
        self.run_dir = run_dir
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self.pass_on()

    def pass_on(self) -> None:
        """Send SIGTERM to the ranks on this host."""
        for pid in ranks_here(self.run_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def ranks_here(run_dir: Path, proc: Path = Path("/proc")) -> list[int]:
    """Return the process ids of `python -m mrcnn_train ... run.dir=RUN_DIR` on this host."""
    found = []
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:  # the process has ended
            continue
        is_training = "python" in words[0] and ("-m", "mrcnn_train") in itertools.pairwise(words)
        if is_training and f"run.dir={run_dir}" in words:
            found.append(int(path.parent.name))
    return found


def meet(
    others: set[str], public_key: str, known_hosts: Path, stack: contextlib.ExitStack, stop: Stop
) -> list[socket.socket]:
    """Wait until all other hosts have connected and their ssh servers run; write their host keys to `known_hosts`.

    Raises:
        EntryError: some do not connect in time.
    """
    server = stack.enter_context(socket.create_server(("", MEETING_PORT)))
    server.settimeout(1)
    missing = set(others)
    links: list[socket.socket] = []
    deadline = time.monotonic() + MEETING_SECONDS
    while missing and not stop.received:
        if time.monotonic() > deadline:
            raise EntryError(f"no connection from {', '.join(sorted(missing))} in {MEETING_SECONDS} s")
        with contextlib.suppress(TimeoutError):
            link, _ = server.accept()
            stack.enter_context(link)
            link.settimeout(60)
            host = str(_receive(link).get("host"))
            if host not in missing:
                continue
            _send(link, {"public_key": public_key})
            host_key = str(_receive(link)["host_key"])
            with known_hosts.open("a") as file:
                file.write(f"[{host}]:{SSH_PORT} {host_key}\n")
            missing.discard(host)
            links.append(link)
    return links


def follow(cluster: Cluster, stop: Stop) -> int:
    """Serve ssh to the first host until it sends the exit code of the job; return this code."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        keys = Path(folder)
        link = stack.enter_context(_connect(cluster.hosts[0], stop))
        _send(link, {"host": cluster.current})
        (keys / "authorized_keys").write_text(str(_receive(link)["public_key"]))
        make_key(keys / "host_key")
        server = subprocess.Popen(sshd_command(keys))
        stack.callback(server.wait)
        stack.callback(server.terminate)
        _wait_for(lambda: _listens(SSH_PORT), server)
        kind, key = (keys / "host_key.pub").read_text().split()[:2]
        _send(link, {"host_key": f"{kind} {key}"})
        link.settimeout(None)
        return int(_receive(link)["code"])


def dismiss(links: Iterable[socket.socket], code: int) -> None:
    """Send the exit code of the job to the other hosts."""
    for link in links:
        with contextlib.suppress(OSError):
            _send(link, {"code": code})


def sshd_command(keys: Path) -> list[str]:
    """Return the command of the ssh server; the folder `keys` has its host key and authorized_keys."""
    options = ("PidFile=none", "UsePAM=no", "StrictModes=no", "PasswordAuthentication=no", "PermitRootLogin=yes")
    command = ["/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(SSH_PORT), "-h", str(keys / "host_key")]
    for option in (*options, f"AuthorizedKeysFile={keys / 'authorized_keys'}"):
        command += ["-o", option]
    return command


def _connect(leader: str, stop: Stop) -> socket.socket:
    deadline = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            return socket.create_connection((leader, MEETING_PORT), timeout=MEETING_SECONDS)
        except OSError as error:
            if stop.received or time.monotonic() > deadline:
                raise EntryError(f"{leader}:{MEETING_PORT}, the first host, cannot be reached: {error}") from error
            time.sleep(1)


def make_key(path: Path) -> None:
    """Write an ssh key, and its public half beside it."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)  # sshd needs it when root runs it


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return True
    return False


def _wait_for(is_ready: Callable[[], bool], server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while not is_ready():
        if server.poll() is not None or time.monotonic() > deadline:
            raise EntryError("the ssh server did not start; its message is above")
        time.sleep(POLL)


def _send(link: socket.socket, message: Mapping[str, Any]) -> None:
    link.sendall(json.dumps(message).encode() + b"\n")


def _receive(link: socket.socket) -> dict[str, Any]:
    """Read one line, byte by byte, so that no byte of the next line is lost."""
    line = b""
    while not line.endswith(b"\n"):
        byte = link.recv(1)
        if not byte or len(line) > 10_000:
            raise EntryError("the connection to another host ended: that host failed or was taken away")
        line += byte
    message: dict[str, Any] = json.loads(line)
    return message
