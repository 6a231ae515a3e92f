"""Several annotation files as one dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrcnn_data.annotations.columns import ConcatenatedSegmentations, compact_ids, ids_of
from mrcnn_data.annotations.opening import Annotations, Opened
from mrcnn_data.errors import DatasetError
from mrcnn_data.report import Report


def concatenated(parts: Sequence[Opened]) -> Opened:
    """Put several files one after the other, with the classes of all of them.

    Raises:
        DatasetError: a category id means different classes in two of them.
    """
    if len(parts) == 1:
        return parts[0]
    categories: dict[int, str] = {}
    report = Report()
    ids = []
    for part in parts:
        ids.append(_add_categories(categories, part))
        report.merge(part.report, source=part.sources[0].annotation_path.name)
        _report_ids(ids[-1], part.categories, report, source=part.sources[0].annotation_path.name)
    return Opened(
        sources=tuple(source for part in parts for source in part.sources),
        source_offsets=np.cumsum([0, *(len(part.image_ids) for part in parts[:-1])]),
        image_ids=[image_id for part in parts for image_id in part.image_ids],
        file_names=[name for part in parts for name in part.file_names],
        image_sizes=np.concatenate([part.image_sizes for part in parts]),
        categories=categories,
        annotations=_concatenated_tables(parts, categories, ids),
        report=report,
    )


def _concatenated_tables(
    parts: Sequence[Opened], categories: Mapping[int, str], ids: Sequence[Mapping[int, int]]
) -> Annotations:
    tables = [part.annotations for part in parts]
    firsts = np.cumsum([0, *(len(table.classes) for table in tables)])
    names = ("boxes", "boxes_xywh", "areas", "is_object", "is_region", "is_crowd", "is_ignored")
    return Annotations(
        offsets=np.concatenate([[0], *(t.offsets[1:] + first for t, first in zip(tables, firsts, strict=False))]),
        ids=compact_ids([item for table in tables for item in ids_of(table.ids, np.arange(len(table.classes)))]),
        classes=np.concatenate(
            [_renumbered(part.annotations.classes, own, categories) for part, own in zip(parts, ids, strict=True)]
        ),
        segmentations=ConcatenatedSegmentations([table.segmentations for table in tables]),
        **{name: np.concatenate([getattr(table, name) for table in tables]) for name in names},
    )


def _add_categories(categories: dict[int, str], part: Opened) -> dict[int, int]:
    """Add the categories of a part to those of the parts before it; return the id that each has in the whole.

    A category with the name of an earlier one is the same, whatever its id.
    """
    path = part.sources[0].annotation_path
    earlier = _ids_by_name(categories) if _ids_by_name(part.categories) else None
    ids = {}
    for category_id, name in part.categories.items():
        ids[category_id] = (earlier or {}).get(name, category_id)
    for category_id, name in part.categories.items():
        if categories.setdefault(ids[category_id], name) != name:
            raise DatasetError(
                f"{path}: category {category_id} is {name!r} here, but {categories[category_id]!r} in the files "
                "before: give it another id, also in its annotations"
            )
    return ids


def _ids_by_name(categories: Mapping[int, str]) -> dict[str, int] | None:
    """Return the id of each name; None if a name occurs twice."""
    ids = {name: category_id for category_id, name in categories.items()}
    return ids if len(ids) == len(categories) else None


def _report_ids(ids: Mapping[int, int], names: Mapping[int, str], report: Report, *, source: str = "") -> None:
    other = [f"{own} -> {new} ({names[own]})" for own, new in ids.items() if own != new]
    report.add(
        "category with another id than in the other data",
        severity="repaired",
        action="matched by its name",
        where=[f"{item} of {source}" if source else item for item in other],
        what="category",
    )


def _renumbered(classes: np.ndarray, ids: Mapping[int, int], categories: Mapping[int, str]) -> np.ndarray:
    """Return classes, int32 [A], in the numbering of all `categories`; `ids` as from `_add_categories`."""
    class_of = {category_id: number for number, category_id in enumerate(sorted(categories), start=1)}
    table = np.array([0, *(class_of.get(ids[category_id], 0) for category_id in sorted(ids))], np.int32)
    return np.asarray(table[classes])


class Matched(NamedTuple):
    """`classes` int32 [A] in the numbering of other categories, and a report of what differs."""

    classes: np.ndarray
    report: Report


def match_classes(
    classes: np.ndarray, own: Mapping[int, str], others: Mapping[int, str], *, name: str, reference: str
) -> Matched:
    """Match the classes of annotations with those of other data or of a model, by name.

    Args:
        classes: int32 [A], numbered as in `own`.
        own, others: names by category id.
        name, reference: of the two, for messages.
    Raises:
        DatasetError: annotations have a class that the others lack, or names that occur twice have other ids.
    """
    ids_by_name = _ids_by_name(others) if _ids_by_name(own) is not None else None
    if ids_by_name is None and dict(own) != dict(others):
        raise DatasetError(f"{name}: its categories differ from those of {reference}, and two have the same name")
    ids = {category_id: (ids_by_name or {}).get(label, category_id) for category_id, label in own.items()}
    unknown = [category_id for category_id, label in own.items() if others.get(ids[category_id]) != label]
    used = {category_id for number, category_id in enumerate(sorted(own), start=1) if (classes == number).any()}
    for category_id in unknown:
        if category_id in used:
            raise DatasetError(
                f"{name} has objects of category {category_id} {own[category_id]!r}, which {reference} does not have "
                f"({', '.join(repr(label) for label in list(others.values())[:8])})"
            )
        ids[category_id] = -1
    report = Report()
    _report_ids({own_id: new for own_id, new in ids.items() if new != -1}, own, report)
    for kind, action, where in (
        (f"category that {reference} does not have, without objects", "left out", [own[item] for item in unknown]),
        (
            f"category of {reference} that is not listed",
            "no object of it is expected",
            [label for category_id, label in others.items() if category_id not in ids.values()],
        ),
    ):
        report.add(kind, severity="note", action=action, where=where, what="category")
    return Matched(_renumbered(classes, ids, others), report)
