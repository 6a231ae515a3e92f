"""Images that occur more than once, in a dataset or in two of them: found by their bytes, whatever they are called."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mrcnn_data.dataset import CocoDataset
from mrcnn_data.report import Report

_ENDS = 32 * 1024  # bytes read from either end: files that agree in them and in their length are the same photograph
_THREADS = 8  # they wait for a disk or a network


def fingerprints(dataset: CocoDataset) -> list[bytes]:
    """Take the fingerprint of every image file, in the order of the images; empty where there is nothing to read."""
    with ThreadPoolExecutor(_THREADS) as threads:
        return list(threads.map(_fingerprint, map(dataset.image_path, range(len(dataset))), chunksize=64))


def _fingerprint(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            head = file.read(_ENDS)
            num_bytes = os.fstat(file.fileno()).st_size
            file.seek(max(num_bytes - _ENDS, 0))
            tail = file.read(_ENDS)
    except OSError:
        return b""
    return hashlib.blake2b(b"%d " % num_bytes + head + tail, digest_size=16).digest() if num_bytes else b""


def report_copies(dataset: CocoDataset, prints: list[bytes], report: Report) -> None:
    """Add images that are copies of an earlier one of the same dataset, under another name."""
    name_of: dict[bytes, str] = {}
    copies = []
    for name, fingerprint in zip(dataset.file_names, prints, strict=True):
        if fingerprint and name_of.setdefault(fingerprint, name) != name:
            copies.append(f"{name} = {name_of[fingerprint]}")
    report.add("copy of another image", severity="note", action="both train", where=copies, what="file")


def report_shared(
    dataset: CocoDataset,
    prints: list[bytes],
    *,
    other: CocoDataset,
    other_prints: list[bytes],
    other_name: str,
    report: Report,
) -> None:
    """Add images that another dataset holds too."""
    name_of = dict(zip(other_prints, other.file_names, strict=True))
    shared = [
        f"{name} = {name_of[fingerprint]}"
        for name, fingerprint in zip(dataset.file_names, prints, strict=True)
        if fingerprint and fingerprint in name_of
    ]
    report.add(
        f"image that {other_name} has too",
        severity="note",
        action="where one trains and the other evaluates, scores are too good",
        where=shared,
        what="file",
    )
