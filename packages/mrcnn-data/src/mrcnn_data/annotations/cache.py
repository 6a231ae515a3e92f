"""Annotation files as memory-mapped columns: opened in a fraction of a second, one copy in memory for all processes.

A cache folder has two files for an annotation file. `NAME-HASH.json` (HASH of the path) holds the path, size and time
of the file and the hash of its content. `CONTENT.columns` (named after that hash) holds the columns. So a file that was
copied, moved or touched is recognised by its content, and one that changed is read again. Files get their names when
they are complete, so no process sees half a file. They are not flushed to the disk, which would take 0.6 s for
train2017: checksums show the damage of a power failure. A lock per folder lets one of several processes that start
together read the file for all. `mrcnn_data.checks.report_cache` keeps reports of checks in the same folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from mrcnn_data.annotations.columns import Columns, Id, RawSegmentations, Segmentations
from mrcnn_data.annotations.file import FileContent, no_collections, read_annotations
from mrcnn_data.annotations.text import AnnotationText
from mrcnn_data.errors import DatasetError
from mrcnn_data.replacing import replaced
from mrcnn_data.report import Finding, Report
from mrcnn_data.text import visible

try:
    import fcntl
except ImportError:  # Windows: each process reads the file
    fcntl = None  # type: ignore[assignment]

_MAGIC = b"mrcnn-data columns 5\n"  # raise the number when the layout or what reading reports changes
_TRAILER = struct.Struct("<QQI")  # where the header ends, its length, its CRC-32
_ALIGNMENT = 64
_HASH = re.compile("[0-9a-f]{32}")  # of the content of an annotation file; names a cache file
_ROWS_PER_BLOCK = 512  # segmentations under one checksum, which is verified when the first of them is used
_ARRAYS = ("image_sizes", "offsets", "classes", "boxes_xywh", "areas", "has_bbox", "is_crowd", "is_ignored")


class _Stamp(msgspec.Struct):
    """Content of a NAME-HASH.json."""

    path: str  # to be read by people
    size: int
    mtime_ns: int
    content: str


class _ArrayPlace(msgspec.Struct):
    dtype: str
    shape: list[int]
    offset: int  # from the start of the file


class _Header(msgspec.Struct):
    image_ids: list[Id]
    file_names: list[str]
    category_ids: list[int]
    class_names: list[str]
    annotation_ids: list[Id | None] | None  # None: an array like the others
    findings: list[dict[str, Any]]
    arrays: dict[str, _ArrayPlace]
    arrays_crc: int


class _DamagedCacheError(Exception):
    """A cache file that cannot be used and is written again."""


def read_columns(path: Path, cache_dir: Path | None) -> FileContent:
    """Read an annotation file through the cache folder; without one, read it into the memory of this process.

    If the folder cannot be written to, the file is read directly, and the report says so. Files with errors are not
    cached.

    Raises:
        DatasetError: see `read_annotations`.
    """
    if cache_dir is None:
        return read_annotations(path)
    path = path.resolve()
    try:
        status = path.stat()
    except OSError as error:
        raise DatasetError(f"{path}: cannot read the annotation file: {error.strerror}") from None
    stamp_path = cache_dir / f"{path.stem}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
    found = _look_up(stamp_path, status, cache_dir)
    if found is not None:
        return found
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with _locked(cache_dir / "lock"), no_collections():
            found = _look_up(stamp_path, status, cache_dir)  # another process may have been faster
            return found or _fill(path, status, stamp_path, cache_dir)
    except OSError as error:
        content = read_annotations(path)
        content.report.add(
            "annotation cache that cannot be written",
            severity="note",
            action="every process reads the file itself",
            where=[f"{cache_dir}: {error.strerror or error}"],
            what="folder",
        )
        return content


def _look_up(stamp_path: Path, status: os.stat_result, cache_dir: Path) -> FileContent | None:
    try:
        stamp = msgspec.json.decode(stamp_path.read_bytes(), type=_Stamp)
        if (stamp.size, stamp.mtime_ns) != (status.st_size, status.st_mtime_ns):
            return None
        return _load(_columns_path(cache_dir, stamp.content)) if _HASH.fullmatch(stamp.content) else None
    except (OSError, ValueError, RecursionError, _DamagedCacheError):  # ValueError: not JSON, or not UTF-8
        return None


def _columns_path(cache_dir: Path, content: str) -> Path:
    return cache_dir / f"{content}.columns"


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "a", encoding="utf-8") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: each process reads the file
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(path: Path, status: os.stat_result, stamp_path: Path, cache_dir: Path) -> FileContent:
    """Take the content from the cache if it is there under another path or time, else read and store it."""
    text = AnnotationText(path, is_hashed=True)
    found = None
    if any(cache_dir.glob("*.columns")):  # only then is it worth waiting for the hash
        with contextlib.suppress(OSError, _DamagedCacheError):
            found = _load(_columns_path(cache_dir, text.content()))
    if found is None:
        content = read_annotations(path, data=text)
        if content.report.by_severity("error"):
            return content
        columns_path = _columns_path(cache_dir, text.content())
        _store(columns_path, content)
        try:
            found = _load(columns_path)
        except _DamagedCacheError as error:
            raise OSError(str(error)) from None
    stamp = _Stamp(visible(path, limit=sys.maxsize), status.st_size, status.st_mtime_ns, text.content())
    with replaced(stamp_path) as file:
        file.write(msgspec.json.encode(stamp))
    _remove_unused(cache_dir)
    return found


def _store(path: Path, content: FileContent) -> None:
    """Write a cache file: magic, text of all segmentations, arrays, header, and the header's length and checksum."""
    columns = content.columns
    with replaced(path) as file:
        file.write(_MAGIC.ljust(_padded(len(_MAGIC)), b"\0"))
        arrays = {name: np.ascontiguousarray(getattr(columns, name)) for name in _ARRAYS}
        assert isinstance(columns.segmentations, RawSegmentations)  # as read from a file
        arrays |= _write_segmentations(file, columns.segmentations)
        has_array_ids = isinstance(columns.annotation_ids, np.ndarray)
        if has_array_ids:
            arrays["annotation_ids"] = np.asarray(columns.annotation_ids)
        places, crc = {}, 0
        for name, array in arrays.items():
            file.write(b"\0" * (_padded(file.tell()) - file.tell()))
            places[name] = _ArrayPlace(array.dtype.str, list(array.shape), file.tell())
            crc = zlib.crc32(array.data, crc)
            file.write(array.data)
        header = _Header(
            image_ids=columns.image_ids,
            file_names=columns.file_names,
            category_ids=list(columns.category_ids),
            class_names=list(columns.class_names),
            annotation_ids=None if has_array_ids else list(columns.annotation_ids),
            findings=content.report.as_records(),
            arrays=places,
            arrays_crc=crc,
        )
        encoded = msgspec.json.encode(header)
        file.write(encoded)
        file.write(_TRAILER.pack(file.tell(), len(encoded), zlib.crc32(encoded)))


