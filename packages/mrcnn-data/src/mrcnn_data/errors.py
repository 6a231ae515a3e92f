"""The errors that a user can cause, by data or by options, and checks of options that several modules share.

Any other exception is a fault of the program.
"""

from mrcnn_data.text import visible

_MAX_MESSAGE = 2000  # characters: several paths of full length


class DatasetError(ValueError):
    r"""Annotations or images that cannot be used: one line that names the file, the annotation or the option.

    Names from files are shown with escapes:

    >>> str(DatasetError("a\x1b[2J.png: the image file is empty"))
    'a\\x1b[2J.png: the image file is empty'
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(message, limit=_MAX_MESSAGE))


class OptionError(ValueError):
    """An option, or a combination of options, that cannot work; the message names it and its value."""


def require_at_least(least: int, **options: int) -> None:
    """Raise OptionError for the first option below `least`."""
    for name, value in options.items():
        if value < least:
            raise OptionError(f"{name}={value} must be at least {least}")


def require_on_error(on_error: str) -> None:
    """Raise OptionError unless `on_error`, what to do with unusable image files, is "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise OptionError(f"on_error={on_error!r} must be 'raise' or 'skip'")


def require_rank(rank: int, num_ranks: int) -> None:
    """Raise OptionError unless `rank` is one of 0 to `num_ranks` - 1."""
    if not 0 <= rank < num_ranks:
        raise OptionError(f"rank={rank} must be at least 0 and below num_ranks={num_ranks}")
