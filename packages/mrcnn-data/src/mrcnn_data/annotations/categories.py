"""The categories of a file: names without white space, each listed once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mrcnn_data.annotations.columns import Id
from mrcnn_data.annotations.entries import CategoryEntry
from mrcnn_data.annotations.ids import repeated
from mrcnn_data.errors import DatasetError
from mrcnn_data.report import STOPS_TRAINING, Report

ONE_CLASS_ADVICE = "`mrcnn-data check ROOT SPLIT --one-class NAME --fix OUT.json` makes all objects one class"


def usable_categories(
    path: Path, categories: list[CategoryEntry], report: Report, *, may_be_empty: bool
) -> dict[int, CategoryEntry]:
    """Return the usable categories by their positions in `categories`, sorted by id."""
    if not categories and not may_be_empty:
        raise DatasetError(f"{path}: the list of categories is empty: {ONE_CLASS_ADVICE}")
    _strip_names(categories, report)
    copies = _report_copies(categories, report)
    different = [number for number in range(len(categories)) if number not in copies]
    again = report_repeated(path, "category", [categories[number].id for number in different], report)
    kept = [number for place, number in enumerate(different) if place not in again]
    return {number: categories[number] for number in sorted(kept, key=lambda number: categories[number].id)}


def _strip_names(categories: list[CategoryEntry], report: Report) -> None:
    """Remove white space around names; give a name that is empty the id as its name."""
    for kind, action, is_odd in (
        ("category without a name", "its id is used as its name", lambda name: not name.strip()),
        ("white space around a category's name", "removed", lambda name: name != name.strip()),
    ):
        found = [category for category in categories if is_odd(category.name)]
        for category in found:
            category.name = category.name.strip() or str(category.id)
        where = [f"{category.id} ({category.name})" for category in found]
        report.add(kind, severity="repaired", action=action, where=where, what="category")


def _report_copies(categories: list[CategoryEntry], report: Report) -> set[int]:
    """Report categories that are listed again with the same id and name; return the places of the later ones."""
    seen: set[tuple[int, str]] = set()
    places = []
    for place, category in enumerate(categories):
        if (category.id, category.name) in seen:
            places.append(place)
        seen.add((category.id, category.name))
    where = [f"{categories[place].id} ({categories[place].name})" for place in places]
    action = "read once: id and name are the same"
    report.add("category listed again", severity="repaired", action=action, where=where, what="category")
    return set(places)


def report_repeated(path: Path, what: str, ids: Sequence[Id], report: Report) -> set[int]:
    """Report ids that occur twice; return the places of the later ones."""
    places = repeated(ids)
    report.add(
        f"{what} id that occurs twice",
        severity="error",
        action=STOPS_TRAINING,
        where=[ids[place] for place in places],
        what=what,
        message=f"{path}: {what} id {ids[places[0]]!r} occurs twice" if places else "",
    )
    return set(places)
