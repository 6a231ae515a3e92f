"""The link of a process to its launcher: a pipe on standard input.

The launcher writes signals to it. When the launcher ends, for whatever reason and on whatever host, the pipe is closed,
and the process stops.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import MutableMapping

LINKED = "MRCNN_LAUNCHER_LINK"  # set in processes whose standard input is such a pipe
GRACE = 60.0  # seconds to write a last checkpoint after the launcher has ended


def signal_line(number: int) -> bytes:
    """Return the line by which a launcher sends a signal to a process."""
    return b"signal %d\n" % number


def follow_launcher(environment: MutableMapping[str, str] = os.environ) -> None:
    """Start a thread that receives the launcher's signals, and stops this process when the launcher has ended.

    Do nothing in a process that `launch` did not start. The variable is removed, so that programs that this process
    starts do not look for a link.
    """
    if environment.pop(LINKED, None) is None:
        return
    descriptor = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # other code that reads standard input must not take bytes from the pipe
    os.close(null)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_follow, args=(descriptor,), name="mrcnn-launcher", daemon=True).start()


def _follow(descriptor: int) -> None:
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        for line in iter(pipe.readline, b""):
            os.kill(os.getpid(), int(line.removeprefix(b"signal ")))
    print("mrcnn_train: the launcher of this process has ended: stopping", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # the run saves a checkpoint, as after any SIGTERM
    threading.Event().wait(GRACE)
    os._exit(128 + signal.SIGTERM)
