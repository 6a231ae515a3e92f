"""Reports of checks, kept in the cache folder and used again until something that was checked changes."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import msgspec

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.images.reading import READING_THREADS
from mrcnn_data.replacing import replaced
from mrcnn_data.report import Finding, Report

_VERSION = 5  # raise it with every change of what a check reports
_PORTION = 1024  # files per task; a task for each file would take longer than its stat


class _Checked(msgspec.Struct):
    """Content of a file HASH.checked."""

    state: str
    annotation_files: list[str]  # the bytes of their paths as Latin-1: a path need not be UTF-8, and JSON has to be
    findings: dict[str, list[dict[str, Any]]]


class ReportCache:
    """The reports of a set of datasets: one file in the cache folder, replaced when the state of the data changes.

    The state is what opening found, size and time of every annotation and image file, and the versions of the software.
    """

    def __init__(self, datasets: Mapping[str, CocoDataset], cache_dir: Path, *, options: tuple[object, ...]) -> None:
        places = [(name, dataset.sources) for name, dataset in datasets.items()]
        self._path = cache_dir / f"{_hash(places)}.checked"
        self._annotation_files = [
            os.fsencode(source.annotation_path).decode("latin-1") for _, sources in places for source in sources
        ]
        self._state = _state_of(datasets, options)

    def load(self) -> dict[str, Report] | None:
        """Return the reports that were saved for this state, or None."""
        try:
            checked = msgspec.json.decode(self._path.read_bytes(), type=_Checked)
            if checked.state != self._state:
                return None
            return {name: Report(Finding(**one) for one in found) for name, found in checked.findings.items()}
        except (OSError, ValueError, TypeError, RecursionError):  # ValueError: not JSON, or not UTF-8
            return None

    def save(self, reports: Mapping[str, Report]) -> None:
        """Write the reports, unless they have errors or the folder cannot be written to."""
        if any(report.by_severity("error") for report in reports.values()):
            return
        findings = {name: report.as_records() for name, report in reports.items()}
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(self._path) as file:
                file.write(msgspec.json.encode(_Checked(self._state, self._annotation_files, findings)))
            _remove_unused(self._path.parent)


def _remove_unused(cache_dir: Path) -> None:
    """Delete reports on annotation files that no longer exist, and reports by another version of this module."""
    for path in cache_dir.glob("*.checked"):
        with contextlib.suppress(OSError):
            try:
                files = msgspec.json.decode(path.read_bytes(), type=_Checked).annotation_files
                is_used = all(os.path.exists(file.encode("latin-1")) for file in files)
            except (ValueError, RecursionError):  # of an earlier version, or damaged
                is_used = False
            if not is_used:
                path.unlink(missing_ok=True)


def _state_of(datasets: Mapping[str, CocoDataset], options: tuple[object, ...]) -> str:
    parts: list[object] = [_VERSION, version("mrcnn-data"), cv2.__version__, options]
    with ThreadPoolExecutor(READING_THREADS) as threads:
        for dataset in datasets.values():
            paths = [source.annotation_path for source in dataset.sources]
            paths += [dataset.image_path(index) for index in range(len(dataset))]
            portions = [paths[first : first + _PORTION] for first in range(0, len(paths), _PORTION)]
            parts += [dataset.opening_report.as_records(), list(threads.map(_stamps, portions))]
    return _hash(parts)


def _stamps(paths: list[Path]) -> list[tuple[int, int]]:
    return [_stamp(path) for path in paths]


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and time of a file; zeros if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _hash(parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
