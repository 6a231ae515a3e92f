"""Image files to RGB uint8 arrays, with errors that name the file."""

from __future__ import annotations

import struct
from os import PathLike

import cv2
import numpy as np

from mrcnn_data.errors import DatasetError

_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_TURNED_UPRIGHT = cv2.IMREAD_COLOR_RGB


def load_image(path: str | PathLike[str], *, expected_size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image as RGB: grey is repeated, alpha ignored, palette and CMYK converted, 16 bits scaled to 8.

    Orientation (EXIF, or TIFF's own tag): pixels are taken as stored, as COCO does. Only where `expected_size` is not
    the stored size but that of the upright image, the orientation is applied.

    Args:
        path: JPEG, PNG, BMP, TIFF or WebP file.
        expected_size: (h, w) that the annotations give.
    Returns:
        uint8 [h, w, 3] RGB.
    Raises:
        DatasetError: the file is missing, empty, cut off, no image, or of another size than expected.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the image file: {error.strerror}") from None
    if not data:
        raise DatasetError(f"{path}: the image file is empty")
    if _is_cut_off(data):
        raise DatasetError(f"{path}: the image file is cut off (its end marker is missing)")
    image = _as_stored(_decode(path, data, _STORED), data)
    if expected_size is None or image.shape[:2] == expected_size:
        return image
    stored_size = image.shape[:2]
    if stored_size == expected_size[::-1]:
        image = _decode(path, data, _TURNED_UPRIGHT)
        if image.shape[:2] == expected_size:
            return image
    raise DatasetError(
        f"{path}: the image is {stored_size[1]} x {stored_size[0]} pixels (width x height), the annotations say "
        f"{expected_size[1]} x {expected_size[0]}"
        + ("; was an EXIF orientation applied or lost?" if stored_size == expected_size[::-1] else "")
    )


def _decode(path: str | PathLike[str], data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DatasetError(f"{path}: cannot decode the image file: {error.err}") from None
    if image is None:
        raise DatasetError(f"{path}: cannot decode the image file")
    return image


def _as_stored(image: np.ndarray, data: bytes) -> np.ndarray:
    """Undo the orientation of TIFF files, which OpenCV applies whatever its flags say."""
    orientation = _tiff_orientation(data) if data[:2] in (b"II", b"MM") else 1
    if orientation >= 5:
        image = np.transpose(image, (1, 0, 2))
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _tiff_orientation(data: bytes) -> int:
    """Read tag 274 of the first directory (TIFF 6.0, section 2): 1 to 8, 1 where there is none."""
    order = "<" if data.startswith(b"II") else ">"
    try:
        (directory,) = struct.unpack_from(order + "I", data, 4)
        (num_entries,) = struct.unpack_from(order + "H", data, directory)
        for entry in range(num_entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", data, directory + 2 + 12 * entry)
            if tag == 274:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # BigTIFF, or cut off
    return 1


def _is_cut_off(data: bytes) -> bool:
    """OpenCV returns a partly grey image for a JPEG without its end, and only prints a warning."""
    if data.startswith(b"\xff\xd8"):
        # Inside entropy-coded data ff is followed by 00 or a restart marker, so these two-byte markers are real ones.
        # A thumbnail has its own end, but before the start of scan (ff da) of the image proper.
        return not data.endswith(b"\xff\xd9") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    return False
