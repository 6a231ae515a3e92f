"""How the commands of this package print and end. Not shared with mrcnn_data, which this package does not need."""

import io
import os
import sys
from collections.abc import Callable

CLOSED_PIPE = 141  # 128 + SIGPIPE: what a shell reports if the reader of a program's output has left
INTERRUPTED = 130  # 128 + SIGINT


def visible(text: object) -> str:
    """Escape control and direction characters, which names may hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def run_command(work: Callable[[], None], *, errors: tuple[type[Exception], ...]) -> int:
    """Run a command and return its exit code.

    Args:
        work: parses the arguments and does what they say.
        errors: faults of the input; one is printed as one line.

    Returns:
        0; 1 after one of `errors`; 130 if interrupted; 141, without a message, if the reader of the output has left.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may have characters that a terminal lacks
    try:
        try:
            work()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, which would fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return CLOSED_PIPE
    except errors as error:
        print(f"error: {visible(_message(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _message(error: Exception) -> object:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return error
