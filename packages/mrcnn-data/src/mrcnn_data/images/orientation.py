"""The orientation that a camera stores: the same tag in TIFF files and in the EXIF block of a JPEG."""

from __future__ import annotations

import struct

_TAG = 274  # Orientation (TIFF 6.0, section 8; EXIF 2.3, 4.6.4)


def tiff_orientation(block: bytes) -> int:
    """Read the tag from the first directory of a TIFF file or an EXIF block: 1 to 8; 1 (as stored) if there is none."""
    order = "<" if block.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (num_entries,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(num_entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", block, directory + 2 + 12 * entry)
            if tag == _TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # BigTIFF, or cut off
    return 1
