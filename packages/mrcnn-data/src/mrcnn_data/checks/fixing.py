"""A clean annotation file from a faulty one, and a list of what was changed.

First entries that cannot be used are taken out and ids made unique, which gives a file that can be opened; then its
boxes, segmentations and fields become what training makes of them. Everything else stays as it is written.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import msgspec
import numpy as np

from mrcnn_data.annotations.columns import ids_of
from mrcnn_data.annotations.dataset import CocoDataset, Source, open_columns
from mrcnn_data.annotations.file import read_annotations
from mrcnn_data.annotations.text import AnnotationText
from mrcnn_data.checks.checking import UNREADABLE, WRONG_SIZE, look_at_image
from mrcnn_data.errors import DatasetError
from mrcnn_data.masks.rasterising import full_mask
from mrcnn_data.masks.segmentation import Polygons, RunLengths, Segmentation, decode_segmentation, strict_json
from mrcnn_data.outputs import check_outputs, write_output
from mrcnn_data.text import visible

_ROUNDING = 1.0  # pixels; boxes that stick out by less stay as they are
Entry = dict[str, Any]


class Fixed(NamedTuple):
    """`content`: JSON of the clean file; `changes`: one line each."""

    content: bytes
    changes: list[str]


def write_fixed(source: Source, out: str | os.PathLike[str]) -> Path:
    """Write the clean file, and beside it OUT.changes.txt with one line for every change; return the latter's path.

    Raises:
        DatasetError: the file is not JSON or not COCO, nothing is left of it, or `out` is the file itself.
        OutputError: one of the two exists and was not written by this product, or the disk refuses.
    """
    out = Path(out)
    if out.exists() and out.samefile(source.annotation_path):
        raise DatasetError(f"{out} is the file to be mended: give another name")
    fixed = fix_annotations(source)
    changes = out.with_suffix(".changes.txt")
    check_outputs([out, changes])
    write_output(out, fixed.content)
    write_output(changes, "".join(f"{visible(change, limit=2000)}\n" for change in fixed.changes).encode())
    return changes


def fix_annotations(source: Source) -> Fixed:
    """Take out what cannot be used, and repair the rest.

    Raises:
        DatasetError: the file is not JSON or not COCO, or nothing is left of it.
    """
    changes: list[str] = []
    content = _read(source.annotation_path)
    content["categories"] = _categories(content["categories"], changes)
    content["images"] = _images(content["images"], source, changes)
    content["annotations"] = _usable_entries(content, changes)
    data = msgspec.json.encode(content)
    columns, report = read_annotations(source.annotation_path, data=data)
    dataset = open_columns(columns, report, source, on_error="raise", allow_errors=True)
    unusable = _unusable_images(dataset, changes)
    content["images"] = _complete_images(content["images"], dataset, unusable, changes)
    content["annotations"] = _repaired(content["annotations"], dataset, unusable, changes)
    if not content["images"]:
        raise DatasetError(f"{source.annotation_path}: none of its images can be used")
    return Fixed(msgspec.json.encode(content), changes)


def _read(path: Path) -> dict[str, Any]:
    data = AnnotationText(path).whole()
    try:
        try:
            content = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            content = msgspec.json.decode(strict_json(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(name), list) for name in ("images", "annotations", "categories")
    ):
        raise DatasetError(f"{path} is not a COCO instances file: it needs lists of images, annotations and categories")
    return content


def _as_whole(value: Any) -> Any:
    """1.0 is 1, as in reading."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_id(value: Any) -> TypeGuard[int | str]:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _categories(entries: list[Any], changes: list[str]) -> list[Entry]:
    kept: dict[int, Entry] = {}
    for position, entry in enumerate(entries):
        category_id = _as_whole(entry.get("id")) if isinstance(entry, dict) else None
        if not isinstance(category_id, int) or isinstance(category_id, bool):
            changes.append(f"category number {position}: removed: cannot be read")
        elif category_id in kept:
            changes.append(f"category {category_id}: {entry.get('name')!r} removed: its id occurs twice")
        else:
            name = entry.get("name")
            if not isinstance(name, str):
                name = str(category_id if not isinstance(name, (int, float)) else name)
                changes.append(f"category {category_id}: named {name!r}")
            kept[category_id] = {**entry, "id": category_id, "name": name}
    return list(kept.values())


def _images(entries: list[Any], source: Source, changes: list[str]) -> list[Entry]:
    kept: dict[int | str, Entry] = {}
    for position, entry in enumerate(entries):
        image_id = _as_whole(entry.get("id")) if isinstance(entry, dict) else None
        if not _is_id(image_id) or not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
            changes.append(f"image number {position}: removed: no id or no file_name")
        elif image_id in kept:
            changes.append(f"image {image_id}: {entry['file_name']} removed: its id occurs twice")
        else:
            name = entry["file_name"].replace("\\", "/")
            if name != entry["file_name"]:
                changes.append(f"image {image_id}: file_name with slashes")
            if not (source.image_dir / name).is_file():
                changes.append(f"image {image_id}: removed: {name} is missing")
                continue
            kept[image_id] = {**entry, "id": image_id, "file_name": name}
    return list(kept.values())


