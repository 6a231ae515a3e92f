"""Read entries with other types than COCO's, one by one: repair them if their meaning is clear, else refuse them."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from mrcnn_data.annotations.entries import AnnotationEntry, Box, CategoryEntry, Flag, ImageEntry
from mrcnn_data.annotations.ids import as_id, whole_number
from mrcnn_data.json_file import lenient_decode
from mrcnn_data.report import Report

_TRUE_WORDS = ("true", "yes", "t", "y")


class _RawSegmentation(msgspec.Struct):
    segmentation: msgspec.Raw = msgspec.Raw()


def repaired_image(raw: msgspec.Raw, report: Report, place: int) -> ImageEntry | None:
    """Read the entry at a place in the list of images; return None if it has no id."""
    fields = lenient_decode(raw)
    image_id = as_id(fields.get("id")) if isinstance(fields, dict) else None
    if image_id is None:
        return None
    name = fields.get("file_name")
    _report_text(report, "image", image_id, [fields.get("height"), fields.get("width")])
    return ImageEntry(
        id=image_id,
        file_name=name if isinstance(name, str) else None,
        height=_as_number(fields.get("height")),
        width=_as_number(fields.get("width")),
    )


def repaired_category(raw: msgspec.Raw, report: Report, place: int) -> CategoryEntry | None:
    """Read the entry at a place in the list of categories; return None if its id is not a whole number."""
    fields = lenient_decode(raw)
    category_id = whole_number(fields.get("id")) if isinstance(fields, dict) else None
    if category_id is None:
        return None
    _report_text(report, "category", category_id, [fields["id"]])
    name = fields.get("name")
    if not isinstance(name, (str, int, float)):
        report.add(
            "category without a name",
            severity="repaired",
            action="its id is used as its name",
            where=[category_id],
            what="category",
        )
        name = category_id
    return CategoryEntry(id=category_id, name=str(name))


def repaired_annotation(raw: msgspec.Raw, report: Report, place: int) -> AnnotationEntry | None:
    """Read the entry at a place in the list of annotations; return None without the ids of an image and a category."""
    fields = lenient_decode(raw)
    if not isinstance(fields, dict):
        return None
    image_id, category_id = as_id(fields.get("image_id")), whole_number(fields.get("category_id"))
    if image_id is None or category_id is None:
        return None
    annotation_id = as_id(fields.get("id"))
    label = f"number {place}" if annotation_id is None else annotation_id
    for name in ("iscrowd", "ignore"):
        if not isinstance(fields.get(name), (int, float, type(None))):
            action = 'read as 1 if it is "1", "true" or "yes", else as 0'
            report.add(f"{name} is not 0 or 1", severity="repaired", action=action, where=[label])
    area, bbox = fields.get("area", UNSET), fields.get("bbox")
    numbers = bbox if isinstance(bbox, list) else []
    _report_text(report, "annotation", label, [fields["category_id"], area, *numbers])
    return AnnotationEntry(
        image_id=image_id,
        category_id=category_id,
        id=annotation_id,
        bbox=_as_box(bbox),
        segmentation=msgspec.json.decode(raw, type=_RawSegmentation).segmentation,
        area=area if area is None or area is UNSET else _as_number(area, otherwise=-1.0),
        iscrowd=as_flag(fields.get("iscrowd", UNSET)),
        ignore=as_flag(fields.get("ignore", UNSET)),
    )


def _report_text(report: Report, what: str, label: object, values: list[Any]) -> None:
    """Report an entry if one of its numbers is text."""
    if any(isinstance(value, str) and _as_number(value) is not None for value in values):
        report.add("number written as text", severity="repaired", action="read as the number", where=[label], what=what)


def _as_number(value: Any, *, otherwise: float | None = None) -> float | None:
    """Return a number as it is, and text as the finite number that it spells; else `otherwise`."""
    if not isinstance(value, (int, float, str)) or isinstance(value, bool):
        return otherwise
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return otherwise
    return number if math.isfinite(number) or not isinstance(value, str) else otherwise


def _as_box(value: Any) -> Box | None:
    """Return four values, None for each that is not a number; None for no box, or a list of another length."""
    if value is None or (isinstance(value, list) and len(value) != 4):
        return None
    numbers = [_as_number(number) for number in value] if isinstance(value, list) else [None] * 4
    return numbers[0], numbers[1], numbers[2], numbers[3]


def as_flag(value: Any) -> Flag:
    """Read `iscrowd` or `ignore`: a number or boolean as it is, text as what it says, anything else as 0."""
    if isinstance(value, str):
        number = _as_number(value)
        return value.strip().lower() in _TRUE_WORDS if number is None else number != 0
    return value if isinstance(value, (int, float, type(None), UnsetType)) else 0
