"""The counts of COCO's run-length code: as text, as text that a tool has escaped once more, and as lists."""

from __future__ import annotations

import ast
import base64
import binascii
import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np


def decode_counts(text: str, *, total: int) -> tuple[np.ndarray | None, bool]:
    """Decode compressed counts.

    Args:
        text: as in the file. Some tools write it with doubled backslashes, as Python's b'...', or in base64; this is
            undone if the runs then fill the image exactly.
        total: pixels of the image.
    Returns:
        int64 run lengths that sum to `total`, or None; and whether the text had to be changed for it: then False.
    """
    runs = _filling(text, total=total)
    if runs is not None:
        return runs, True
    for undone in _undone(text):
        runs = _filling(undone, total=total)
        if runs is not None:
            return runs, False
    return None, True


def is_filling(runs: np.ndarray, *, total: int) -> bool:
    """Return whether run lengths are a partition of `total` pixels."""
    # Each count is checked before the sum, which could overflow.
    return bool(runs.size and runs.min() >= 0 and runs.max() <= total and runs.sum() == total)


def _filling(text: str, *, total: int) -> np.ndarray | None:
    try:
        runs = _decode_text(text.encode())
    except ValueError:
        return None
    return runs if is_filling(runs, total=total) else None


def _undone(text: str) -> Iterator[str]:
    """Give what a text may have been before a tool wrote it in another way."""
    if text[:2] in ("b'", 'b"'):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = None
        if isinstance(value, bytes):
            yield value.decode("latin-1")
        text = text[2:-1]
        yield text
    if "\\\\" in text:
        yield text.replace("\\\\", "\\")
    with contextlib.suppress(binascii.Error, ValueError):
        yield base64.b64decode(text, validate=True).decode("latin-1")


def whole_numbers(values: Any) -> np.ndarray | None:
    """Return the int64 array of a list of whole numbers, which may be floats or text; None for anything else."""
    try:
        if isinstance(values, list) and all(type(value) is int or float(value).is_integer() for value in values):
            return np.array([int(float(value)) if isinstance(value, str) else value for value in values], np.int64)
    except (TypeError, ValueError, OverflowError):
        pass
    return None


def _decode_text(text: bytes) -> np.ndarray:
    """Undo COCO's compression: 5 bits a character, low bits first, bit 5 = more follows, bit 4 of the last = negative;
    from the fourth count on, the difference to the count two before.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if codes.size == 0 or codes.min() < 0 or codes.max() > 63:
        raise ValueError("not a COCO count string")
    is_last = (codes & 0x20) == 0
    if not is_last[-1]:
        raise ValueError("COCO count string is cut off")
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))  # [number of counts]
    lengths = np.diff(np.append(starts, codes.size))
    if lengths.max() > 12:  # 60 bits
        raise ValueError("COCO count string holds a count beyond 60 bits")
    shift = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    counts = np.add.reduceat((codes & 0x1F) << shift, starts)
    negative = (codes[is_last] & 0x10) != 0
    counts[negative] -= np.int64(1) << (5 * lengths[negative])
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
