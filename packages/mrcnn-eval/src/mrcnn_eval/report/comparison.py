"""Another evaluation on the same ground truth, and what differs: by number, by class, by image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from mrcnn_data import visible
from mrcnn_eval.mistakes.counts import best_threshold, image_f1
from mrcnn_eval.mistakes.outcomes import outcomes
from mrcnn_eval.report.tables import HEADINGS, foreign, write_json
from mrcnn_eval.scoring.coco_evaluator import CocoEvaluator, IouType
from mrcnn_eval.scoring.image_results import ResultsError

METRICS, DETECTIONS = "metrics.json", "detections.json"
EVALUATION_DIR = "evaluation"
SHOWN = 10  # classes, and images, in the terminal's tables
CONDITIONS = ("num_images", "num_ground_truths", "max_dets", "iou_thresholds", "area_ranges")


class ComparisonError(ValueError):
    """A directory that holds no evaluation, or one that cannot be compared; one line."""


class OtherRun(NamedTuple):
    """Another evaluation, read from its files.

    Attributes:
        directory: as given.
        metrics: content of its `metrics.json`.
        detections: its COCO results list.
    """

    directory: Path
    metrics: dict[str, Any]
    detections: list[dict[str, Any]]


class Difference(NamedTuple):
    """One number of both runs; -1 where there was nothing to find."""

    name: str
    ours: float
    theirs: float

    @property
    def change(self) -> float | None:
        """Return ours minus theirs, None where one of them is undefined."""
        return self.ours - self.theirs if min(self.ours, self.theirs) >= 0 else None


class Comparison(NamedTuple):
    """What differs between two evaluations.

    Attributes:
        other: directory of the other one.
        notes: what makes the numbers hard to compare, one line each.
        numbers: AP, AP50, ... by IoU type.
        classes: AP by class, by IoU type.
        images: F1 by image (file name, or id), each run at the score where its own F1 over all images is best.
    """

    other: str
    notes: list[str]
    numbers: dict[str, list[Difference]]
    classes: dict[str, list[Difference]]
    images: list[Difference]


def read_other_run(directory: Path) -> OtherRun:
    """Read `metrics.json` and `detections.json` of an evaluation, from its directory or from that of its run.

    Raises:
        ComparisonError: a file that is missing or damaged.
    """
    home = directory if (directory / METRICS).is_file() else directory / EVALUATION_DIR
    metrics = _read(home / METRICS, dict[str, Any])
    _check_metrics(home / METRICS, metrics)
    return OtherRun(directory, metrics, _read(home / DETECTIONS, list[dict[str, Any]]))


def _check_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Require numbers by name for each kind that the file has, for the whole and by class, and settings by name."""
    kinds = [kind for kind in HEADINGS if kind in metrics]
    try:
        for kind in kinds:
            msgspec.convert(metrics[kind], dict[str, float])
            msgspec.convert(metrics["per_class"][kind], dict[str, dict[str, float]])
        msgspec.convert(metrics.get("settings", {}), dict[str, Any])
    except (msgspec.ValidationError, LookupError, TypeError) as error:
        raise ComparisonError(f"--compare {path}: damaged: it lacks numbers or settings: {error}") from error


