"""The errors that a user can cause: by data, and by options. Anything else that is raised is a fault of the program."""

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
