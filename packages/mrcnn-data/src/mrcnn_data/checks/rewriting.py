"""Rewrite the content of an annotation file before it is read, where the reader could only guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mrcnn_data.annotations.ids import as_id, as_numbers, places_of, whole_number
from mrcnn_data.annotations.repairs import as_flag
from mrcnn_data.errors import DatasetError
from mrcnn_data.masks.segmentation import decode_segmentation

BOX_KINDS = ("masks", "corners", "fractions", "percentages")


def make_one_class(content: dict[str, Any], name: str, changes: list[str]) -> None:
    """Make all annotations one class, whatever categories the file has."""
    content["categories"] = [{"id": 1, "name": name}]
    content["annotations"] = [
        {**entry, "category_id": 1} if isinstance(entry, dict) else entry for entry in content["annotations"]
    ]
    changes.append(f"all annotations: category 1 ({name})")


def make_crowds_objects(content: dict[str, Any], changes: list[str]) -> None:
    """Make objects of all annotations that say `iscrowd`."""
    crowds = [entry for entry in _objects(content["annotations"]) if as_flag(entry.get("iscrowd"))]
    for entry in crowds:
        entry["iscrowd"] = 0
        changes.append(f"annotation {entry.get('id')}: iscrowd 0")


def make_ids_text_if_mixed(content: dict[str, Any], path: Path, changes: list[str]) -> None:
    """Turn all image ids into text if some are text that is not a number; the reader refuses two types."""
    entries = [entry for entry in content["images"] if isinstance(entry, dict) and as_id(entry.get("id")) is not None]
    ids = [item for entry in entries if (item := as_id(entry["id"])) is not None]
    if len(set(map(type, as_numbers(ids)[0]))) < 2:
        return
    texts = [str(item) for item in ids]
    if len(set(texts)) < len(set(ids)):
        twice = next(text for text, count in Counter(map(str, set(ids))).items() if count > 1)
        raise DatasetError(f"{path}: {twice} and {twice!r} are the ids of two images: give one of them another id")
    for entry, text in zip(entries, texts, strict=True):
        entry["id"] = text
    for entry in content["annotations"]:
        if isinstance(entry, dict) and as_id(entry.get("image_id")) is not None:
            entry["image_id"] = str(as_id(entry["image_id"]))
    changes.append(
        f"all images: ids are text now, because {next(i for i in ids if isinstance(i, str))!r} is not a number"
    )


def rewrite_boxes(content: dict[str, Any], kind: str, path: Path, changes: list[str]) -> None:
    """Turn boxes of another kind into pixels (x, y, width, height).

    Args:
        content: of the file, changed in place.
        kind: "masks": boxes are removed where there is a segmentation, from which the reader then takes them;
            "corners": they are (x1, y1, x2, y2); "fractions" and "percentages": of the width and height of the image,
            and so are polygons.
        path: of the file, for messages.
        changes: gets a line.
    Raises:
        DatasetError: fractions or percentages in an image without width and height.
    """
    parts = {"fractions": 1.0, "percentages": 100.0}
    for entry, size in _with_sizes(content):
        if kind == "masks":
            if _has_mask(entry, size):
                entry.pop("bbox", None)
            continue
        box = [_as_float(value) for value in _list(entry.get("bbox"))]
        if len(box) == 4 and kind == "corners":
            entry["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        if kind in parts:
            scales = [_as_float(edge) / parts[kind] for edge in size]
            if not min(scales) > 0:
                raise DatasetError(
                    f"{path}: image {entry.get('image_id')!r} has no width and height, which {kind} need"
                )
            entry["bbox"] = _scaled(box, scales)
            parts_of = _list(entry.get("segmentation"))
            if parts_of:  # a flat list is one part, as for the reader
                parts_of = parts_of if any(isinstance(part, list) for part in parts_of) else [parts_of]
                entry["segmentation"] = [
                    _scaled([_as_float(value) for value in _list(part)], scales) for part in parts_of
                ]
            entry.pop("area", None)
    changes.append(f"all annotations: boxes {'from masks' if kind == 'masks' else f'rewritten from {kind}'}")


def _with_sizes(content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], tuple[Any, Any]]]:
    """Yield each annotation with (width, height) of the image that the reader finds for it, as written, or None."""
    sizes = {}
    for image in _objects(content["images"]):
        image_id = as_id(image.get("id"))
        if image_id is not None:
            sizes[image_id] = image.get("width"), image.get("height")
    entries = _objects(content["annotations"])
    places, _ = places_of(list(sizes), [as_id(entry.get("image_id")) for entry in entries])
    of_place = [*sizes.values(), (None, None)]  # the last for place -1
    for entry, place in zip(entries, places.tolist(), strict=True):
        yield entry, of_place[place]


def _has_mask(entry: dict[str, Any], size: tuple[Any, Any]) -> bool:
    """Return whether the reader can take a box from the segmentation; `size` (width, height) of the image."""
    width, height = (whole_number(edge) or 0 for edge in size)
    if not entry.get("segmentation") or not (width > 0 and height > 0):
        return False
    raw = msgspec.json.encode(entry["segmentation"])
    return decode_segmentation(raw, height=height, width=width).segmentation is not None


def _objects(entries: list[Any]) -> list[dict[str, Any]]:
    return [entry for entry in entries if isinstance(entry, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_float(value: Any) -> float:
    """Return a number, also from text; NaN for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _scaled(numbers: list[float], scales: list[float]) -> list[float]:
    return [number * scales[place % 2] for place, number in enumerate(numbers)]
