"""Lock a run directory, so that a second run cannot write to it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mrcnn_data import visible
from mrcnn_train.errors import ConfigError

LOCK_FILE = ".lock"
HOLDER = re.compile(rb"process \d+ on ")  # what the content of a lock begins with


def is_lock(path: Path) -> bool:
    """Return whether a file is the lock of a run, and not a file of the user that has its name."""
    return (
        path.name == LOCK_FILE
        and path.is_file()
        and not path.is_symlink()
        and HOLDER.match(path.read_bytes()) is not None
    )


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the lock of a run directory inside this context. The system releases it when the process ends.

    Raises:
        ConfigError: another process holds the lock; the message has its host, process id and start time. Or a file of
            the user has the name of the lock.
    """
    descriptor = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        content = os.pread(descriptor, 300, 0)
        if content and not HOLDER.match(content):
            raise ConfigError(f"{run_dir / LOCK_FILE} is not the lock of a run: move this file away")
        _lock(descriptor, run_dir)
        os.ftruncate(descriptor, 0)
        holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, run_dir: Path) -> None:
    try:
        # Not flock: on NFS and Lustre (mounted with `flock`), other hosts see only locks made by lockf.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            holder = os.pread(descriptor, 300, 0).decode(errors="replace") or "another process"
            raise ConfigError(
                f"run directory {run_dir} is in use by {holder}: wait for it, stop it, or choose another run.dir"
            ) from None
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            print(
                f"WARNING: {visible(run_dir, limit=2000)}: this file system has no locks, so a second run could write "
                "here unnoticed",
                file=sys.stderr,
                flush=True,
            )
            return
        raise
