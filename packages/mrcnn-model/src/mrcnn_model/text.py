"""Show text that comes from files or the command line. Not that of mrcnn_data, which this package does not need."""


def visible(text: object) -> str:
    """Escape control and direction characters, which names may hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
