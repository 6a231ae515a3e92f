"""End a process that makes no progress, because it hangs or waits for one that hangs.

Horovod's own check, HOROVOD_STALL_SHUTDOWN_TIME_SECONDS, does not work in 0.28.1 over Gloo (seen in test_ranks.py).
Every process of a job watches itself, so all of them end.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

from mrcnn_train.errors import EXIT_PEER_LOST


class Watchdog:
    """Ends the process, after printing its stack traces, if `progress` is not called in time.

    Args:
        patience: the longest time from one call to the next, seconds.
        rank: of this process, for the message.
    """

    def __init__(self, patience: float, *, rank: int) -> None:
        self._patience = patience
        self._rank = rank
        self._stopped = threading.Event()
        self.progress()
        threading.Thread(target=self._watch, name="mrcnn-watchdog", daemon=True).start()

    def progress(self) -> None:
        """Note that the process makes progress."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """End the watch."""
        self._stopped.set()

    def _watch(self) -> None:
        while (left := self._last + self._patience - time.monotonic()) > 0:
            if self._stopped.wait(min(left, threading.TIMEOUT_MAX)):
                return
        print(
            f"{stack_traces()}"
            f"mrcnn_train: error: process {self._rank}: no step and no exchange in {self._patience / 60:g} minutes "
            "(distributed.timeout_minutes): it hangs where the lines above show, or waits there for another process",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_PEER_LOST)  # an exception would not reach the thread that hangs


def stack_traces() -> str:
    """Return where each thread of this process stands.

    As one text: the processes of a job often end at the same moment, and faulthandler writes word by word, so that
    direct output of two of them to the same file would be mixed within the lines.
    """
    file = os.memfd_create("stack traces")
    faulthandler.dump_traceback(file, all_threads=True)
    return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace")
