"""File names of a dataset: which files are missing, which lie elsewhere, and which are named differently."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

_MAX_LISTED = 2_000_000  # files below an image folder that are looked at to find a missing one


class Renamed(NamedTuple):
    """Where missing images were found: `names` by the name in the annotations, and `how` the two differ."""

    names: dict[str, str]
    how: str


def missing_files(file_names: Sequence[str], image_dir: Path) -> list[int]:
    """Return the indices of images without a file. Each folder is listed once: 118 k stat calls can take seconds."""
    folders = {name.rpartition("/")[0] for name in file_names if "/" in name}
    there = _listed(image_dir)
    for folder in folders:
        there.update(f"{folder}/{name}" for name in _listed(image_dir / folder))
    if there.issuperset(file_names):  # the usual case, without a loop in Python
        return []
    return [index for index, name in enumerate(file_names) if name not in there]


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def leads_out(file_name: str) -> bool:
    """Return whether a file name is absolute, or leads out of the image folder by `..`."""
    if not file_name.startswith(("/", "..")) and "/.." not in file_name:  # nearly all
        return False
    return posixpath.isabs(file_name) or posixpath.normpath(file_name).partition("/")[0] == ".."


def found_elsewhere(missing: Sequence[str], image_dir: Path) -> Renamed | None:
    """Look for missing images under other names, such as in another folder or in other letter case.

    Returns:
        Names of files, relative to `image_dir`, if one way of looking finds a file of its own for each missing image,
        and only one; else None.
    """
    files = _files_below(image_dir)
    for how, key in _WAYS:
        files_by_key: dict[str, list[str]] = {}
        for name in files:
            files_by_key.setdefault(key(name), []).append(name)
        found = {name: files_by_key.get(key(name), []) for name in missing}
        names = {name: candidates[0] for name, candidates in found.items() if len(candidates) == 1}
        if len(names) == len(found) == len(set(names.values())):
            return Renamed(names, how)
    return None


def _files_below(image_dir: Path) -> list[str]:
    """Return the paths of files below a folder, relative to it, with slashes."""
    names: list[str] = []
    for folder, _, files in os.walk(image_dir):
        below = os.path.relpath(folder, image_dir)
        names += files if below == "." else [f"{below}/{name}".replace(os.sep, "/") for name in files]
        if len(names) > _MAX_LISTED:
            return []
    return names


def _decoded(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name))


def _base(name: str) -> str:
    return name.rpartition("/")[2]


# Ways to look for a file, strict ones first. Two names are the same file if their keys are equal.
_WAYS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("in another form of Unicode", lambda name: unicodedata.normalize("NFC", name)),
    ("with %-codes", _decoded),
    ("in other letter case", lambda name: _decoded(name).casefold()),
    ("in another folder", lambda name: _base(_decoded(name))),
    ("in another folder and other letter case", lambda name: _base(_decoded(name)).casefold()),
    ("with another suffix", lambda name: posixpath.splitext(_decoded(name).casefold())[0]),
    ("in another folder and with another suffix", lambda name: posixpath.splitext(_base(_decoded(name)).casefold())[0]),
)
