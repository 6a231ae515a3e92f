"""The text of an annotation file, used while a thread is still reading it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrcnn_data.errors import DatasetError

_BLOCK = 4 << 20  # bytes read at a time
_LONGEST_MATCH = 256  # bytes; what a search looks at again when more has been read


class AnnotationText:
    """A file that a thread reads and hashes while the caller decodes: both release the interpreter lock.

    Attributes:
        view: the whole file; the part before a match of `search` has been read already.
    """

    def __init__(self, path: Path, *, is_hashed: bool = False) -> None:
        """Start reading.

        Raises:
            DatasetError: the file cannot be opened. The other methods raise it if the file cannot be read.
        """
        self._path = path
        with self._as_dataset_error():
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - the thread closes it
        size = os.fstat(self._file.fileno()).st_size
        self.view = np.empty(size, np.uint8).data  # not a bytearray: writing its zeros would take time
        self._hash = hashlib.sha256() if is_hashed else None
        self._num_read = 0
        self._is_read = False
        self._error: Exception | None = None
        self._progress = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._file:
                while count := self._file.readinto(self.view[self._num_read : self._num_read + _BLOCK]):
                    if self._hash:
                        self._hash.update(self.view[self._num_read : self._num_read + count])
                    with self._progress:
                        self._num_read += count
                        self._progress.notify()
                if len(self.view) == 0:  # a pipe, perhaps
                    self.view = memoryview(bytearray(self._file.read()))
                    if self._hash:
                        self._hash.update(self.view)
                else:  # perhaps cut off while it was read
                    self.view = self.view[: self._num_read]
        except Exception as error:  # raised again by the thread that waits
            self._error = error
        with self._progress:
            self._is_read = True
            self._progress.notify()

    def search(self, pattern: re.Pattern[bytes], start: int) -> re.Match[bytes] | None:
        """Find a pattern at or after `start`, as soon as it has been read; None if the rest of the file has none."""
        while True:
            with self._progress:
                while not self._is_read and self._num_read <= start + _LONGEST_MATCH:
                    self._progress.wait()
                is_read, end = self._is_read, self._num_read
            if is_read:
                return pattern.search(self.whole(), start)
            match = pattern.search(self.view, start, end)
            if match:
                return match
            start = end - _LONGEST_MATCH

    @contextlib.contextmanager
    def as_list(self, start: int, stop: int) -> Iterator[memoryview]:
        """Give the bytes `start` to `stop`; within the context, brackets replace the first and the last of them."""
        ends = self.view[start], self.view[stop]
        self.view[start], self.view[stop] = b"[]"
        try:
            yield self.view[start : stop + 1]
        finally:
            self.view[start], self.view[stop] = ends

    def whole(self) -> memoryview:
        """Wait for the end of reading and return the whole text."""
        self._thread.join()
        with self._as_dataset_error():
            if self._error:
                raise self._error
        return self.view

    def content(self) -> str:
        """Return the first half of the SHA-256 of the file; needs `is_hashed`."""
        self.whole()
        assert self._hash
        return self._hash.hexdigest()[:32]

    @contextlib.contextmanager
    def _as_dataset_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DatasetError(f"{self._path}: cannot read the annotation file: {error.strerror}") from None
