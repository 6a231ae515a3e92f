"""Write a new folder completely or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
from safetensors import SafetensorError

from mrcnn_model.checkpoint import flush
from mrcnn_model.storage.cards import CheckpointError
from mrcnn_model.storage.partial_files import partial_name


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """Give a folder to fill. At the end of the block it is flushed to the disk and gets its name.

    Until then it has a random name beside the target. If the block fails or is interrupted, it is deleted; only a
    process that is killed leaves it there.

    Raises:
        CheckpointError: the target exists and is not an empty folder, or the disk refuses.
    """
    target = Path(target).resolve()  # the folder beside it needs a name, also if the path is "."
    require_new_folder(target)
    partial = target.with_name(partial_name())
    try:
        partial.mkdir(parents=True)
        try:
            yield partial
            _flush_all(partial)
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # after the rename it is not there
        flush(target.parent)
    except (OSError, SafetensorError, tf.errors.OpError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CheckpointError(f"{target} cannot be written: {reason}") from error


def require_new_folder(path: Path) -> None:
    """Require that a folder to write is not there yet, or is empty.

    Raises:
        CheckpointError: it is a file, a folder that is not empty, or a mount point, which cannot be replaced.
    """
    if os.path.ismount(path):
        raise CheckpointError(f"{path} is a mount point: choose a new folder inside it")
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise CheckpointError(f"{path} exists already: choose a new or empty folder")


def _flush_all(folder: Path) -> None:
    for path in folder.rglob("*"):
        flush(path)
    flush(folder)
