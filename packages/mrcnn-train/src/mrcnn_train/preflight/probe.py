"""The probe that the preflight runs on each host before the processes of the job start there.

    python -m mrcnn_train.preflight.probe OUTPUT [ANNOTATIONS IMAGES]...

It writes a line with the facts of its host, reads a line with the other hosts, writes a line with those it cannot
reach, and ends when its standard input is closed. The lines are JSON. Those that it writes begin with MARK, because a
login shell may print other lines before them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mrcnn_train.job.facts import host_facts, software_facts

MARK = "mrcnn-probe "
CONNECT_SECONDS = 5.0


def main() -> int:
    """Run the probe; see the module."""
    with socket.create_server(("", 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        _write({"port": server.getsockname()[1], **facts(sys.argv[1], sys.argv[2:])})
        peers = json.loads(sys.stdin.readline() or "[]")
        _write({"unreached": [name for name, address, port in peers if not reaches(address, port)]})
        sys.stdin.read()
    return 0


def facts(output: str, data: Sequence[str]) -> dict[str, Any]:
    """Return what the preflight compares and prints for a host.

    Args:
        output: folder that the run will write to; it may not exist yet.
        data: annotation file and image folder of each data set, in a flat list.
    """
    software = software_facts()
    packages = software.pop("packages")
    return {
        **host_facts(),
        **software,
        "packages": {name: packages[name] for name in ("tensorflow", "keras", "horovod", "numpy") if name in packages},
        "free_gib": free_gib(Path(output)),
        "data": {path: fingerprint(Path(path)) for path in data},
    }


def fingerprint(path: Path) -> str:
    """Return a text that is equal on hosts with the same data: the digest of a file, or the file count of a folder."""
    try:
        if path.is_dir():
            with os.scandir(path) as entries:
                return f"{sum(1 for _ in entries)} files"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def free_gib(folder: Path) -> float:
    """Return the free space in GiB on the disk of a folder, which may not exist yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return round(shutil.disk_usage(there).free / 2**30, 1)


def reaches(address: str, port: int) -> bool:
    """Return whether this host can connect to a port of another host."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def read_answer(lines: Iterable[str]) -> dict[str, Any] | None:
    """Read the next answer of a probe; None if the probe ended without one."""
    for line in lines:
        if line.startswith(MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(MARK))
            return answer
    return None


def _write(answer: dict[str, Any]) -> None:
    print(MARK + json.dumps(answer), flush=True)


def _accept(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:  # closed
            return


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.exit(main())
