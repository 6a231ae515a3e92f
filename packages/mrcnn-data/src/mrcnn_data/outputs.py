"""Write output files completely or not at all, and never over a file that the product did not write.

Each folder that a command writes into keeps `.mrcnn-outputs.sha256`: a line "SHA-256  NAME" for each file written, as
`sha256sum -c` reads it. A later run replaces a file only if one of these lines still describes its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from mrcnn_data.replacing import partial_file
from mrcnn_data.text import visible

LEDGER = ".mrcnn-outputs.sha256"


class OutputError(ValueError):
    """An output that would replace a file of the user, or that cannot be written; the message names it."""


def check_outputs(paths: Iterable[str | PathLike[str]]) -> None:
    """Raise before the work is done if a file to be written exists and was not written by this product.

    Raises:
        OutputError: naming the first such file.
    """
    ledgers: dict[Path, bytes] = {}
    for path in map(Path, paths):
        if os.path.lexists(path):
            if path.parent not in ledgers:
                ledgers[path.parent] = _read_ledger(path.parent)
            _require_ours(path, ledgers[path.parent])


def write_output(path: str | PathLike[str], content: bytes) -> None:
    """Write a file in one step; its folder must exist.

    Args:
        path: may exist if an earlier call wrote it and nothing has changed it since.
        content: of the file.

    Raises:
        OutputError: the file exists and was not written by this product, or the disk refuses.
    """
    path = Path(path)
    existed = os.path.lexists(path)
    if existed:
        _require_ours(path, _read_ledger(path.parent))
    try:
        with partial_file(path.parent) as (file, partial):
            file.write(content)
            file.close()
            _append_to_ledger(path, content)
            if existed:
                partial.replace(path)
            else:
                _move_without_replacing(partial, path)
    except OSError as error:
        raise OutputError(f"{visible(str(path))} cannot be written: {error.strerror}") from error


def _append_to_ledger(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(path.parent / LEDGER, flags, 0o666), "ab") as ledger:
        ledger.write(_ledger_line(path, content))


def _move_without_replacing(partial: Path, path: Path) -> None:
    """Give a complete file its name; raise FileExistsError if another process took the name meanwhile."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links, such as FAT or a mounted bucket
        with open(path, "xb"):
            pass
        partial.replace(path)


def _require_ours(path: Path, ledger: bytes) -> None:
    if not path.is_symlink() and path.is_file():
        with contextlib.suppress(OSError):
            if b"\n" + _ledger_line(path, path.read_bytes()) in b"\n" + ledger:
                return
    raise OutputError(
        f"{visible(str(path))} exists and was not written by this command, or was changed since: "
        "choose another output, or move the file away"
    )


def _read_ledger(folder: Path) -> bytes:
    try:
        return (folder / LEDGER).read_bytes()
    except OSError:
        return b""


def _ledger_line(path: Path, content: bytes) -> bytes:
    name = path.name.replace("\\", "\\\\").replace("\n", "\\n")
    mark = b"\\" if name != path.name else b""  # sha256sum begins a line so whose name is escaped
    return mark + hashlib.sha256(content).hexdigest().encode() + b"  " + os.fsencode(name) + b"\n"
