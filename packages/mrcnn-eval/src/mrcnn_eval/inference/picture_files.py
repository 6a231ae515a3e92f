"""Which files are pictures, and what the drawings over them are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from mrcnn_data import DatasetError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_pictures(paths: Iterable[Path]) -> list[Path]:
    """List the pictures among files and folders, each once, those of a folder in the order of their names.

    Raises:
        DatasetError: a path that does not exist, a folder without a picture, or a name that JSON cannot hold.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(_inside(path)))
        elif path.is_file():
            found[path] = None
        else:
            raise DatasetError(f"--images {path}: " + ("not a regular file" if path.exists() else "does not exist"))
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DatasetError(f"--images {path}: the name is not valid UTF-8: rename the file") from None
    return list(found)


def _inside(folder: Path) -> list[Path]:
    inside = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.is_dir())
    if not inside:
        raise DatasetError(f"--images {folder}: no picture in this folder ({', '.join(SUFFIXES)})")
    return inside


def drawing_names(pictures: Sequence[Path]) -> list[str]:
    """Name a PNG after each picture; a second picture of the same name, in upper or lower case, gets a number.

    >>> drawing_names([Path("here/a.jpg"), Path("here/a.png"), Path("there/A.jpg")])
    ['a.png', 'a-2.png', 'A-3.png']
    """
    names: list[str] = []
    taken: set[str] = set()
    for picture in pictures:
        name, number = f"{picture.stem}.png", 1
        while name.casefold() in taken:  # not every disk tells a.png from A.png
            number += 1
            name = f"{picture.stem}-{number}.png"
        taken.add(name.casefold())
        names.append(name)
    return names
