"""A clean annotation file from a faulty one, and a list of what was changed.

The reader of `mrcnn_data.annotations` decides which entries are kept, so a fix keeps all that training or scoring uses:
ids, boxes, segmentations and flags become what it reads. Everything else stays as it is written.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mrcnn_data.annotations.columns import Columns, Id, ids_of
from mrcnn_data.annotations.dataset import CocoDataset
from mrcnn_data.annotations.file import FileContent, Places, is_area, read_annotations
from mrcnn_data.annotations.ids import as_id, whole_number
from mrcnn_data.annotations.opening import Source, open_columns
from mrcnn_data.annotations.text import AnnotationText
from mrcnn_data.checks.checking import UNREADABLE, WRONG_SIZE, look_at_image
from mrcnn_data.checks.rewriting import make_crowds_objects, make_ids_text_if_mixed, make_one_class, rewrite_boxes
from mrcnn_data.errors import DatasetError
from mrcnn_data.images.files import found_elsewhere, leads_out, missing_files
from mrcnn_data.json_file import decode_json, other_layout
from mrcnn_data.masks.rasterising import pixel_area
from mrcnn_data.masks.segmentation import Segmentation, decode_segmentation, to_coco
from mrcnn_data.outputs import check_outputs, write_output
from mrcnn_data.text import visible

MAX_REMOVED = 0.1  # part of the annotations that a fix removes without being asked again
_ROUNDING = 1.0  # pixels; boxes that stick out by less stay as they are
Entry = dict[str, Any]


class Fixed(NamedTuple):
    """A clean file.

    Attributes:
        content: its JSON.
        changes: one line each.
        num_annotations: of the file before.
        clipped: how many boxes were clipped to their image. Training clips them anyway, but an evaluation scores the
            boxes as they are in its file, so it scores the two files differently.
    """

    content: bytes
    changes: list[str]
    num_annotations: int
    clipped: int


def changes_path(out: str | os.PathLike[str]) -> Path:
    """Return where `write_fixed` lists the changes."""
    return Path(out).with_suffix(".changes.txt")


def write_fixed(
    source: Source,
    out: str | os.PathLike[str],
    *,
    one_class: str | None = None,
    boxes: str | None = None,
    crowds_are_objects: bool = False,
    force: bool = False,
) -> Fixed:
    """Write the clean file, and beside it OUT.changes.txt with one line for every change.


    Args:
        source: the file to repair, which stays as it is.
        out: the file to write.
        one_class: the name of the one class that all objects get, whatever their categories are.
        boxes: one of `BOX_KINDS`: what the boxes are, or "masks" to take them from the masks.
        crowds_are_objects: write iscrowd 0 everywhere: some tools write 1 for every mask.
        force: write also if more than a tenth of the annotations would be removed.
    Raises:
        DatasetError: the file is not JSON or not COCO, too little is left of it, or `out` is the file itself.
        OutputError: one of the two exists and was not written by this product, or the disk refuses.
    """
    out = Path(out)
    if out.exists() and out.samefile(source.annotation_path):
        raise DatasetError(f"{out} is the file to be repaired: give another name")
    fixed = fix_annotations(source, one_class=one_class, boxes=boxes, crowds_are_objects=crowds_are_objects)
    if not force:
        _require_few_removed(fixed, source.annotation_path)
    changes = changes_path(out)
    check_outputs([out, changes])
    write_output(out, fixed.content)
    write_output(changes, "".join(f"{visible(change, limit=2000)}\n" for change in fixed.changes).encode())
    return fixed


def _require_few_removed(fixed: Fixed, path: Path) -> None:
    removed = [change for change in fixed.changes if change.startswith("annotation ") and ": removed" in change]
    if len(removed) <= MAX_REMOVED * fixed.num_annotations:
        return
    reasons = Counter(change.partition(": removed")[2].lstrip(": ").partition(" '")[0] for change in removed)
    (reason, count), *_ = reasons.most_common(1)
    raise DatasetError(
        f"{path}: the fix would remove {len(removed)} of {fixed.num_annotations} annotations, {count} of them because: "
        f"{reason}. Nothing was written. If this is wanted, give --force; OUT.changes.txt then lists them"
    )


def fix_annotations(
    source: Source, *, one_class: str | None = None, boxes: str | None = None, crowds_are_objects: bool = False
) -> Fixed:
    """Remove the entries that cannot be used, and repair the others; the options are those of `write_fixed`.

    Raises:
        DatasetError: the file is not JSON or not COCO, nothing is left of it, or two categories of different names have
            the same id.
    """
    changes: list[str] = []
    content = _read(source.annotation_path)
    num_annotations = len(content["annotations"])
    if one_class is not None:
        make_one_class(content, one_class, changes)
    if crowds_are_objects:
        make_crowds_objects(content, changes)
    if boxes is not None:
        rewrite_boxes(content, boxes, source.annotation_path, changes)
    make_ids_text_if_mixed(content, source.annotation_path, changes)
    _require_one_name_per_id(content["categories"], source.annotation_path)
    read = read_annotations(source.annotation_path, data=msgspec.json.encode(content))
    places = read.places
    assert places is not None
    _note_removed_entries(content, read, changes)
    columns = _with_found_names(read.columns, source.image_dir)
    dataset = CocoDataset(open_columns(columns, read.report, source, on_error="skip", allow_errors=True))
    usable = _usable_images(dataset, changes)
    if not usable.any():
        raise DatasetError(f"{source.annotation_path}: none of its images can be used")
    content["categories"] = _categories(content["categories"], dataset, places, changes)
    content["images"] = _images(content["images"], dataset, places, usable, changes)
    content["annotations"] = _annotations(content["annotations"], dataset, places, usable, changes)
    return Fixed(msgspec.json.encode(content), changes, num_annotations, _count_clipped(dataset, usable))


def _count_clipped(dataset: CocoDataset, usable: np.ndarray) -> int:
    """Count the kept boxes that stick out of their image by more than rounding; `usable`: which images are kept."""
    table = dataset.annotations
    is_kept = np.repeat(usable, np.diff(table.offsets)) & (table.is_object | table.is_region)  # [A]
    corners = table.boxes_xywh.copy()
    corners[:, 2:] += corners[:, :2]
    return int((is_kept & (np.abs(corners - table.boxes) > _ROUNDING).any(axis=1)).sum())


def _with_found_names(columns: Columns, image_dir: Path) -> Columns:
    """Replace names of missing files, and names that lead out, by those that are found; see `found_elsewhere`."""
    absent = {columns.file_names[index] for index in missing_files(columns.file_names, image_dir)}
    missing = [name for name in columns.file_names if name in absent or leads_out(name)]
    found = found_elsewhere(missing, image_dir) if missing else None
    if found is None:
        return columns
    return columns._replace(file_names=[found.names.get(name, name) for name in columns.file_names])


def _read(path: Path) -> dict[str, Any]:
    content = decode_json(path, AnnotationText(path).whole())
    reason = other_layout(content)
    if reason is not None:
        raise DatasetError(f"{path} is not a COCO instances file: {reason}")
    return dict(content)


def _require_one_name_per_id(categories: list[Any], path: Path) -> None:
    """Refuse to join two categories: which of the two an annotation means is not in the file."""
    names: dict[int, Any] = {}
    for entry in categories:
        category_id = whole_number(entry.get("id")) if isinstance(entry, dict) else None
        name = None if category_id is None else entry.get("name")
        if category_id is not None and name is not None and names.setdefault(category_id, name) != name:
            raise DatasetError(
                f"{path}: category id {category_id} stands for both {names[category_id]!r} and {name!r}: give one of "
                "them another id, also in its annotations"
            )


def _note_removed_entries(content: Mapping[str, list[Any]], read: FileContent, changes: list[str]) -> None:
    """Why the reader does not use an entry."""
    assert read.places is not None
    for what, name in (("category", "categories"), ("image", "images")):
        for place in _others(content[name], getattr(read.places, name)):
            entry = content[name][place]
            item = as_id(entry.get("id")) if isinstance(entry, dict) else None
            if item is None or (what == "category" and whole_number(item) is None):
                why = "cannot be read"
            else:
                has_name = what == "category" or entry.get("file_name")
                why = "its id occurs twice" if has_name else "no file_name"
            changes.append(f"{what} number {place}: removed: {why}")
    known = set(read.columns.category_ids)
    for place in _others(content["annotations"], read.places.annotations.tolist()):
        changes.append(_why_not_used(content["annotations"][place], place, known))


def _others(entries: list[Any], kept: Sequence[int]) -> list[int]:
    return sorted(set(range(len(entries))) - set(kept))


def _why_not_used(entry: Any, place: int, known_categories: set[int]) -> str:
    image_id = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
    category_id = whole_number(entry.get("category_id")) if isinstance(entry, dict) else None
    if image_id is None or category_id is None:
        return f"annotation number {place}: removed: cannot be read"
    name = f"annotation {as_id(entry.get('id'))}"
    if category_id in known_categories:
        return f"{name}: removed: its image {image_id!r} is not in the list"
    return f"{name}: removed: its category {category_id!r} is not in the list"


def _usable_images(dataset: CocoDataset, changes: list[str]) -> np.ndarray:
    """Return which images have a readable file of the annotated size, bool [I]; list the others in `changes`."""
    usable = np.ones(len(dataset), bool)
    for index, image_id in enumerate(dataset.image_ids):
        kind, line = look_at_image(dataset, index)
        if not dataset.image_path(index).is_file():
            kind, line = UNREADABLE, f"{dataset.file_names[index]} is missing"
        if kind in (UNREADABLE, WRONG_SIZE):
            changes.append(f"image {image_id}: removed: {line}")
            usable[index] = False
    return usable


def _categories(entries: list[Any], dataset: CocoDataset, places: Places, changes: list[str]) -> list[Entry]:
    kept = {}
    for place, category_id, name in zip(places.categories, dataset.category_ids, dataset.class_names, strict=True):
        kept[place] = {**entries[place], "id": category_id, "name": name}
        if entries[place].get("id") != category_id:
            changes.append(f"category {category_id}: id {category_id}")
        if entries[place].get("name") != name:
            changes.append(f"category {category_id}: name {name!r}")
    return [kept[place] for place in sorted(kept)]


def _images(
    entries: list[Any], dataset: CocoDataset, places: Places, usable: np.ndarray, changes: list[str]
) -> list[Entry]:
    kept = []
    for index in np.flatnonzero(usable).tolist():
        entry, image_id, name = entries[places.images[index]], dataset.image_ids[index], dataset.file_names[index]
        height, width = map(int, dataset.image_sizes[index])
        if entry.get("id") != image_id:
            changes.append(f"image {image_id}: id {image_id}")
        if entry.get("file_name") != name:
            changes.append(f"image {image_id}: file_name {name}")
        if (entry.get("height"), entry.get("width")) != (height, width):
            changes.append(f"image {image_id}: is {width} x {height} pixels")
        kept.append({**entry, "id": image_id, "file_name": name, "height": height, "width": width})
    return kept


def _annotations(
    entries: list[Any], dataset: CocoDataset, places: Places, usable: np.ndarray, changes: list[str]
) -> list[Entry]:
    table = dataset.annotations
    images = np.repeat(np.arange(len(dataset)), np.diff(table.offsets)).tolist()  # [A]
    ids = _unique_ids(ids_of(table.ids, np.arange(len(images))), places.annotations, changes)
    kept: dict[int, Entry] = {}
    for row, (place, image) in enumerate(zip(places.annotations.tolist(), images, strict=True)):
        if not usable[image]:
            changes.append(f"annotation {ids[row]}: removed: its image cannot be used")
        elif not (table.is_object[row] or table.is_region[row]):
            changes.append(f"annotation {ids[row]}: removed: no usable box")
        else:
            category_id = dataset.category_ids[table.classes[row] - 1]
            links = {"id": ids[row], "image_id": dataset.image_ids[image], "category_id": category_id}
            for name in ("image_id", "category_id"):
                if entries[place][name] != links[name]:
                    changes.append(f"annotation {ids[row]}: {name} {links[name]}")
            kept[place] = _repaired({**entries[place], **links}, dataset, row, image, changes)
    return [kept[place] for place in sorted(kept)]


def _unique_ids(ids: list[Id | None], places: np.ndarray, changes: list[str]) -> list[Id]:
    """Give a new id to each annotation without an id, or with the id of an earlier annotation in the file."""
    free = max((item for item in ids if isinstance(item, int)), default=0) + 1
    unique: dict[int, Id] = {}  # by row
    seen: set[Id] = set()
    for row in np.argsort(places, kind="stable").tolist():
        annotation_id = ids[row]
        if annotation_id is None or annotation_id in seen:
            changes.append(f"annotation {annotation_id}, number {places[row]}: has the id {free} now")
            annotation_id, free = free, free + 1
        seen.add(annotation_id)
        unique[row] = annotation_id
    return [unique[row] for row in range(len(ids))]


def _repaired(entry: Entry, dataset: CocoDataset, row: int, image: int, changes: list[str]) -> Entry:
    """Return the entry with box, segmentation, flags and area as the reader takes them."""
    table = dataset.annotations
    height, width = map(int, dataset.image_sizes[image])
    repaired = dict(entry)
    box = table.boxes[row].astype(np.float64)
    xywh = [float(value) for value in (*box[:2], *(box[2:] - box[:2]))]
    unclipped = table.boxes_xywh[row].tolist()
    if not _is_close(entry.get("bbox"), xywh):
        repaired["bbox"] = unclipped if _is_close(unclipped, xywh) else xywh
    decoded = decode_segmentation(table.segmentations[row], height=height, width=width)
    if decoded.segmentation is None:
        repaired.pop("segmentation", None)
    elif decoded.faults:
        repaired["segmentation"] = to_coco(decoded.segmentation)
    if type(entry.get("iscrowd")) is not int:
        repaired["iscrowd"] = int(table.is_crowd[row])
    if "ignore" in entry and type(entry["ignore"]) is not int:
        repaired["ignore"] = int(table.is_ignored[row])
    area = entry.get("area")
    if not isinstance(area, (int, float)) or isinstance(area, bool) or not is_area(area):
        repaired["area"] = _area(decoded.segmentation, xywh, height=height, width=width)
    for name in ("bbox", "segmentation", "iscrowd", "ignore", "area"):
        if repaired.get(name) != entry.get(name) or (name in repaired) != (name in entry):
            why = f" ({'; '.join(decoded.faults)})" if name == "segmentation" else ""
            what = "removed" if name not in repaired else "repaired" if name == "segmentation" else repaired[name]
            changes.append(f"annotation {entry['id']}: {name} {what}{why}")
    return repaired


def _is_close(bbox: Any, xywh: list[float]) -> bool:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(isinstance(value, (int, float)) for value in bbox):
        return False
    corners, wanted = np.array(bbox, np.float64), np.array(xywh)
    corners[2:] += corners[:2]
    wanted[2:] += wanted[:2]
    return bool((np.abs(corners - wanted) <= _ROUNDING).all())


def _area(segmentation: Segmentation | None, xywh: list[float], *, height: int, width: int) -> float:
    if segmentation is None:
        return xywh[2] * xywh[3]
    return float(pixel_area(segmentation, height=height, width=width))
