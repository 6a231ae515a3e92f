"""Ends a process that got nowhere for too long, because it hangs or waits for one that does.

Horovod's own check for that, HOROVOD_STALL_SHUTDOWN_TIME_SECONDS, does not act in 0.28.1 over Gloo (tried in
test_ranks.py). Every process of a job watches itself, so all of them end.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time

from mrcnn_train.errors import EXIT_PEER_LOST


class Watchdog:
    """Looks, in a thread and until `stop`, whether `progress` is called in time; else shows where the process is, and
    ends it.

    Args:
        patience: seconds from one call to the next.
        rank: for the message.
    """

    def __init__(self, patience: float, *, rank: int) -> None:
        self._patience = patience
        self._rank = rank
        self._stopped = threading.Event()
        self.progress()
        threading.Thread(target=self._watch, name="mrcnn-watchdog", daemon=True).start()

    def progress(self) -> None:
        """Note that the process gets on."""
        self._last = time.monotonic()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()

    def _watch(self) -> None:
        while (left := self._last + self._patience - time.monotonic()) > 0:
            if self._stopped.wait(min(left, threading.TIMEOUT_MAX)):
                return
        faulthandler.dump_traceback(all_threads=True)
        print(
            f"mrcnn_train: error: process {self._rank}: no step and no exchange in {self._patience / 60:g} minutes: it "
            "hangs where the lines above say, or waits there for one that hangs (distributed.timeout_minutes)",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_PEER_LOST)  # the thread that hangs would not notice anything softer
