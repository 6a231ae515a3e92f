"""SIGTERM and Ctrl-C: acknowledged at once, acted on between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

NAMES: dict[int, str] = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
INTERRUPTED = 128 + signal.SIGINT  # exit code
CLEAR_BAR = b"\r\x1b[K\x1b[?25h"  # clears the line of a progress bar, and shows the cursor that it hides


class StopRequested(BaseException):
    """Ends a run because of a signal. Like KeyboardInterrupt, `except Exception` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {NAMES[number]}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells report it (143 and 130): a pre-empted job must not look finished."""
        return 128 + self.number


def exit_on_interrupt() -> None:
    """Let Ctrl-C end this process with one line and code 130. A command calls this before its imports."""
    signal.signal(signal.SIGINT, _exit_with_line)


def _exit_with_line(number: int, frame: FrameType | None) -> NoReturn:
    # Not KeyboardInterrupt: extension modules that are being imported turn it into other errors, with tracebacks.
    os.write(2, b"mrcnn_train: interrupted\n")  # print could fail, as it may have been interrupted itself
    _exit()


def _exit() -> NoReturn:
    if os.isatty(1):
        os.write(1, CLEAR_BAR)
    os._exit(INTERRUPTED)


class StopSignals:
    """A context in which the first SIGTERM or SIGINT is noted instead of ending the process.

    Python calls signal handlers between two of its own instructions, which may be a minute later while TensorFlow
    compiles. So a thread acknowledges the signals: one line for the first, and one for a second Ctrl-C, which ends a
    command at once; for a caller of `run` it raises KeyboardInterrupt.

    Args:
        speaks: whether this process prints these lines.

    Attributes:
        received: number of the signal; None before one arrives.
        describe_resume: returns how to continue the run, for the line of the second Ctrl-C.
    """

    def __init__(self, *, speaks: bool = True) -> None:
        self.received: int | None = None
        self.describe_resume: Callable[[], str] = lambda: "there is no checkpoint"
        self._speaks = speaks
        self._plan = "stopping before the first step"
        self._raises = False
        self._previous: dict[int, object] = {}
        self._has_spoken = threading.Event()

    def wait_for_first_line(self) -> None:
        """Wait until the first signal is acknowledged, so that later lines come after that one."""
        self._has_spoken.wait(timeout=10)

    def raise_if_received(self) -> None:
        if self.received is not None:
            raise StopRequested(self.received)

    def steps_begin(self) -> None:
        """Note that from now on the run stops after a step, with a checkpoint."""
        self._plan = "stopping after this step, with a checkpoint"

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Raise StopRequested as soon as a signal arrives in this context, in which no step is done."""
        self.raise_if_received()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def __enter__(self) -> StopSignals:
        for number in NAMES:
            self._previous[number] = signal.signal(number, self._note)
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._listener = threading.Thread(target=self._listen, name="mrcnn-signals", daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.set_wakeup_fd(self._previous_writer)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._writer)
        self._listener.join()
        os.close(self._reader)

    @property
    def _is_command(self) -> bool:
        return self._previous[signal.SIGINT] is _exit_with_line

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
            if self._raises:
                raise StopRequested(number)
        elif number == signal.SIGINT and not self._is_command:
            raise KeyboardInterrupt

    def _listen(self) -> None:
        """Read the numbers of signals, which Python writes to the pipe when they arrive."""
        is_first = True
        while numbers := os.read(self._reader, 1):
            number = numbers[0]
            if number not in NAMES:
                continue
            if is_first:
                again = " again" if number == signal.SIGINT else ""
                self._say(f"{NAMES[number]}: {self._plan}; press Ctrl-C{again} to stop now")
            elif number == signal.SIGINT:
                self._say(f"interrupted; {self.describe_resume()}")
                if self._is_command:
                    _exit()
            is_first = False
            self._has_spoken.set()

    def _say(self, line: str) -> None:
        if self._speaks:
            print(f"mrcnn_train: {line}", file=sys.stderr, flush=True)
