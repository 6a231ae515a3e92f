"""What ends a run with one line instead of a traceback."""

EXIT_PEER_LOST = 3  # of a process that ended because another one did


class ConfigError(ValueError):
    """A request that cannot be carried out: the message names the option and what is wrong, in one line."""


class DivergedError(RuntimeError):
    """A loss that is not finite: the message names step, loss and images, in one line."""


class PeerLostError(RuntimeError):
    """Another process of the job ended or froze: whatever happened, it happened there first."""


class SaveError(RuntimeError):
    """The run directory cannot be written any more; checkpoints written before are whole."""
