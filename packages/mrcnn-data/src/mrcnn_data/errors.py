"""The error a user's data can cause."""


class DatasetError(ValueError):
    """Annotations or images that cannot be used; one line naming file, annotation or option."""
