"""Make annotations from masks that are stored as pictures.

The mask of the image a/b.jpg is MASKS/a/b.png, or all pictures in the folder MASKS/a/b/. A pixel value is a grey value,
a palette index (of PNG), or a colour 0xRRGGBB; 0 is background.
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

from mrcnn_data.errors import DatasetError, OptionError
from mrcnn_data.images.reading import decode_as_stored, load_image, read_image_file
from mrcnn_data.masks.tracing import coco_box, encode_compressed
from mrcnn_data.outputs import write_output

_IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")  # formats that keep every value


class Imported(NamedTuple):
    """`content` of a COCO instances file; `without_mask`: names of images that have no mask, so are background."""

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
    """Make annotations for all images below a folder; masks become compressed run lengths.

    Args:
        image_dir: folder of images; files in `mask_dir` are never images, even if it lies inside.
        mask_dir: folder of masks; every file in it must be the mask of an image.
        class_name: class of all objects, if each value is one object.
        classes: class of each value, if values are classes; then every connected region is an object.
        split_regions: every connected region of a value is an object: for masks with one value.
        ignored: values that are background too.
    Raises:
        DatasetError: the images lie in the folder of masks; there is no image, or no object in any mask; a file in
            `mask_dir` is not a mask or belongs to no image; a mask cannot be read, has another size than its image, or
            has a value that is not in `classes`.
        OptionError: `classes` names 0, which is background, or an ignored value.
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
    """Write the instances file.

    Raises:
        OutputError: the file exists and was not written by this product, or the disk refuses.
    """
    write_output(out, msgspec.json.encode(imported.content))


def _check_values(classes: Mapping[int, str], ignored: Collection[int]) -> None:
    for value, name in classes.items():
        if value == 0:
            raise OptionError(f"0={name}: 0 is the background, choose another value")
        if value in ignored:
            raise OptionError(f"{value}={name}: this value is ignored, so it cannot be a class")


def _check_folders(image_dir: Path, mask_dir: Path) -> None:
    for folder in (image_dir, mask_dir):
        if not folder.is_dir():
            raise DatasetError(f"{folder}: the folder does not exist")
    if image_dir.resolve().is_relative_to(mask_dir.resolve()):
        raise DatasetError(
            f"{image_dir}: the images lie in the folder of masks, {mask_dir}: put them into separate folders"
        )


def _by_image(mask_dir: Path, image_dir: Path, images: Collection[Path]) -> dict[Path, list[Path]]:
    """Return the masks of each image by its path without suffix; skip hidden files (names with a leading dot)."""
    names = {image.relative_to(image_dir).with_suffix("") for image in images}
    found: dict[Path, list[Path]] = {}
    orphans = []
    for path in sorted(path for path in mask_dir.rglob("*") if path.is_file() and not path.name.startswith(".")):
        if path.suffix.lower() not in _MASK_SUFFIXES:
            raise DatasetError(
                f"{path}: not a mask: masks are {', '.join(_MASK_SUFFIXES)} files, which keep every value"
            )
        whole = path.relative_to(mask_dir).with_suffix("")
        name = whole if whole in names else whole.parent
        if name not in names:
            orphans.append(path)
        elif name in found and (name == whole or found[name][0].parent != path.parent):
            raise DatasetError(f"{path}: its image already has a mask, {found[name][0]}")
        else:
            found.setdefault(name, []).append(path)
    if orphans:
        raise DatasetError(
            f"{orphans[0]}: no image belongs to this mask"
            + (f", nor to {len(orphans) - 1} others" if orphans[1:] else "")
        )
    return found


def _common_size(image: Path, masks: Mapping[Path, np.ndarray]) -> tuple[int, int]:
    """Return the size (h, w) of an image and its masks; the image is turned upright if its masks have that size."""
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
    """Give index i of a palette PNG the colour (i, i, i); None for any other file (PNG, sections 5 and 11.2).

    OpenCV returns colours, and several indices may share one: unused ones are often black, as background is.
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
    return {
        "bbox": coco_box(pixels),
        "area": int(pixels.sum()),
        "iscrowd": 0,
        "segmentation": encode_compressed(pixels),
    }
