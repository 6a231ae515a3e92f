"""Several hosts on one machine: Linux namespaces with a network address, a name, processes and an sshd each.

They share this machine's files, except for /etc/hosts, /root/.ssh and /dev/shm, and reach each other only. Needs root,
util-linux, iproute2, and OpenSSH.

    with Hosts(folder, names=("one", "two")) as hosts:
        hosts["one"].run(["ssh", "two", "hostname"])
        hosts["two"].power_off()

`python infra/tests/hosts.py one,two -- COMMAND` runs a command on the first of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

NETWORK = "10.77.0"
FIRST_ADDRESS = 11
BOOT_SECONDS = 20.0
SSHD_CONFIG = """\
HostKey {folder}/host_key
AuthorizedKeysFile {ssh}/id_ed25519.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""
# Process 1 of a host. It waits for its network card, which comes from outside.
INIT = """\
set -e
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mkdir -p /root/.ssh
mount --bind "$2/ssh" /root/.ssh
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/sshd
until ip -4 addr show dev eth0 2>/dev/null | grep -q inet; do sleep 0.05; done
/usr/sbin/sshd -D -f "$2/sshd_config" -E "$2/sshd.log" &
while :; do sleep 3600 & wait $!; done
"""


class HostError(RuntimeError):
    """A host did not start, or a command on it failed."""


