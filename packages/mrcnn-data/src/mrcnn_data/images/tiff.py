"""Tags of TIFF files, some of which the EXIF block of a JPEG has too."""

from __future__ import annotations

import struct

# TIFF 6.0, section 8; EXIF 2.3, 4.6.4
_WIDTH, _HEIGHT, _BITS, _ORIENTATION, _FORMAT = 256, 257, 258, 274, 339
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # values of the tag SampleFormat
_MOST_PAGES = 10_000


def tiff_orientation(block: bytes) -> int:
    """Read the tag from the first directory of a TIFF file or an EXIF block: 1 to 8; 1 (as stored) if there is none."""
    value = _tags(block).get(_ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def tiff_size(block: bytes) -> tuple[int, int] | None:
    """Read (h, w) from the first directory of a TIFF file; None if it is a BigTIFF, or not in these bytes."""
    tags = _tags(block)
    return (tags[_HEIGHT], tags[_WIDTH]) if _HEIGHT in tags and _WIDTH in tags else None


def tiff_number_type(block: bytes) -> str:
    """Return the type of the pixels on the first page of a TIFF file, such as "uint16", "int16" or "float32"."""
    tags = _tags(block)
    kind = {_SIGNED: "int", _FLOAT: "float"}.get(tags.get(_FORMAT, _UNSIGNED), "uint")
    return f"{kind}{tags.get(_BITS, 1)}"


def tiff_pages(data: bytes) -> int:
    """Count the directories of a whole TIFF file: its pages, or the same picture in several sizes."""
    order = _order(data)
    seen: set[int] = set()
    try:
        (directory,) = struct.unpack_from(order + "I", data, 4)
        while directory and directory not in seen and len(seen) < _MOST_PAGES:
            seen.add(directory)
            (num_entries,) = struct.unpack_from(order + "H", data, directory)
            (directory,) = struct.unpack_from(order + "I", data, directory + 2 + 12 * num_entries)
    except struct.error:
        pass  # BigTIFF, or cut off
    return max(len(seen), 1)


def _order(block: bytes) -> str:
    return "<" if block.startswith(b"II") else ">"


def _tags(block: bytes) -> dict[int, int]:
    """Return the tags of the first directory that are short or long numbers; of several numbers, the first."""
    order = _order(block)
    tags = {}
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (num_entries,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(num_entries):
            position = directory + 2 + 12 * entry
            tag, kind, count = struct.unpack_from(order + "HHI", block, position)
            if kind not in (3, 4) or not count:
                continue
            position += 8
            if count * (2 if kind == 3 else 4) > 4:  # the field has the place of the numbers
                (position,) = struct.unpack_from(order + "I", block, position)
            (tags[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), block, position)
    except struct.error:
        pass  # BigTIFF, or cut off
    return tags
