"""Read JSON files, and say what a file is that should hold annotations or detections and does not."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import msgspec

from mrcnn_data.errors import DatasetError

# NaN, Infinity, and numbers that may be too large for float64
_JSON_ODD_NUMBER = re.compile(rb"-?\b(?:NaN|Infinity|\d+(?:\.\d+)?[eE]\+?\d{2,}|\d{309,}(?:\.\d+)?)\b")

_HEAD = 4096  # bytes that are looked at

# What files of other kinds begin with.
_BEGINNINGS = (
    (b"PK\x03\x04", "a ZIP archive: unpack it and give the JSON file in it"),
    (b"\x1f\x8b", "compressed with gzip: unpack it (gunzip)"),
    (b"BZh", "compressed with bzip2: unpack it (bunzip2)"),
    (b"\xfd7zXZ\x00", "compressed with xz: unpack it (unxz)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it and give the JSON file in it"),
    (b"Rar!", "a RAR archive: unpack it and give the JSON file in it"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"PAR1", "a Parquet table"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80\x04", "a Python pickle"),
    (b"SQLite format 3", "an SQLite database"),
)
_MARKUP = (
    (b"<!doctype html", "an HTML page, perhaps the error page of a download"),
    (b"<html", "an HTML page, perhaps the error page of a download"),
    (b"<", "XML, perhaps of CVAT or Pascal VOC: export the annotations again as COCO JSON"),
)

# Keys that JSON files of other tools have at the top, or in the first entry of a list.
_OTHER_LAYOUTS = (
    ({"shapes", "imagePath"}, "a file of LabelMe, which has one for each image: export or convert them to COCO"),
    ({"_via_img_metadata"}, "a project of VIA: export the annotations in COCO format"),
    ({"regions", "filename"}, "annotations of VIA: export them in COCO format"),
    ({"type", "features"}, "GeoJSON, whose coordinates are not pixels"),
    ({"score", "category_id"}, "a list of detections, not a dataset: it belongs to `mrcnn-eval --results`"),
    ({"image", "annotations"}, "annotations of CreateML: export them in COCO format"),
    ({"segments_info", "file_name"}, "panoptic annotations of COCO: instances are needed"),
)


def read_json(path: Path) -> Any:
    """Read a file as leniently as annotation files: with a byte order mark, in UTF-16 or UTF-32; null for NaN.

    Raises:
        DatasetError: it cannot be read or is not JSON; the message says what it is instead.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror}") from None
    return decode_json(path, data)


def decode_json(path: Path, data: bytes | memoryview) -> Any:
    """Decode the content of a file; see `read_json`."""
    try:
        return lenient_decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not JSON: {why_not_json(data, error)}") from None
    except RecursionError:
        raise DatasetError(f"{path} is not a COCO file: lists in lists in it are nested too deep") from None


def why_not_json(data: bytes | memoryview, error: Exception) -> str:
    """Return what is wrong with a file that cannot be decoded as JSON, to follow "is not JSON: ".

    Args:
        data: the whole file.
        error: what the decoder raised.
    """
    head = bytes(data[:_HEAD])
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text:
        return "the file is empty" if not len(data) else "the file has only white space"
    if not head.strip(b"\0"):
        return "the file begins with zero bytes, as after an interrupted copy: copy or download it again"
    for beginning, what in _BEGINNINGS:
        if head.startswith(beginning):
            return f"it is {what}"
    for beginning, what in _MARKUP:
        if text.lower().startswith(beginning):
            return f"it is {what}"
    if isinstance(error, UnicodeDecodeError):
        byte = bytes(error.object[error.start : error.start + 1])
        return (
            f"byte 0x{byte.hex()} at offset {error.start} is not {error.encoding} text: save the file as UTF-8, or, if "
            "it was copied or downloaded, do that again"
        )
    if "truncated" in str(error):
        return f"it ends in the middle, after {len(data)} bytes: copy, download or export it again"
    return str(error)


def other_layout(value: Any) -> str | None:
    """Return what the content of a JSON file is that has not the lists of a COCO file; None if it has them."""
    lists = value if isinstance(value, list) else list(value.values())[:1] if isinstance(value, dict) else []
    for entry in (value, *lists[:1]):
        for keys, what in _OTHER_LAYOUTS if isinstance(entry, dict) else ():
            if keys <= entry.keys():
                return f"it is {what}"
    if isinstance(value, list):
        return "it is a list; a dataset has lists of images, annotations and categories"
    if not isinstance(value, dict):
        return f"it is only {type(value).__name__}"
    for name in ("images", "annotations", "categories"):
        if name not in value:
            return f'it has no "{name}", only {", ".join(json.dumps(key) for key in list(value)[:6]) or "nothing"}'
        if not isinstance(value[name], list):
            return f'"{name}" in it is not a list'
    return None


def strict_json(data: bytes | memoryview) -> bytes:
    """Turn JSON that Python's json module reads, but msgspec does not, into JSON that both read.

    NaN, Infinity and numbers beyond float64 outside of strings become null; a byte order mark, UTF-16 and UTF-32
    become plain UTF-8.
    """
    data = bytes(data)
    text = data.decode(json.detect_encoding(data)).encode()
    pieces = re.split(rb'("(?:[^"\\]|\\.)*")', text)  # odd pieces are strings
    pieces[::2] = [_JSON_ODD_NUMBER.sub(_finite_or_null, piece) for piece in pieces[::2]]
    return b"".join(pieces)


def _finite_or_null(match: re.Match[bytes]) -> bytes:
    return match[0] if math.isfinite(float(match[0])) else b"null"


def lenient_decode(raw: bytes | memoryview) -> Any:
    """Decode JSON, null in place of numbers that are not finite.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: it is not JSON.
    """
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(strict_json(raw))