class Host:
    """One of the hosts; made by `Hosts`.

    Attributes:
        folder: its files: `hosts` (its /etc/hosts), `ssh/` (its /root/.ssh), `host_key`, `sshd.log`, `init.log`.
        pid: of its process 1, as seen from outside; 0 while it is off.
    """

    def __init__(self, name: str, address: str, folder: Path, switch: int) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.pid = 0
        self._switch = switch
        self._unshare: subprocess.Popen[bytes] | None = None

    def power_on(self) -> None:
        """Start the host and wait until its sshd answers."""
        (self.folder / "sshd.log").write_text("")
        namespaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
        init = ["bash", "-c", INIT, "init", self.name, str(self.folder)]
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *init]
        with open(self.folder / "init.log", "ab") as log:
            self._unshare = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = _first_child(self._unshare)
        _wait_for(lambda: _has_own_network(self.pid), f"{self.name} has no network of its own")
        port = f"port-{self.name}"[:15]
        mac = "02:00:" + ":".join(f"{int(part):02x}" for part in self.address.split("."))  # as before, after a restart
        peer = ("peer", "name", "eth0", "address", mac, "netns", str(self.pid))
        _ip(self._switch, "link", "add", port, "type", "veth", *peer)
        _ip(self._switch, "link", "set", port, "master", "switch", "up")
        _ip(self.pid, "link", "set", "lo", "up")
        _ip(self.pid, "addr", "add", f"{self.address}/24", "dev", "eth0")
        _ip(self.pid, "link", "set", "eth0", "up")
        _wait_for(lambda: "listening" in (self.folder / "sshd.log").read_text(), f"sshd of {self.name} does not start")

    def power_off(self) -> None:
        """End all processes of the host at once; the other hosts get no message."""
        if self._unshare is None:
            return
        os.kill(self.pid, signal.SIGKILL)  # the kernel ends the others of its namespace
        self._unshare.wait()
        self._unshare, self.pid = None, 0

    def command(self, arguments: Sequence[str | Path], *, cwd: Path | None = None) -> list[str]:
        """Return the command that runs `arguments` on this host, in a folder; by default in the present one."""
        if not self.pid:
            raise HostError(f"{self.name} is off")
        enter = ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid", "--"]
        # nsenter leaves a program in the root folder of the host.
        return [*enter, "env", "-C", str(cwd or Path.cwd()), f"HOSTNAME={self.name}", *map(str, arguments)]

    def start(
        self, arguments: Sequence[str | Path], *, cwd: Path | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a program on this host; options are those of `subprocess.Popen`."""
        return subprocess.Popen(self.command(arguments, cwd=cwd), text=True, **options)

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float = 600,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on this host to its end; its output is in `stdout`, with that to stderr.

        Raises:
            HostError: it failed, and `check` is set.
        """
        done = subprocess.run(
            self.command(arguments, cwd=cwd),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=env,
        )
        if check and done.returncode:
            raise HostError(
                f"{self.name}: {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stdout}"
            )
        return done

    def cut(self) -> None:
        """Take the network cable out."""
        _ip(self._switch, "link", "set", f"port-{self.name}"[:15], "down")

    def plug_in(self) -> None:
        """Put the network cable back."""
        _ip(self._switch, "link", "set", f"port-{self.name}"[:15], "up")

    def close_port(self, ports: str) -> None:
        """Drop what arrives at TCP ports, "1024:65535" for a range; until the host is switched off."""
        self.run(["iptables", "-A", "INPUT", "-p", "tcp", "-i", "eth0", "--dport", ports, "-j", "DROP"])

    def show_instead(self, place: Path, content: Path) -> None:
        """Show `content` at `place` (files or folders) on this host only; until it is switched off."""
        self.run(["mount", "--bind", str(content), str(place)])


class Hosts:
    """A context with hosts that are switched on, by name; the network between them is a switch.

    Args:
        folder: for their files, empty.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ("one", "two")) -> None:
        self._folder, self._names = folder, names
        self._hosts: dict[str, Host] = {}

    def __enter__(self) -> Hosts:
        # A namespace of the switch alone: this machine's network stays as it is.
        self._switch = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"])
        _wait_for(lambda: _has_own_network(self._switch.pid), "no network namespace: are you root?")
        _ip(self._switch.pid, "link", "add", "switch", "type", "bridge")
        _ip(self._switch.pid, "link", "set", "switch", "up")
        try:
            for number, name in enumerate(self._names):
                folder = self._folder / name
                folder.mkdir(parents=True)
                address = f"{NETWORK}.{FIRST_ADDRESS + number}"
                self._hosts[name] = Host(name, address, folder, self._switch.pid)
            self._write_files()
            for host in self:
                host.power_on()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for host in self:
            host.power_off()
        self._switch.kill()
        self._switch.wait()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def _write_files(self) -> None:
        """Give every host a key, the addresses and host keys of all, and one user key to log in with."""
        user_key = self._folder / "user_key"
        _make_key(user_key)
        for host in self:
            _make_key(host.folder / "host_key")
        addresses = "".join(f"{host.address} {host.name}\n" for host in self)
        known = "".join(f"{host.name},{host.address} {(host.folder / 'host_key.pub').read_text()}" for host in self)
        for host in self:
            ssh = host.folder / "ssh"
            ssh.mkdir(mode=0o700)
            shutil.copy(user_key, ssh / "id_ed25519")
            shutil.copy(user_key.with_suffix(".pub"), ssh / "id_ed25519.pub")
            (ssh / "known_hosts").write_text(known)
            (host.folder / "hosts").write_text(f"127.0.0.1 localhost\n{addresses}")
            (host.folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=host.folder, ssh=ssh))


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)], check=True)


def _ip(pid: int, *arguments: str) -> None:
    command = ["nsenter", "--target", str(pid), "--net", "ip", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise HostError(f"ip {' '.join(arguments)}: {done.stdout.strip()}")


def _first_child(process: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    _wait_for(lambda: process.poll() is None and bool(children.read_text().split()), "unshare failed: are you root?")
    return int(children.read_text().split()[0])


def _has_own_network(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:
        return False


def _wait_for(condition: Any, failure: str) -> None:
    deadline = time.monotonic() + BOOT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise HostError(failure)
        time.sleep(0.02)


def main() -> int:
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        print("usage: hosts.py NAME,NAME... -- COMMAND", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, Hosts(Path(folder), sys.argv[1].split(",")) as hosts:
        return next(iter(hosts)).start(sys.argv[3:]).wait()


if __name__ == "__main__":
    sys.exit(main())
