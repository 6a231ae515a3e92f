"""Annotations from masks that lie as pictures beside the images.

For an image a/b.jpg that is MASKS/a/b.png, or every picture in the folder MASKS/a/b/. Values are grey values, palette
numbers, or colours as 0xRRGGBB; 0 is background.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from mrcnn_data.errors import DatasetError
from mrcnn_data.images import load_image

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
    Raises:
        DatasetError: a picture that cannot be read, of another size than its image, without an image, or with a value
            that `classes` lacks.
    """
    names = list(dict.fromkeys(classes.values())) if classes else [class_name]
    category_of = {value: names.index(name) + 1 for value, name in (classes or {}).items()}
    paths = sorted(path for path in image_dir.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise DatasetError(f"{image_dir}: no image files in this folder")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    without_mask: list[str] = []
    used: set[Path] = set()
    for number, path in enumerate(paths, start=1):
        name = path.relative_to(image_dir)
        masks = {mask: _read_values(mask, ignored) for mask in _masks_of(mask_dir / name)}
        height, width = _common_size(path, masks)
        images.append({"id": number, "file_name": name.as_posix(), "height": height, "width": width})
        used.update(masks)
        if not masks:
            without_mask.append(name.as_posix())
        for mask, values in masks.items():
            for value, pixels in _objects(values, is_split=split_regions or classes is not None):
                if classes is not None and value not in category_of:
                    raise DatasetError(f"{mask}: the value {value} is neither a class nor ignored")
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": category_of.get(value, 1)}
                annotations.append({**ids, **_fields(pixels)})
    _refuse_unused(mask_dir, used)
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    return Imported({"images": images, "annotations": annotations, "categories": categories}, without_mask)


def write_imported(out: Path, imported: Imported) -> None:
    """Write the instances file."""
    out.write_bytes(msgspec.json.encode(imported.content))


def _masks_of(path: Path) -> list[Path]:
    """Masks of an image, by its path below the folder of masks."""
    folder = path.with_suffix("")
    if folder.is_dir():
        return sorted(mask for mask in folder.iterdir() if mask.suffix.lower() in _MASK_SUFFIXES)
    found = [folder.with_name(folder.name + suffix) for suffix in _MASK_SUFFIXES]
    return [mask for mask in found if mask.is_file()][:1]


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
    """int64 [h, w]"""
    data = path.read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if picture is None:
        raise DatasetError(f"{path}: cannot decode the mask file")
    if picture.ndim == 3:
        blue, green, red = (picture[..., channel].astype(np.int64) for channel in range(3))
        values = red << 16 | green << 8 | blue
        colours = _palette(data)
        if colours is not None:
            order = np.argsort(colours, kind="stable")  # of equal colours the first number
            values = order[np.searchsorted(colours[order], values)]
    else:
        values = picture.astype(np.int64)
    values[np.isin(values, list(ignored))] = 0
    return np.asarray(values)


def _palette(data: bytes) -> np.ndarray | None:
    """Colours of a palette PNG as 0xRRGGBB, by number: int64 [n]; None for anything else (PNG, sections 5 and 11.2)."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25] != 3:
        return None
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"PLTE":
            entries = np.frombuffer(data, np.uint8, length, position + 8).reshape(-1, 3).astype(np.int64)
            return entries[:, 0] << 16 | entries[:, 1] << 8 | entries[:, 2]
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


def _refuse_unused(mask_dir: Path, used: set[Path]) -> None:
    pictures = sorted(path for path in mask_dir.rglob("*") if path.suffix.lower() in _MASK_SUFFIXES)
    unused = [path for path in pictures if path not in used]
    if unused:
        raise DatasetError(
            f"{unused[0]}: no image goes with this mask" + (f", nor with {len(unused) - 1} more" if unused[1:] else "")
        )
