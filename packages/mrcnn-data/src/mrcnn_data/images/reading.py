"""Image files to RGB uint8 arrays, with errors that name the file."""

from __future__ import annotations

from os import PathLike

import cv2
import numpy as np

from mrcnn_data.errors import DatasetError
from mrcnn_data.images.header import stored_size
from mrcnn_data.images.raw import open_regular
from mrcnn_data.images.tiff import tiff_number_type, tiff_orientation

MAX_PIXELS = 1 << 29  # of an image: 1.6 GB in memory
READING_THREADS = 8  # to read many files: threads mostly wait for a disk or a network
# GeoTIFF files have tags that OpenCV does not have names for, and it would print a warning for each.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_TURNED_UPRIGHT = cv2.IMREAD_COLOR_RGB


def load_image(
    path: str | PathLike[str], *, expected_size: tuple[int, int] | None = None, upright: bool = False
) -> np.ndarray:
    """Read an image as RGB: grey is repeated, alpha ignored, palette and CMYK converted, 16 bits scaled to 8.

    Orientation (of EXIF, or the tag of TIFF): pixels are taken as stored, as COCO does. The orientation is applied only
    if `expected_size` differs from the stored size and equals the size of the upright image, or with `upright`.

    Args:
        path: JPEG, PNG, BMP, TIFF or WebP file.
        expected_size: (h, w) that the annotations give.
        upright: turn the image as its orientation says, as viewers show it; `expected_size` is then of the upright
            image.
    Returns:
        uint8 [h, w, 3] RGB.
    Raises:
        DatasetError: the file is missing, empty, cut off, not an image, or of another size than expected.
    """
    return decode_image(path, read_image_file(path), expected_size=expected_size, upright=upright)


def decode_image(
    path: str | PathLike[str], data: bytes, *, expected_size: tuple[int, int] | None = None, upright: bool = False
) -> np.ndarray:
    """Decode the content of an image file, `path` for messages; see `load_image`."""
    if is_tiff(data):
        _check_number_type(path, data)
    promised = stored_size(data)
    if promised is not None:
        _check_size(path, promised, expected_size)
    image = _decode(path, data, _TURNED_UPRIGHT) if upright else decode_as_stored(path, data, _STORED)
    if expected_size is None or image.shape[:2] == expected_size:
        return image
    size = image.shape[:2]
    _check_size(path, size, expected_size)
    image = image if upright else _decode(path, data, _TURNED_UPRIGHT)
    if image.shape[:2] == expected_size:
        return image
    raise DatasetError(f"{_size_differs(path, size, expected_size)}; was an EXIF orientation applied or lost?")


def is_tiff(data: bytes) -> bool:
    """Return whether a file begins as TIFF files do."""
    return data[:4] in (b"II*\0", b"MM\0*")


def _check_number_type(path: str | PathLike[str], data: bytes) -> None:
    """Raise DatasetError for pixels that OpenCV would turn into others without a word."""
    kind = tiff_number_type(data)
    if kind not in ("uint1", "uint2", "uint4", "uint8", "uint16"):
        raise DatasetError(
            f"{path}: the pixels are {kind}, but only unsigned integers of up to 16 bits can be loaded: convert the "
            "images, and stretch their values to 0 to 255"
        )


def _check_size(path: str | PathLike[str], size: tuple[int, int], expected_size: tuple[int, int] | None) -> None:
    """Raise DatasetError if an image is too large, or of another size than expected, also when turned."""
    if size[0] * size[1] > MAX_PIXELS:
        raise DatasetError(
            f"{path}: the image is {size[1]} x {size[0]} pixels (width x height), more than the "
            f"{MAX_PIXELS} pixels that can be loaded: cut it into tiles"
        )
    if expected_size is not None and sorted(size) != sorted(expected_size):
        raise DatasetError(_size_differs(path, size, expected_size))


def _size_differs(path: str | PathLike[str], size: tuple[int, int], expected_size: tuple[int, int]) -> str:
    return (
        f"{path}: the image is {size[1]} x {size[0]} pixels (width x height), the annotations say "
        f"{expected_size[1]} x {expected_size[0]}"
    )


def read_image_file(path: str | PathLike[str]) -> bytes:
    """Return the content of an image file.

    Raises:
        DatasetError: the file is missing, empty or cut off.
    """
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the image file: {error.strerror}") from None
    if not data:
        raise DatasetError(f"{path}: the image file is empty")
    if _is_cut_off(data):
        raise DatasetError(f"{path}: the image file is cut off (its end marker is missing)")
    return data


def decode_as_stored(path: str | PathLike[str], data: bytes, flags: int) -> np.ndarray:
    """Decode an image with flags of `cv2.imread`, but without the orientation that OpenCV always applies to TIFF.

    Raises:
        DatasetError: naming `path`, if OpenCV cannot decode `data`.
    """
    image = _decode(path, data, flags)
    orientation = tiff_orientation(data) if is_tiff(data) else 1
    if orientation >= 5:
        image = np.swapaxes(image, 0, 1)
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _decode(path: str | PathLike[str], data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DatasetError(f"{path}: cannot decode the image file: {error.err}") from None
    if image is None:
        raise DatasetError(f"{path}: cannot decode the image file")
    return image


def _is_cut_off(data: bytes) -> bool:
    """Look for the end marker: of a JPEG without it, OpenCV returns a partly grey image and only prints a warning."""
    if data.startswith(b"\xff\xd8"):
        # In entropy-coded data, ff is followed by 00 or a restart marker, so these two-byte markers are real ones.
        # A thumbnail has an end marker too, but before the start of scan (ff da) of the image itself.
        return not data.endswith(b"\xff\xd9") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    return False
