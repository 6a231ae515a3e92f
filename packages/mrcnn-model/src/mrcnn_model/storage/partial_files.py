"""Files that are being written: under random names, until they are complete and renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"  # ends their names


def partial_name() -> str:
    """Return a name that no other process uses."""
    return f".mrcnn-{secrets.token_hex(8)}{PARTIAL}"


@contextmanager
def partial_file(folder: Path) -> Iterator[Path]:
    """Make an empty file to write to; at the end, delete it if it has not been renamed.

    It is made with O_EXCL, so a file or link that has the name already is neither opened nor followed.
    """
    path = folder / partial_name()
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
