"""Write the files that commands leave: whole or not at all, and never over a file that the product did not write.

Each folder that a command writes into keeps `.mrcnn-outputs.sha256`: a line "SHA-256  NAME" for each file written, as
`sha256sum -c` reads it. A later run replaces a file only where its content is still one of those lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from mrcnn_data.text import visible

LEDGER = ".mrcnn-outputs.sha256"


class OutputError(ValueError):
    """An output that would replace a file of the user's, or that cannot be written; the message names it."""


def check_outputs(paths: Iterable[str | PathLike[str]]) -> None:
    """Raise before the work is done where a file to be written exists and was not written by this product.

    Raises:
        OutputError: naming the first such file.
    """
    ledgers: dict[Path, set[tuple[str, str]]] = {}
    for path in map(Path, paths):
        ledger = ledgers.setdefault(path.parent, _read_ledger(path.parent))
        _require_ours(path, ledger)


def write_output(path: str | PathLike[str], content: bytes) -> None:
    """Write a file in one step; its folder must exist.

    Args:
        path: may exist where an earlier call wrote it and nothing changed it since.

    Raises:
        OutputError: the file exists and is not one that this product wrote, or the disk refuses.
    """
    path = Path(path)
    _require_ours(path, _read_ledger(path.parent))
    existed = os.path.lexists(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", suffix=".partial", dir=path.parent)
        partial = Path(name)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            partial.chmod(0o666 & ~_umask())
            with open(path.parent / LEDGER, "a", encoding="utf-8", errors="surrogateescape") as ledger:
                ledger.write(f"{hashlib.sha256(content).hexdigest()}  {_ledger_name(path)}\n")
            if existed:
                partial.replace(path)
            else:
                os.link(partial, path)  # fails where another process wrote the file meanwhile
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{visible(str(path))} cannot be written: {error.strerror}") from error


def _require_ours(path: Path, ledger: set[tuple[str, str]]) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_symlink() and path.is_file():
        with contextlib.suppress(OSError):
            if (hashlib.sha256(path.read_bytes()).hexdigest(), _ledger_name(path)) in ledger:
                return
    raise OutputError(
        f"{visible(str(path))} exists and was not written by this command, or was changed since: "
        "choose another output, or move the file away"
    )


def _read_ledger(folder: Path) -> set[tuple[str, str]]:
    """Return (SHA-256, name) of the files written into a folder."""
    try:
        lines = (folder / LEDGER).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return set()
    return {(digest, name) for digest, _, name in (line.partition("  ") for line in lines) if name}


def _ledger_name(path: Path) -> str:
    return path.name.replace("\\", "\\\\").replace("\n", "\\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
