"""Annotations from masks that lie as pictures beside the images.

For an image a/b.jpg that is MASKS/a/b.png, or every picture in the folder MASKS/a/b/. Values are grey values, palette
numbers (of PNG), or colours as 0xRRGGBB; 0 is background.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.images.reading import decode_as_stored, load_image, read_image_file
from mrcnn_data.outputs import write_output

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # what loses nothing


class Imported(NamedTuple):
    """`content`: of a COCO instances file; `without_mask`: images that have no mask and so are background."""

    content: dict[str, Any]
    without_mask: list[str]


def import_masks(
    image_dir: Path,
    mask_dir: Path,
    *,
    class_name: str = "object",
    classes: Mapping[int, str] | None = None,
    split_regions: bool = False,
    ignored: Collection[int] = (),
) -> Imported:
    """Make annotations, with masks as compressed run lengths, of all images below a folder.

    Args:
        class_name: of all objects, where the values tell objects apart.
        classes: what the values mean, where they stand for classes; then every connected region is an object.
        split_regions: every connected region is an object, whatever its value: for masks of one value.
        ignored: values that are background too.
    What lies in `mask_dir` is never an image, wherever the folder is.

    Raises:
        DatasetError: images in the folder of masks; no image, or no object in any mask; a file in `mask_dir` that is no
            mask or goes with no image; a mask that cannot be read, of another size than its image, or with a value that
            `classes` lacks.
        OptionError: `classes` names 0, which is background, or a value that is ignored.
    """
    _check_values(classes or {}, ignored)
    _check_folders(image_dir, mask_dir)
    names = list(dict.fromkeys(classes.values())) if classes else [class_name]
    category_of = {value: names.index(name) + 1 for value, name in (classes or {}).items()}
    inside = mask_dir.resolve()
    paths = sorted(
        path
        for path in image_dir.rglob("*")
        if path.suffix.lower() in _IMAGE_SUFFIXES and path.is_file() and not path.resolve().is_relative_to(inside)
    )
    if not paths:
        raise DatasetError(f"{image_dir}: no image files in this folder")
    masks_of = _by_image(mask_dir, image_dir, paths)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    without_mask: list[str] = []
    for number, path in enumerate(paths, start=1):
        name = path.relative_to(image_dir)
        masks = {mask: _read_values(mask, ignored) for mask in masks_of.get(name.with_suffix(""), [])}
        height, width = _common_size(path, masks)
        images.append({"id": number, "file_name": name.as_posix(), "height": height, "width": width})
        if not masks:
            without_mask.append(name.as_posix())
        for mask, values in masks.items():
            for value, pixels in _objects(values, is_split=split_regions or classes is not None):
                if classes is not None and value not in category_of:
                    raise DatasetError(f"{mask}: the value {value} is neither a class nor ignored")
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": category_of.get(value, 1)}
                annotations.append({**ids, **_fields(pixels)})
    if not annotations:
        raise DatasetError(f"{mask_dir}: no object in the masks of {len(paths)} images")
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return Imported({"images": images, "annotations": annotations, "categories": categories}, without_mask)


def write_imported(out: Path, imported: Imported) -> None:
    """Write the instances file."""
    write_output(out, msgspec.json.encode(imported.content))


def _check_values(classes: Mapping[int, str], ignored: Collection[int]) -> None:
    for value, name in classes.items():
        if value == 0:
            raise OptionError(f"0={name}: 0 is the background")
        if value in ignored:
            raise OptionError(f"{value}={name}: this value is ignored too")


def _check_folders(image_dir: Path, mask_dir: Path) -> None:
    for folder in (image_dir, mask_dir):
        if not folder.is_dir():
            raise DatasetError(f"{folder}: the folder does not exist")
    if image_dir.resolve().is_relative_to(mask_dir.resolve()):
        raise DatasetError(f"{image_dir}: the images lie in the folder of masks, {mask_dir}: nothing tells them apart")


def _by_image(mask_dir: Path, image_dir: Path, images: Collection[Path]) -> dict[Path, list[Path]]:
    """Masks of each image, by its path without suffix; every file has to be a mask of one.

    Files whose name begins with a dot are none of anybody's (desktops leave them).
    """
    names = {image.relative_to(image_dir).with_suffix("") for image in images}
    found: dict[Path, list[Path]] = {}
    orphans = []
    for path in sorted(path for path in mask_dir.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.suffix.lower() not in _MASK_SUFFIXES:
            raise DatasetError(f"{path}: not a mask: those are {', '.join(_MASK_SUFFIXES)}, which lose nothing")
        whole = path.relative_to(mask_dir).with_suffix("")
        name = whole if whole in names else whole.parent
        if name not in names:
            orphans.append(path)
        elif name in found and (name == whole or found[name][0].parent != path.parent):
            raise DatasetError(f"{path}: its image has a mask already, {found[name][0]}")
        else:
            found.setdefault(name, []).append(path)
    if orphans:
        raise DatasetError(
            f"{orphans[0]}: no image goes with this mask"
            + (f", nor with {len(orphans) - 1} more" if orphans[1:] else "")
        )
    return found


def _common_size(image: Path, masks: Mapping[Path, np.ndarray]) -> tuple[int, int]:
    """Size (h, w) of an image and its masks; an upright image counts as upright where its masks do."""
    first = next(iter(masks.values()), None)
    height, width = load_image(image, expected_size=None if first is None else first.shape).shape[:2]
    for mask, values in masks.items():
        if values.shape != (height, width):
            raise DatasetError(
                f"{mask}: is {values.shape[1]} x {values.shape[0]} pixels (width x height), not {width} x {height}"
            )
    return height, width


def _read_values(path: Path, ignored: Collection[int]) -> np.ndarray:
    """Read a mask picture: int64 [h, w]."""
    data = read_image_file(path)
    numbered = _with_numbers_as_colours(data)
    picture = decode_as_stored(path, numbered or data, cv2.IMREAD_UNCHANGED)
    if picture.ndim == 3:
        blue, green, red = (picture[..., channel].astype(np.int64) for channel in range(3))
        values = blue if numbered else red << 16 | green << 8 | blue
    else:
        values = picture.astype(np.int64)
    values[np.isin(values, list(ignored))] = 0
    return np.asarray(values)


def _with_numbers_as_colours(data: bytes) -> bytes | None:
    """Give number i of a palette PNG the colour (i, i, i); None for anything else (PNG, sections 5 and 11.2).

    OpenCV hands out colours, and different numbers may have one: unused ones are often black, as background is.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25:26] != b"\3":
        return None
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"PLTE":
            body = kind + bytes(number for number in range(length // 3) for _ in range(3))
            return data[: position + 4] + body + struct.pack(">I", zlib.crc32(body)) + data[position + 12 + length :]
        position += 12 + length
    return None


def _objects(values: np.ndarray, *, is_split: bool) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the value and the pixels, bool [h, w], of every object."""
    for value in np.unique(values).tolist():
        if value == 0:
            continue
        pixels = values == value
        if not is_split:
            yield value, pixels
            continue
        count, regions = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
        for region in range(1, count):
            yield value, regions == region


def _fields(pixels: np.ndarray) -> dict[str, Any]:
    columns, rows = np.flatnonzero(pixels.any(axis=0)), np.flatnonzero(pixels.any(axis=1))
    x, y, right, bottom = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    encoded = coco_mask.encode(np.asfortranarray(pixels, np.uint8))
    return {
        "bbox": [x, y, right - x, bottom - y],
        "area": int(pixels.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(pixels.shape), "counts": encoded["counts"].decode()},
    }
