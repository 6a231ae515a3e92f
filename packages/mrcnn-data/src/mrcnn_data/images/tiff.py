"""Tags of TIFF files, which the EXIF block of a JPEG has too: orientation and size."""

from __future__ import annotations

import struct

_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274  # TIFF 6.0, section 8; EXIF 2.3, 4.6.4


def tiff_orientation(block: bytes) -> int:
    """Read the tag from the first directory of a TIFF file or an EXIF block: 1 to 8; 1 (as stored) if there is none."""
    value = _tags(block).get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def tiff_size(block: bytes) -> tuple[int, int] | None:
    """Read (h, w) from the first directory of a TIFF file; None if it is a BigTIFF, or not in these bytes."""
    tags = _tags(block)
    return (tags[_HEIGHT], tags[_WIDTH]) if _HEIGHT in tags and _WIDTH in tags else None


def _tags(block: bytes) -> dict[int, int]:
    """Return the tags of the first directory that are one short or long number."""
    order = "<" if block.startswith(b"II") else ">"
    tags = {}
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (num_entries,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(num_entries):
            position = directory + 2 + 12 * entry
            tag, kind, count = struct.unpack_from(order + "HHI", block, position)
            if kind in (3, 4) and count == 1:
                (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), block, position + 8)
    except struct.error:
        pass  # BigTIFF, or cut off
    return tags
