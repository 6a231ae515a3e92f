"""Output of commands: into a pipe that may be closed early, as in `mrcnn-data stats ROOT train | head -1`, or to a
terminal with few characters.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

CLOSED_PIPE = 141  # 128 + SIGPIPE: what a shell reports for a program that writes to a closed pipe


def print_any_text() -> None:
    """Make stdout and stderr replace characters that they cannot encode by their codes, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_piped(run: Callable[[], int]) -> int:
    """Run a command; if the program that reads its output ends first, end the command without a message.

    Characters that a terminal lacks are replaced (`print_any_text`).

    Args:
        run: the command; it lets BrokenPipeError pass.

    Returns:
        The exit code of `run`, or 141 if the reader has ended.
    """
    print_any_text()
    try:
        try:
            return run()
        finally:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, which would fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return CLOSED_PIPE


def open_console() -> Console:
    """Return a rich console for tables on stdout that leaves a closed pipe to `run_piped`."""
    from rich.console import Console

    class PipedConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would end the process with code 1
            raise BrokenPipeError

    return PipedConsole()