def _usable_entries(content: dict[str, Any], changes: list[str]) -> list[Entry]:
    """Annotations of known images and categories, with ids of their own."""
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    ids = [_as_whole(entry.get("id")) for entry in content["annotations"] if isinstance(entry, dict)]
    free = max((item for item in ids if isinstance(item, int)), default=0) + 1
    seen: set[int | str] = set()
    kept = []
    for position, entry in enumerate(content["annotations"]):
        if not isinstance(entry, dict):
            changes.append(f"annotation number {position}: removed: cannot be read")
            continue
        image_id, category_id = _as_whole(entry.get("image_id")), _as_whole(entry.get("category_id"))
        annotation_id = _as_whole(entry.get("id"))
        if not _is_id(image_id) or image_id not in images:
            changes.append(f"annotation {annotation_id}: removed: its image {image_id!r} is not in the list")
            continue
        if not _is_id(category_id) or category_id not in categories:
            changes.append(f"annotation {annotation_id}: removed: its category {category_id!r} is not in the list")
            continue
        if not _is_id(annotation_id) or annotation_id in seen:
            changes.append(f"annotation {annotation_id}, number {position}: has the id {free} now")
            annotation_id, free = free, free + 1
        seen.add(annotation_id)
        kept.append({**entry, "id": annotation_id, "image_id": image_id, "category_id": category_id})
    return kept


def _unusable_images(dataset: CocoDataset, changes: list[str]) -> set[int]:
    """Numbers of the images whose files cannot be read, or are of another size."""
    unusable = set()
    for index, image_id in enumerate(dataset.image_ids):
        kind, line = look_at_image(dataset, index)
        if kind in (UNREADABLE, WRONG_SIZE):
            changes.append(f"image {image_id}: removed: {line}")
            unusable.add(index)
    return unusable


def _complete_images(entries: list[Entry], dataset: CocoDataset, unusable: set[int], changes: list[str]) -> list[Entry]:
    kept = []
    for index, entry in enumerate(entries):
        if index in unusable:
            continue
        height, width = map(int, dataset.image_sizes[index])
        if (entry.get("height"), entry.get("width")) != (height, width):
            changes.append(f"image {entry['id']}: is {width} x {height} pixels")
        kept.append({**entry, "height": height, "width": width})
    return kept


def _repaired(entries: list[Entry], dataset: CocoDataset, unusable: set[int], changes: list[str]) -> list[Entry]:
    table = dataset.annotations
    images = np.repeat(np.arange(len(dataset)), np.diff(table.offsets)).tolist()  # [A]
    row_of = {annotation_id: row for row, annotation_id in enumerate(ids_of(table.ids, np.arange(len(images))))}
    kept = []
    for entry in entries:
        row = row_of[entry["id"]]
        if images[row] in unusable:
            changes.append(f"annotation {entry['id']}: removed with its image")
        elif not (table.is_object[row] or table.is_region[row]):
            changes.append(f"annotation {entry['id']}: removed: no usable box")
        else:
            height, width = map(int, dataset.image_sizes[images[row]])
            kept.append(_repaired_entry(entry, dataset, row, height=height, width=width, changes=changes))
    return kept


def _repaired_entry(
    entry: Entry, dataset: CocoDataset, row: int, *, height: int, width: int, changes: list[str]
) -> Entry:
    table = dataset.annotations
    repaired = dict(entry)
    box = table.boxes[row].astype(np.float64)
    xywh = [float(value) for value in (*box[:2], *(box[2:] - box[:2]))]
    if not _is_close(entry.get("bbox"), xywh):
        repaired["bbox"] = xywh
    decoded = decode_segmentation(table.segmentations[row], height=height, width=width)
    if table.is_object[row] and decoded.faults:
        if decoded.segmentation is None:
            repaired.pop("segmentation", None)
        else:
            repaired["segmentation"] = _as_json(decoded.segmentation)
    is_crowd = bool(table.is_region[row]) and not entry.get("ignore")
    if type(entry.get("iscrowd")) is not int:
        repaired["iscrowd"] = int(is_crowd)
    if "ignore" in entry and type(entry["ignore"]) is not int:
        repaired["ignore"] = int(bool(table.is_region[row]) and not repaired["iscrowd"])
    area = entry.get("area")
    if not isinstance(area, (int, float)) or isinstance(area, bool) or not 0 <= area < math.inf:
        repaired["area"] = _area(decoded.segmentation, xywh, height=height, width=width)
    for name in ("bbox", "segmentation", "iscrowd", "ignore", "area"):
        if repaired.get(name) != entry.get(name) or (name in repaired) != (name in entry):
            why = f" ({'; '.join(decoded.faults)})" if name == "segmentation" else ""
            what = "removed" if name not in repaired else "mended" if name == "segmentation" else repaired[name]
            changes.append(f"annotation {entry['id']}: {name} {what}{why}")
    return repaired


def _is_close(bbox: Any, xywh: list[float]) -> bool:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
        return False
    corners, wanted = np.array(bbox, np.float64), np.array(xywh)
    corners[2:] += corners[:2]
    wanted[2:] += wanted[:2]
    return bool((np.abs(corners - wanted) <= _ROUNDING).all())


def _as_json(segmentation: Segmentation) -> Any:
    if isinstance(segmentation, Polygons):
        return [part.ravel().tolist() for part in segmentation.parts]
    assert isinstance(segmentation, RunLengths)
    return {"size": [segmentation.height, segmentation.width], "counts": segmentation.counts.tolist()}


def _area(segmentation: Segmentation | None, xywh: list[float], *, height: int, width: int) -> float:
    if segmentation is None:
        return xywh[2] * xywh[3]
    return float(full_mask(segmentation, height=height, width=width).sum())
