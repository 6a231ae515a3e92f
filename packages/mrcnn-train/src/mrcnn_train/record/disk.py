"""Report a full or lost disk, or a run directory that is gone, in one line."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from mrcnn_data import OutputError
from mrcnn_train.config.going_on import describe_resume
from mrcnn_train.errors import SaveError

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
FULL = "No space left on device"


@contextlib.contextmanager
def disk_errors(run_dir: Path) -> Iterator[None]:
    """Turn an error of the disk into SaveError, which names the last complete checkpoint in `run_dir`.

    Only for the process that writes the directory: on other hosts it need not exist.
    """
    try:
        yield
    except Exception as error:
        # TensorBoard's writer raises one of TensorFlow's errors, which contains the message of the system.
        is_of_tensorflow = type(error).__module__.startswith("tensorflow")
        if not is_of_tensorflow and not isinstance(error, OSError | OutputError | SaveError):
            raise
        if not run_dir.is_dir():
            raise SaveError(
                f"{run_dir} is gone: it was deleted, moved or unmounted while the run wrote to it"
            ) from error
        reason = _reason(error)
        if reason is None:
            raise
        raise SaveError(f"{run_dir} cannot be written: {reason}; {describe_resume(run_dir)}") from error


def _reason(error: Exception) -> str | None:
    """Return what the disk refused; None if the error is another one, or explains itself."""
    if isinstance(error, OSError):
        return error.strerror or FULL if error.errno in DISK_ERRORS else None
    if isinstance(error, OutputError):  # a table or picture of an evaluation
        return error.__cause__.strerror if isinstance(error.__cause__, OSError) else str(error)
    return FULL if FULL in str(error) and not isinstance(error, SaveError) else None
