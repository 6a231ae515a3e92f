"""Which mask pictures belong to which image, by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mrcnn_data.errors import DatasetError, OptionError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"})
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # formats that keep every value

# Files and folders that desktops and servers add to folders of pictures; names that begin with a dot are too.
_DESKTOP_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_DESKTOP_FOLDERS = frozenset({"__macosx", "@eadir"})
_RULES = {"{class}": "(?P<class_name>[^/]+?)", "{number}": r"\d+"}  # of a pattern of names
_MOST_STEMS = 0.5  # names of masks that carry classes have few different words
_LONGEST_NAME = 512  # characters


class MaskFile(NamedTuple):
    """A mask picture, and the class that its name carries, if names do."""

    path: Path
    class_name: str | None


class MaskFiles(NamedTuple):
    """`images` in order; `masks` by image; `left_out`: files of desktops, relative to their folder."""

    images: list[Path]
    masks: dict[Path, list[MaskFile]]
    left_out: list[str]


def find_masks(image_dir: Path, mask_dir: Path, *, pattern: str | None = None) -> MaskFiles:
    """Find all images, and the masks of each.

    Args:
        image_dir: folder of images; files in `mask_dir` are never images, even if it lies inside.
        mask_dir: folder of masks; every file in it must be the mask of an image, but for files of desktops.
        pattern: how names of masks are made, below `mask_dir` and without suffix, from {image} (the image's path
            without suffix), {class} and {number}; None: {image} or {image}/ANY.
    Raises:
        DatasetError: a folder is missing or holds no image; a file in `mask_dir` is not a mask, belongs to no image or
            to two; an image has two masks where one is expected.
        OptionError: the pattern lacks {image}.
    """
    _check_folders(image_dir, mask_dir)
    inside = mask_dir.resolve()
    files, left_out = _files_below(image_dir)
    images = [
        path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.resolve().is_relative_to(inside)
    ]
    if not images:
        raise DatasetError(f"{image_dir}: no image files in this folder")
    files, left_out_masks = _files_below(mask_dir)
    for path in files:
        if path.suffix.lower() not in MASK_SUFFIXES:
            raise DatasetError(
                f"{path}: not a mask: masks are {', '.join(MASK_SUFFIXES)} files, which keep every value"
            )
    names = _Names(image_dir, images)
    wholes = {path: path.relative_to(mask_dir).with_suffix("").as_posix() for path in files}
    masks = _by_folders(wholes, names) if pattern is None else _by_pattern(wholes, names, pattern)
    return MaskFiles(images, masks, list(dict.fromkeys([*left_out, *left_out_masks])))


def class_words(masks: Mapping[Path, Sequence[MaskFile]]) -> list[str]:
    """Return the words in the names of masks in folders, if there are so few that they could be classes."""
    stems = [mask.path.stem for of_one in masks.values() for mask in of_one if len(of_one) > 1]
    words = Counter(re.sub(r"[\W\d_]+", " ", stem).strip() for stem in stems)
    if len(words) < 2 or min(map(len, words)) < 2 or len(words) > _MOST_STEMS * len(stems):
        return []
    return sorted(words)


def _check_folders(image_dir: Path, mask_dir: Path) -> None:
    for folder in (image_dir, mask_dir):
        if not folder.is_dir():
            raise DatasetError(f"{folder}: the folder does not exist")
    if image_dir.resolve().is_relative_to(mask_dir.resolve()):
        raise DatasetError(
            f"{image_dir}: the images lie in the folder of masks, {mask_dir}: put them into separate folders"
        )


def _files_below(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files below a folder, sorted, and the names of those that desktops have added."""
    files, of_desktops = [], []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = [part.lower() for part in path.relative_to(folder).parts]
        if (
            any(part.startswith(".") for part in parts)
            or parts[-1].partition(":")[0] in _DESKTOP_FILES
            or not _DESKTOP_FOLDERS.isdisjoint(parts)
        ):
            of_desktops.append(path.relative_to(folder).as_posix())
        else:
            files.append(path)
    return files, of_desktops


