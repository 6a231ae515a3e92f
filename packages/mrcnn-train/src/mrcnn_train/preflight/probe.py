"""What the preflight asks of each host, by ssh, before a process of the job is started there.

    python -m mrcnn_train.preflight.probe OUTPUT [ANNOTATIONS IMAGES]...

Writes one line of JSON, the facts; reads one line, the other hosts; writes one line, those it cannot reach; and ends
when its standard input does. The first line may be preceded by what a login shell prints.
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

MARK = "mrcnn-probe "  # begins the lines of JSON
CONNECT_SECONDS = 5.0


def main() -> int:
    """Answer the preflight."""
    with socket.create_server(("", 0)) as server:
        threading.Thread(target=_accept, args=(server,), daemon=True).start()
        _write({"port": server.getsockname()[1], **facts(sys.argv[1], sys.argv[2:])})
        peers = json.loads(sys.stdin.readline() or "[]")
        _write({"unreached": [name for name, address, port in peers if not reaches(address, port)]})
        sys.stdin.read()
    return 0


def facts(output: str, data: Sequence[str]) -> dict[str, Any]:
    """Return what the preflight compares and shows of a host.

    Args:
        output: folder that the run will write to; it need not exist yet.
        data: annotation file and image folder of each split, one after the other.
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
    """Return what two hosts with the same data agree on: the digest of a file, or how many files a folder holds."""
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
    """Return the free space of the disk that holds a folder, or will hold it, in GiB."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return round(shutil.disk_usage(there).free / 2**30, 1)


def reaches(address: str, port: int) -> bool:
    """Whether a connection to a port of another host can be made."""
    try:
        with socket.create_connection((address, port), timeout=CONNECT_SECONDS):
            return True
    except OSError:
        return False


def read_answer(lines: Iterable[str]) -> dict[str, Any] | None:
    """Read the next line of JSON that a probe wrote, None where it ended before."""
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
