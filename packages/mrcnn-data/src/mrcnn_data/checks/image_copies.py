"""Find images that occur more than once, in one dataset or in two, by the bytes of their files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.images.raw import open_regular, read_ends
from mrcnn_data.images.reading import READING_THREADS
from mrcnn_data.report import Report

_ENDS = 32 * 1024  # bytes read from both ends of every file; uncompressed pictures may agree in them
_BLOCK = 2**20


def fingerprints(datasets: Mapping[str, CocoDataset]) -> dict[str, list[bytes]]:
    """Return the fingerprint of every image file, by the name of the dataset, in the order of its images.

    Files with the same fingerprint are equal, byte by byte; the fingerprint of an unreadable or empty file is empty. A
    file is read as a whole only if it agrees with another one in length and in both ends.
    """
    paths = {name: [dataset.image_path(index) for index in range(len(dataset))] for name, dataset in datasets.items()}
    unique = list(dict.fromkeys(path for of_one in paths.values() for path in of_one))
    with ThreadPoolExecutor(READING_THREADS) as threads:
        print_of = dict(zip(unique, threads.map(_of_ends, unique, chunksize=64), strict=True))
        counts = Counter(print_of.values())
        alike = [path for path, fingerprint in print_of.items() if fingerprint and counts[fingerprint] > 1]
        print_of.update(zip(alike, threads.map(_of_all, alike), strict=True))
    return {name: [print_of[path] for path in of_one] for name, of_one in paths.items()}


def _of_ends(path: Path) -> bytes:
    try:
        head, tail, num_bytes = read_ends(path, head=_ENDS, tail=_ENDS)
    except OSError:
        return b""
    return hashlib.blake2b(b"%d " % num_bytes + head + tail, digest_size=16).digest() if num_bytes else b""


def _of_all(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    try:
        with open_regular(path) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return b""
    return digest.digest()


def report_copies(dataset: CocoDataset, prints: list[bytes], report: Report) -> None:
    """Report images that are copies of an earlier image of the same dataset under another name."""
    name_of: dict[bytes, str] = {}
    copies = []
    for name, fingerprint in zip(dataset.file_names, prints, strict=True):
        if fingerprint and name_of.setdefault(fingerprint, name) != name:
            copies.append(f"{name} = {name_of[fingerprint]}")
    report.add("copy of another image", severity="note", action="both are trained on", where=copies, what="file")


def report_shared(
    dataset: CocoDataset,
    prints: list[bytes],
    *,
    other: CocoDataset,
    other_prints: list[bytes],
    other_name: str,
    report: Report,
) -> None:
    """Report images that another dataset holds too."""
    name_of = dict(zip(other_prints, other.file_names, strict=True))
    shared = [
        f"{name} = {name_of[fingerprint]}"
        for name, fingerprint in zip(dataset.file_names, prints, strict=True)
        if fingerprint and fingerprint in name_of
    ]
    report.add(
        f"image that {other_name} has too",
        severity="note",
        action="if one is for training and the other for evaluation, scores are too high",
        where=shared,
        what="file",
    )
