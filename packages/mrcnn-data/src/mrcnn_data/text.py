"""Show text that comes from files: names, paths and ids are data, and must not control a terminal."""

from __future__ import annotations

import unicodedata

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # Unicode categories: controls, direction marks, line separators


def visible(text: object, *, limit: int = 300) -> str:
    r"""Return text for one line of output: control and direction characters as escapes, the middle of long text cut.

    Args:
        text: of any type; it is converted by `str`.
        limit: of longer text only about this many characters are kept, from the beginning and the end.

    Returns:
        Text without line breaks:

        >>> print(visible("a\x1b[2J\nb"))
        a\x1b[2J\nb
    """
    whole = str(text)
    if len(whole) > limit:
        kept = (limit - 5) // 2
        whole = f"{whole[:kept]} ... {whole[-kept:]}"
    return "".join(_escaped(c) if unicodedata.category(c) in UNSEEN else c for c in whole)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
