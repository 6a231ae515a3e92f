"""The link of a process to its launcher: a pipe on standard input, over which stop requests travel and whose end tells
that the launcher is gone, however it ended and on whatever host.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import MutableMapping

LINKED = "MRCNN_LAUNCHER_LINK"  # set in processes whose standard input is such a pipe
GRACE = 60.0  # seconds for a last checkpoint when the launcher is gone


def signal_line(number: int) -> bytes:
    """Return what a launcher writes to make a process obey a signal."""
    return b"signal %d\n" % number


def follow_launcher(environment: MutableMapping[str, str] = os.environ) -> None:
    """Obey the launcher, in a thread: stop when it says so, or when it is gone.

    Does nothing in a process that `launch` did not start. The variable is removed, so that children of this process
    are not taken for processes of the job.
    """
    if environment.pop(LINKED, None) is None:
        return
    descriptor = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # nothing else reads from the pipe
    os.close(null)
    os.set_inheritable(descriptor, False)
    threading.Thread(target=_follow, args=(descriptor,), name="mrcnn-launcher", daemon=True).start()


def _follow(descriptor: int) -> None:
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        for line in iter(pipe.readline, b""):
            os.kill(os.getpid(), int(line.removeprefix(b"signal ")))
    print("mrcnn_train: the launcher of this process is gone: stopping", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)  # the run notes it and saves, as after any SIGTERM
    threading.Event().wait(GRACE)
    os._exit(128 + signal.SIGTERM)
