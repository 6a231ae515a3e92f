"""SIGTERM and Ctrl-C: noted when they arrive, acted on between two steps."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequested(Exception):
    """Ends a run because of a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + signal, as shells report it (143 and 130): a pre-empted job must not look finished."""
        return 128 + self.number


class StopSignals:
    """A context in which the first SIGTERM or SIGINT is noted instead of ending the process.

    A second Ctrl-C raises KeyboardInterrupt at once, without a checkpoint.

    Attributes:
        received: number of the signal; None before one arrives.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def raise_if_received(self) -> None:
        if self.received is not None:
            raise StopRequested(self.received)

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
