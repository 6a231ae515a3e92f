"""Import TensorFlow without its log lines on stderr, which would hide the messages of a command."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def import_tensorflow_quietly() -> None:
    """Import TensorFlow without its log lines; if TF_CPP_MIN_LOG_LEVEL is set, that level decides."""
    if LOG_LEVEL in os.environ:
        import tensorflow
    else:
        os.environ[LOG_LEVEL] = "3"
        # Without CUDA drivers TensorFlow 2.21 logs four lines before its log level takes effect (cudart_stub.cc).
        with _stderr_held():
            import tensorflow  # noqa: F401


@contextlib.contextmanager
def _stderr_held() -> Iterator[None]:
    """Hold back what C++ code writes to stderr; write it out if an exception ends the block."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(original, held.read())
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