def _write_segmentations(file: BinaryIO, segmentations: RawSegmentations) -> dict[str, np.ndarray]:
    """Write the text of all segmentations; return its offsets, int64 [A + 1], and the checksum of every block."""
    lengths = np.zeros(len(segmentations), np.int64)
    checksums = []
    for first in range(0, len(segmentations), _ROWS_PER_BLOCK):
        raws: list[Any] = segmentations.raws[first : first + _ROWS_PER_BLOCK]
        text = b"".join(raws)
        lengths[first : first + _ROWS_PER_BLOCK] = list(map(len, raws))
        checksums.append(zlib.crc32(text))
        file.write(text)
    ends = _padded(len(_MAGIC)) + np.concatenate([[0], np.cumsum(lengths)])
    return {"text_offsets": ends, "checksums": np.array(checksums, np.uint32)}


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _load(path: Path) -> FileContent:
    """Map a cache file.

    Raises:
        _DamagedCacheError: it is damaged, or of another version.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise _DamagedCacheError(f"{path} is not a cache of this version")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _decoded(path, mapped)
    except (_DamagedCacheError, OSError):
        raise
    except Exception as error:  # only decoders run here; a file with right checksums can still hold anything
        raise _DamagedCacheError(f"{path} is damaged: {error}") from error


def _decoded(path: Path, mapped: mmap.mmap) -> FileContent:
    trailer = mapped[-_TRAILER.size :]
    if len(trailer) < _TRAILER.size:
        raise _DamagedCacheError(f"{path} is cut off")
    end, length, header_crc = _TRAILER.unpack(trailer)
    encoded = mapped[end - length : end] if end == len(mapped) - _TRAILER.size and length <= end else b""
    if not encoded or zlib.crc32(encoded) != header_crc:
        raise _DamagedCacheError(f"{path} is damaged")
    header = msgspec.json.decode(encoded, type=_Header)
    arrays = {name: _mapped_array(mapped, place) for name, place in header.arrays.items()}
    crc = 0
    for array in arrays.values():
        crc = zlib.crc32(array.data, crc)
    if crc != header.arrays_crc:
        raise _DamagedCacheError(f"{path} is damaged")
    columns = Columns(
        image_ids=header.image_ids,
        file_names=header.file_names,
        category_ids=tuple(header.category_ids),
        class_names=tuple(header.class_names),
        annotation_ids=arrays["annotation_ids"] if header.annotation_ids is None else header.annotation_ids,
        segmentations=MappedSegmentations(path, mapped, offsets=arrays["text_offsets"], checksums=arrays["checksums"]),
        **{name: arrays[name] for name in _ARRAYS},
    )
    _require_consistent(columns, path)
    return FileContent(columns, Report(Finding(**record) for record in header.findings))


def _require_consistent(columns: Columns, path: Path) -> None:
    num_images, num_rows = len(columns.image_ids), len(columns.segmentations)
    per_row = (*(getattr(columns, name) for name in _ARRAYS[2:]), columns.annotation_ids)
    is_consistent = (
        len(columns.file_names) == len(columns.image_sizes) == len(columns.offsets) - 1 == num_images
        and all(len(column) == num_rows for column in per_row)
        and len(columns.category_ids) == len(columns.class_names)
        and (np.diff(columns.offsets) >= 0).all()
        and columns.offsets[-1] == num_rows
    )
    if not is_consistent:
        raise _DamagedCacheError(f"{path} is damaged: its columns have different lengths")


def _mapped_array(mapped: mmap.mmap, place: _ArrayPlace) -> np.ndarray:
    count = math.prod(place.shape)
    if count == 0:
        return np.zeros(place.shape, place.dtype)
    return np.frombuffer(mapped, place.dtype, count, place.offset).reshape(place.shape)


class MappedSegmentations:
    """Segmentations in a mapped cache; the CRC-32 of a block is checked when one of its segmentations is first used."""

    def __init__(self, path: Path, mapped: mmap.mmap, *, offsets: np.ndarray, checksums: np.ndarray) -> None:
        self._path = path
        self._mapped = mapped
        self._offsets = offsets
        self._checksums = checksums
        self._is_verified = np.zeros(len(checksums), bool)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        """Return the JSON text of one; raise DatasetError if the cache file is damaged."""
        block = index // _ROWS_PER_BLOCK
        if not self._is_verified[block]:
            self._verify(block)
        return self._mapped[self._offsets[index] : self._offsets[index + 1]]

    def _verify(self, block: int) -> None:
        last = min((block + 1) * _ROWS_PER_BLOCK, len(self))
        text = memoryview(self._mapped)[self._offsets[block * _ROWS_PER_BLOCK] : self._offsets[last]]
        if zlib.crc32(text) != self._checksums[block]:
            raise DatasetError(f"{self._path}: the annotation cache is damaged: delete it")
        self._is_verified[block] = True

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self._path,)  # for spawned processes: a mapping cannot be pickled


def _reopened(path: Path) -> Segmentations:
    return _load(path).columns.segmentations


def _remove_unused(cache_dir: Path) -> None:
    """Delete columns that no path refers to; processes that have mapped them can go on using them."""
    used = set()
    for stamp_path in cache_dir.glob("*-*.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError):
            used.add(msgspec.json.decode(stamp_path.read_bytes(), type=_Stamp).content)
    for entry in cache_dir.glob("*.columns"):
        if entry.stem not in used:
            entry.unlink(missing_ok=True)
