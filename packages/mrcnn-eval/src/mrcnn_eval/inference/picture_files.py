"""Which files are pictures, and what the drawings over them are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mrcnn_data import DatasetError, load_image


class FoundPictures(NamedTuple):
    """`pictures`, and what is wrong with each of the other files in the folders, in `left_out`."""

    pictures: list[Path]
    left_out: dict[Path, str]


def find_pictures(paths: Iterable[Path]) -> FoundPictures:
    """List the pictures among files and folders, each once, those of a folder in the order of their names.

    What a file contains decides whether it is a picture, not its name: `._a.jpg` of macOS is none, and a.jfif is one.

    Args:
        paths: folders, of which files that are not pictures are left out, and files, which must be pictures.
    Raises:
        DatasetError: a path that does not exist or is not a picture, a folder without one, or a name that JSON cannot
            hold.
    """
    found: dict[Path, None] = {}
    left_out: dict[Path, str] = {}
    for path in paths:
        if path.is_dir():
            inside = [file for file in sorted(path.iterdir()) if not file.is_dir()]
            faults = {file: fault for file in inside if (fault := _fault(file)) is not None}
            if len(faults) == len(inside):
                examples = "; ".join(list(faults.values())[:3])
                raise DatasetError(
                    f"--images {path}: no picture in this folder" + (f": {examples}" if examples else "")
                )
            left_out |= faults
            found.update(dict.fromkeys(file for file in inside if file not in faults))
        elif path.is_file():
            load_image(path)
            found[path] = None
        else:
            raise DatasetError(f"--images {path}: " + ("not a regular file" if path.exists() else "does not exist"))
    for path in found:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DatasetError(f"--images {path}: the name is not valid UTF-8: rename the file") from None
    return FoundPictures(list(found), left_out)


def _fault(path: Path) -> str | None:
    """Return why a file is not a picture that can be read; None if it is one."""
    try:
        load_image(path)
    except DatasetError as error:
        return str(error)
    return None


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
