"""Log the numbers of a run: to metrics.jsonl, to TensorBoard, and in memory for curves and report."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.image.metadata import create_summary_metadata

from mrcnn_data import replaced
from mrcnn_data.images import read_header
from mrcnn_train.record.run_files import replace_text, set_aside

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"

ROW_BEGINS = b'{"kind": '

Row = dict[str, Any]

# A file of TensorBoard is a list of records: 8 bytes of length, 4 of checksum, an Event in protobuf, 4 of checksum.
EVENT_FILES = "events.out.tfevents.*"
_LENGTH = struct.Struct("<Q4x")
_CHECKSUM = 4  # bytes


class MetricsLog:
    """Writes rows of three kinds, "train", "epoch" and "evaluation"; each has `step` (updates done) and `minutes`.

    Args:
        start_step: rows and events after this step are removed, because the resumed run repeats those steps.

    Attributes:
        rows: all rows, also those of earlier launches of the run.
    """

    def __init__(self, run_dir: Path, *, start_step: int) -> None:
        self._path = run_dir / METRICS_FILE
        if self._path.is_file() and not _is_of_run(self._path):
            set_aside([self._path])
        self.rows: list[Row] = [row for row in read_rows(self._path) if row["step"] <= start_step]
        replace_text(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._trim_events(run_dir / TENSORBOARD_DIR, start_step)
        self._writer = tf.summary.create_file_writer(str(run_dir / TENSORBOARD_DIR))

    def _trim_events(self, folder: Path, start_step: int) -> None:
        """Remove from TensorBoard's files what this launch writes again."""
        evaluated = {row["step"] for row in self.rows if row["kind"] == "evaluation"}

        def is_kept(step: int, tag: str) -> bool:
            # Pictures of an evaluation are written before its row.
            return step <= start_step and (step in evaluated or not tag.startswith("evaluation/"))

        trim_event_files(folder, is_kept=is_kept)

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row."""
        row = {"kind": kind, "step": step, **values}
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{kind}/{name}", value)
        self._writer.flush()

    def histograms(self, step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Show distributions in TensorBoard. Their tags differ from those of scalars: a tag can have one kind only."""
        with self._writer.as_default(step=step):
            for name, sample in values.items():
                tf.summary.histogram(f"distribution/{name}", sample)

    def picture(self, step: int, name: str, png: Path) -> None:
        """Show a PNG file in TensorBoard without encoding it again, which takes `tf.summary.image` a second."""
        header = read_header(png)
        assert header is not None, f"{png} is not a picture"
        height, width = map(str, header.size)
        metadata = create_summary_metadata(display_name=None, description="")
        with self._writer.as_default(step=step):
            tf.summary.write(name, tf.constant([width, height, png.read_bytes()]), metadata=metadata)

    def close(self) -> None:
        self._writer.close()


def _is_of_run(path: Path) -> bool:
    """Return whether a file is empty, or its first line is a row, or the beginning of one without an end."""
    first, newline, _ = path.read_bytes().partition(b"\n")
    return _row(first) is not None or (not newline and ROW_BEGINS.startswith(first[: len(ROW_BEGINS)]))


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("kind"), str) and isinstance(row.get("step"), int)
    return row if is_row else None


def read_rows(path: Path) -> list[Row]:
    """Read a metrics file without a last line that was cut off; no rows if the file does not exist.

    Damaged lines between others are left out, with a line on stderr.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    read = [_row(line) for line in content.splitlines()]
    if read and read[-1] is None and not content.endswith(b"\n"):
        read.pop()
    rows = [row for row in read if row is not None]
    if len(rows) < len(read):
        print(f"warning: {path}: {len(read) - len(rows)} damaged lines are left out", file=sys.stderr, flush=True)
    return rows


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
