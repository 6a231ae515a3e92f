"""Bytes of image files, which are opened only if they are regular files."""

from __future__ import annotations

import errno
import os
import stat
from os import PathLike
from typing import BinaryIO


def open_regular(path: str | PathLike[str]) -> BinaryIO:
    """Open a file for reading; raise OSError if it is not a regular file, because reading a pipe could wait forever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def read_ends(path: str | PathLike[str], *, head: int, tail: int) -> tuple[bytes, bytes, int]:
    """Return the first `head` and the last `tail` bytes of a regular file, and its length in bytes.

    Raises:
        OSError: it cannot be read, or is not a regular file.
    """
    with open_regular(path) as file:
        first = file.read(head)
        num_bytes = os.fstat(file.fileno()).st_size
        file.seek(max(num_bytes - tail, 0))
        return first, file.read(tail), num_bytes
