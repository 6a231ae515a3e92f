"""Write files under names that no other process uses, and rename them when they are complete."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"  # ends the name of a file that is being written


@contextlib.contextmanager
def partial_file(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a new file in a folder for writing, under a random name; at the end, delete it if it still has this name.

    The file is made with O_EXCL, so a file or link that has the name already is neither opened nor followed.
    """
    path = folder / f".mrcnn-{secrets.token_hex(8)}{PARTIAL}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file, path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced(path: Path, *, flush: bool = False) -> Iterator[BinaryIO]:
    """Give a file to write the new content of `path` to. Readers see the old content or the whole new one.

    Args:
        path: replaced when the block ends without an exception; a link is replaced, not followed.
        flush: wait until the content is on the disk, so that it survives a power failure.
    """
    with partial_file(path.parent) as (file, partial):
        yield file
        file.flush()
        if flush:
            os.fsync(file.fileno())
        partial.replace(path)
