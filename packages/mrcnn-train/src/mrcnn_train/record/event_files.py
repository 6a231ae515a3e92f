"""TensorBoard's event files: remove what a resumed run writes again.

A file is a list of records: 8 bytes of length, 4 of checksum, an Event in protobuf, 4 of checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tensorboard.compat.proto.event_pb2 import Event

from mrcnn_data import replaced

EVENT_FILES = "events.out.tfevents.*"
_LENGTH = struct.Struct("<Q4x")
_CHECKSUM = 4  # bytes


class _Record(NamedTuple):
    whole: bytes  # with length and checksums
    event: Event


def trim_event_files(folder: Path, *, is_kept: Callable[[int, str], bool]) -> None:
    """Remove events from the files in a folder, and what follows a record that was cut off.

    Args:
        folder: need not exist.
        is_kept: of the step and the tag of an event.
    """
    for path in sorted(folder.glob(EVENT_FILES)):
        if path.is_file() and not path.is_symlink():
            _trim(path, is_kept)


def _trim(path: Path, is_kept: Callable[[int, str], bool]) -> None:
    with path.open("rb") as file:
        records = list(_records(file, path.stat().st_size))
    if not records or not records[0].event.file_version:
        return  # not an event file
    kept = [
        record.whole
        for record in records
        if all(is_kept(record.event.step, value.tag) for value in record.event.summary.value)
    ]
    if sum(map(len, kept)) < path.stat().st_size:
        with replaced(path) as new:
            new.writelines(kept)


def _records(file: BinaryIO, size: int) -> Iterator[_Record]:
    """Read records up to one that is cut off or damaged."""
    while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
        (length,) = _LENGTH.unpack(head)
        if length + _CHECKSUM > size - file.tell():
            return
        data = file.read(length + _CHECKSUM)
        try:
            event = Event.FromString(data[:length])
        except Exception:  # protobuf's DecodeError; only its decoder runs here
            return
        yield _Record(head + data, event)