def _read(path: Path, kind: Any) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ComparisonError(f"--compare {path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ComparisonError(f"--compare {path}: damaged: {error}") from error


def shared_kinds(other: OtherRun, iou_types: Sequence[IouType]) -> list[IouType]:
    """List the kinds of numbers among `iou_types` that the other evaluation has too.

    Raises:
        ComparisonError: there are none.
    """
    shared = [iou_type for iou_type in iou_types if iou_type in other.metrics]
    if not shared:
        wanted = " or ".join(HEADINGS[iou_type] for iou_type in iou_types)
        held = " and ".join(heading for kind, heading in HEADINGS.items() if kind in other.metrics) or "neither"
        raise ComparisonError(
            f"--compare {other.directory}: its {METRICS} has no {wanted} numbers to compare with (it has {held})"
        )
    return shared


def compare(evaluator: CocoEvaluator, metrics: Mapping[str, Any], other: OtherRun) -> Comparison:
    """Compare an evaluation with another one.

    Args:
        evaluator: ours, scored on the images that it holds; its ground truth judges the other's detections too.
        metrics: content of our `metrics.json`.
        other: the other one.

    Raises:
        ComparisonError: the other's detections are on other images or of other classes, or nothing of it is comparable.
    """
    theirs = CocoEvaluator.of(evaluator)
    try:
        theirs.add_results(other.detections)
    except ResultsError as error:
        raise ComparisonError(f"--compare {other.directory}: not on this ground truth: {error}") from error
    shared = shared_kinds(other, evaluator.iou_types)
    images = _scored_images(evaluator, int(metrics["num_images"]))
    return Comparison(
        other=os.fsencode(other.directory).decode("utf-8", "replace"),
        notes=_notes(metrics, other.metrics),
        numbers={
            iou_type: [
                Difference(name, value, other.metrics[iou_type].get(name, -1.0))
                for name, value in metrics[iou_type].items()
            ]
            for iou_type in shared
        },
        classes={
            iou_type: [
                Difference(name, numbers["AP"], other.metrics["per_class"][iou_type].get(name, {}).get("AP", -1.0))
                for name, numbers in metrics["per_class"][iou_type].items()
            ]
            for iou_type in shared
        },
        images=_image_differences(evaluator, theirs, images),
    )


def _notes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    pairs = [(name, ours[name], theirs[name]) for name in CONDITIONS if name in theirs]
    here, there = ours["settings"], theirs.get("settings", {})
    for name in ("score_threshold", "precision"):
        if name in here and name in there:
            pairs.append((name, here[name], there[name]))
    return [
        f"{name.replace('_', ' ')}: {'none' if a is None else a} here, {'none' if b is None else b} there"
        for name, a, b in pairs
        if _as_read(a) != b
    ]


def _as_read(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))  # a tuple becomes a list


def _scored_images(evaluator: CocoEvaluator, num_images: int) -> list[Any]:
    everything = evaluator.ground_truth.image_ids
    return list(everything if num_images == len(everything) else evaluator.image_results)


def _image_differences(ours: CocoEvaluator, theirs: CocoEvaluator, images: list[Any]) -> list[Difference]:
    judged = [outcomes(evaluator, image_ids=images) for evaluator in (ours, theirs)]
    f1 = [image_f1(result, threshold=best_threshold(result)) for result in judged]
    truth = ours.ground_truth
    names = {id_: name or str(id_) for id_, name in zip(truth.image_ids, truth.file_names, strict=True)}
    return [
        Difference(names[image_id], float(a), float(b))
        for image_id, a, b in zip(judged[0].image_ids, *map(np.ndarray.tolist, f1), strict=True)
    ]


def most_changed(differences: list[Difference]) -> list[Difference]:
    """Sort by the size of the change, the largest first, without what did not change or is undefined."""
    return sorted((one for one in differences if one.change), key=lambda one: -abs(one.change or 0.0))


def write_comparison(path: Path, comparison: Comparison) -> None:
    """Write `comparison.json`."""

    def content(differences: list[Difference]) -> dict[str, Any]:
        return {one.name: {"ours": one.ours, "theirs": one.theirs, "change": one.change} for one in differences}

    whole = {
        "other": comparison.other,
        "notes": comparison.notes,
        "numbers": {iou_type: content(numbers) for iou_type, numbers in comparison.numbers.items()},
        "classes": {iou_type: content(classes) for iou_type, classes in comparison.classes.items()},
        "images": content(comparison.images),
    }
    write_json(path, whole)


def comparison_table(comparison: Comparison) -> Table:
    """Return the numbers of both runs, and the classes and images that changed most, as a rich table."""
    table = Table(title=Text(f"Compared with {visible(comparison.other)}", style="table.title"))
    table.add_column("", overflow="fold")
    for heading in ("ours", "theirs", "change"):
        table.add_column(heading, justify="right")
    for iou_type, numbers in comparison.numbers.items():
        _add_rows(table, f"{HEADINGS[iou_type]} ", numbers)
    for iou_type, classes in comparison.classes.items():
        _add_rows(table, f"{HEADINGS[iou_type]} AP of ", most_changed(classes)[:SHOWN])
    _add_rows(table, "F1 of ", most_changed(comparison.images)[:SHOWN])
    return table


def _add_rows(table: Table, prefix: str, differences: list[Difference]) -> None:
    for one in differences:
        values = ("-" if value < 0 else f"{value:.3f}" for value in (one.ours, one.theirs))
        table.add_row(foreign(prefix + one.name), *values, "-" if one.change is None else f"{one.change:+.3f}")
    table.add_section()
