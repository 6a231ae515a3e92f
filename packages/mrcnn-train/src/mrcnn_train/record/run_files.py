"""Write files of a run in one step, and keep files of the user that have the same names."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from mrcnn_data import OutputError, check_outputs, replaced, visible, write_output


def write_run_file(path: Path, content: str | bytes) -> None:
    """Write a file that only this package writes, in one step; `set_aside` keeps a file of the user.

    Raises:
        OutputError: the disk refuses.
    """
    set_aside([path])
    write_output(path, content.encode() if isinstance(content, str) else content)


def replace_text(path: Path, text: str) -> None:
    """Replace a file that the run continues to write: completely or not at all, also if the power fails."""
    with replaced(path, flush=True) as file:
        file.write(text.encode())


def set_aside(paths: Iterable[Path]) -> None:
    """Rename those of the files that this product did not write, or that were changed since; print a line for each.

    Version 0.1 did not record which files it wrote, so files of its runs are renamed, too.
    """
    for path in paths:
        try:
            check_outputs([path])
        except OutputError:
            kept = name_until_now(path)
            path.rename(kept)
            print(
                f"note: {visible(path, limit=2000)} was not written by this version, or was changed: kept as "
                f"{visible(kept.name)}",
                flush=True,
            )


def name_until_now(path: Path) -> Path:
    """Return a new name for a file that is replaced: NAME-until-TIME, with a number if there is such a file."""
    stem = f"{path.stem}-until-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    kept, number = path.with_name(stem + path.suffix), 1
    while os.path.lexists(kept):
        number += 1
        kept = path.with_name(f"{stem}_{number}{path.suffix}")
    return kept
