"""Errors that end a run with one line instead of a traceback."""

EXIT_PEER_LOST = 3  # of a process that ended because another one failed


class ConfigError(ValueError):
    """An option that cannot work, or input that does not fit. The text names it and says what to do.

    Args:
        faults: usually one. The command prints a line for each.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class DivergedError(RuntimeError):
    """A loss that is not finite. The text names step, loss and images."""


class PeerLostError(RuntimeError):
    """Another process of the job failed or froze first. That process prints the cause."""


class SaveError(RuntimeError):
    """The run directory can no longer be written. Earlier checkpoints are complete."""
