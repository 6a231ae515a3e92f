"""Report a full or lost disk in one line."""

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
    """Turn an error of the disk into SaveError, which names the last complete checkpoint in `run_dir`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise SaveError(_message(run_dir, error.strerror or FULL)) from error
    except OutputError as error:  # a table or picture of an evaluation
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        raise SaveError(_message(run_dir, reason or str(error))) from error
    except Exception as error:
        # TensorBoard's writer raises one of TensorFlow's errors, which contains the message of the system.
        if not type(error).__module__.startswith("tensorflow") or FULL not in str(error):
            raise
        raise SaveError(_message(run_dir, FULL)) from error


def _message(run_dir: Path, reason: str) -> str:
    return f"{run_dir} cannot be written: {reason}; {describe_resume(run_dir)}"