class _Names:
    """Images by their paths without suffix, or with it."""

    def __init__(self, image_dir: Path, images: Iterable[Path]) -> None:
        self._by_stem: dict[str, list[Path]] = {}
        self._by_name: dict[str, Path] = {}
        for image in images:
            name = image.relative_to(image_dir)
            self._by_stem.setdefault(name.with_suffix("").as_posix(), []).append(image)
            self._by_name[name.as_posix()] = image

    def find(self, name: str, mask: Path) -> Path | None:
        """Return the image with this name; raise DatasetError if `mask` could be that of two images."""
        images = self._by_stem.get(name, [])
        if len(images) > 1:
            raise DatasetError(
                f"{mask}: could be the mask of {images[0]} and of {images[1]}: name it "
                f"{images[0].name}{mask.suffix} or {images[1].name}{mask.suffix}, or rename one of the images"
            )
        return images[0] if images else self._by_name.get(name)

    def longest_in(self, name: str) -> str | None:
        """Return the longest name of an image that begins another name, or begins behind a folder of it."""
        starts = [0, *(place + 1 for place, character in enumerate(name) if character == "/")]
        found = [
            name[start:end]
            for start in starts
            for end in range(start + 1, min(len(name), start + _LONGEST_NAME) + 1)
            if name[start:end] in self._by_stem and not name[end : end + 1].isalnum()
        ]
        return max(found, key=len, default=None)


def _by_folders(wholes: Mapping[Path, str], names: _Names) -> dict[Path, list[MaskFile]]:
    """Find the masks of each image: named as the image, or in a folder that is."""
    found: dict[Path, list[MaskFile]] = {}
    lone: dict[Path, Path] = {}
    orphans = []
    for path, whole in wholes.items():
        of_its_own = names.find(whole, path)
        image = of_its_own or names.find(whole.rpartition("/")[0], path)
        if image is None:
            orphans.append(path)
        elif image in found and (of_its_own or image in lone or found[image][0].path.parent != path.parent):
            raise DatasetError(f"{path}: its image already has a mask, {found[image][0].path}")
        else:
            found.setdefault(image, []).append(MaskFile(path, None))
            if of_its_own:
                lone[image] = path
    if orphans:
        raise DatasetError(_without_image(orphans, wholes, names))
    return found


def _without_image(orphans: Sequence[Path], wholes: Mapping[Path, str], names: _Names) -> str:
    more = f", nor to {len(orphans) - 1} others" if orphans[1:] else ""
    image = names.longest_in(wholes[orphans[0]])
    advice = ""
    if image is not None:
        example = wholes[orphans[0]].replace(image, "{image}", 1)
        advice = (
            f"; if its name has more than the image's, {image}, say how names are made: "
            f"--names '{example}' with {{class}} and {{number}} in place of what differs"
        )
    return f"{orphans[0]}: no image belongs to this mask{more}{advice}"


def _by_pattern(wholes: Mapping[Path, str], names: _Names, pattern: str) -> dict[Path, list[MaskFile]]:
    placeholders = re.findall(r"\{[^}]*\}", pattern)
    is_once = placeholders.count("{image}") == 1 and placeholders.count("{class}") <= 1
    if not is_once or not set(placeholders) <= {"{image}", *_RULES}:
        raise OptionError(f"--names={pattern}: expected {{image}} once, and perhaps {{class}} once, and {{number}}")
    before, after = map(_expression, pattern.split("{image}"))
    found: dict[Path, list[MaskFile]] = {}
    for path, whole in wholes.items():
        for length in range(min(len(whole), _LONGEST_NAME), 0, -1):
            match = re.fullmatch(f"{before}(?P<image>.{{{length}}}){after}", whole)
            image = names.find(match["image"], path) if match else None
            if match and image is not None:
                found.setdefault(image, []).append(MaskFile(path, match.groupdict().get("class_name")))
                break
        else:
            raise DatasetError(f"{path}: its name is not {pattern} with the name of an image")
    return found


def _expression(pattern: str) -> str:
    """Return a part of a pattern as a regular expression."""
    return "".join(_RULES.get(piece, re.escape(piece)) for piece in re.split(r"(\{[^}]*\})", pattern))
