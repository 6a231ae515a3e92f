"""Size and orientation of an image file from its first and last bytes, which is much faster than decoding it.

In every other case (another format, a missing end) the answer is None, and `load_image` has to decide.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

from mrcnn_data.images.raw import read_ends
from mrcnn_data.images.tiff import tiff_orientation, tiff_size

_HEAD = 64 * 1024  # bytes: headers with an EXIF block
_TAIL = 12
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, of any coding


class ImageHeader(NamedTuple):
    """`size` (h, w) as stored; `orientation` of EXIF, 1 = as stored."""

    size: tuple[int, int]
    orientation: int


def read_header(path: Path) -> ImageHeader | None:
    """Read the header of a complete JPEG, PNG, BMP or WebP file; return None for anything else."""
    try:
        return _header(*read_ends(path, head=_HEAD, tail=_TAIL))
    except (OSError, struct.error):
        return None


def stored_size(data: bytes) -> tuple[int, int] | None:
    """Return the (h, w) that a whole file promises in its header, as stored; None if it is not found there."""
    if data[:2] in (b"II", b"MM"):
        return tiff_size(data)
    try:
        header = _header(data[:_HEAD], data[-_TAIL:], len(data))
    except struct.error:
        return None
    return header.size if header else None


def _header(head: bytes, tail: bytes, num_bytes: int) -> ImageHeader | None:
    if head.startswith(b"\xff\xd8"):
        return _jpeg_header(head) if tail.endswith(b"\xff\xd9") else None
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack_from(">II", head, 16)
        # An EXIF block behind the pixels of a PNG is not seen.
        return ImageHeader((height, width), 1) if b"IEND" in tail and b"eXIf" not in head else None
    if head.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", head, 18)
        return ImageHeader((abs(height), width), 1) if struct.unpack_from("<I", head, 2)[0] == num_bytes else None
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        size = _webp_size(head)
        is_whole = struct.unpack_from("<I", head, 4)[0] + 8 <= num_bytes
        return ImageHeader(size, 1) if size and is_whole else None
    return None


def _jpeg_header(head: bytes) -> ImageHeader | None:
    position, orientation = 2, 1
    while True:
        marker, length = struct.unpack_from(">HH", head, position)
        if marker >> 8 != 0xFF:
            return None
        if marker == 0xFFE1 and head[position + 4 : position + 10] == b"Exif\0\0":
            orientation = tiff_orientation(head[position + 10 : position + 2 + length])
        if marker & 0xFF in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", head, position + 5)
            return ImageHeader((height, width), orientation)
        position += 2 + length


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Read (h, w) of a simple file, lossy (RFC 6386, 9.1) or lossless; an extended one may have an orientation."""
    if head[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return height & 0x3FFF, width & 0x3FFF
    if head[12:16] == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return None
