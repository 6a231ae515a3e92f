"""An evaluation as text and files: tables, `metrics.json`, the results list."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mrcnn_data import visible, write_output
from mrcnn_eval.scoring.coco_evaluator import EvalResult
from mrcnn_eval.scoring.summary import ALL_AREAS, Measures

HEADINGS = {"bbox": "box", "segm": "mask"}
TABLE_WIDTH = 78  # of ap_table.txt


def ap_tables(result: EvalResult) -> Group:
    """Return the twelve numbers and the AP of every class as rich tables; "-" is where there is nothing to find."""
    return Group(_summary_table(result), _class_table(result))


def _summary_table(result: EvalResult) -> Table:
    table = Table(title=f"COCO AP on {result.num_images} images, {result.num_ground_truths} objects")
    table.add_column("number")
    for iou_type in result.stats:
        table.add_column(HEADINGS[iou_type], justify="right")
    table.add_column("meaning")
    for name in next(iter(result.stats.values())):
        values = [_cell(stats[name]) for stats in result.stats.values()]
        table.add_row(name, *values, meaning(name, result.measures))
    return table


def meaning(name: str, measures: Measures) -> str:
    """Explain the name of a number in a few words.

    >>> meaning("APs", Measures())
    'area up to 32 x 32 px'
    >>> meaning("AR10", Measures())
    'recall, 10 detections per image and class'
    """
    kind, part = name[:2], name[2:]
    recall = "recall, " if kind == "AR" else ""
    if part in measures.area_ranges:
        return recall + _area_meaning(*measures.area_ranges[part])
    if kind == "AR":
        return f"{recall}{part} {'detection' if part == '1' else 'detections'} per image and class"
    if part:
        return f"IoU 0.{part}"
    low, high = measures.iou_thresholds[0], measures.iou_thresholds[-1]
    return f"IoU {low:.2f}" if low == high else f"mean over IoU {low:.2f}:{high:.2f}"


def _area_meaning(low: float, high: float) -> str:
    if low == 0:
        return f"area up to {_area_text(high)} px"
    if high == ALL_AREAS[1]:
        return f"area from {_area_text(low)} px"
    return f"area {_area_text(low)} to {_area_text(high)} px"


def _area_text(area: float) -> str:
    edge = area**0.5
    return f"{edge:g} x {edge:g}" if edge == int(edge) else f"{area:g}"


def _class_table(result: EvalResult) -> Table:
    table = Table(title="By class")
    table.add_column("class", overflow="fold")
    for heading in (HEADINGS[iou_type] for iou_type in result.per_class):
        table.add_column(f"{heading} AP", justify="right")
        table.add_column(f"{heading} AP50", justify="right")
    for name in next(iter(result.per_class.values())):
        scores = [classes[name] for classes in result.per_class.values()]
        table.add_row(foreign(name), *(_cell(stats[key]) for stats in scores for key in ("AP", "AP50")))
    return table


def foreign(text: object) -> Text:
    """Return text from a file for a table: escaped, and not read as markup or as the code of an emoji."""
    return Text(visible(text))


def _cell(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"


def write_ap_table(path: Path, result: EvalResult) -> None:
    """Write the tables as plain text."""
    text = io.StringIO()
    # In a notebook, rich would show the tables there instead.
    Console(file=text, width=TABLE_WIDTH, force_jupyter=False).print(ap_tables(result))
    write_output(path, text.getvalue().encode("utf-8"))


def metrics_content(result: EvalResult, *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `metrics.json` holds: `bbox` and `segm` by name, then by class, and the settings behind them."""
    return {
        **result.stats,
        "per_class": result.per_class,
        "num_images": result.num_images,
        "num_ground_truths": result.num_ground_truths,
        "num_detections": result.num_detections,
        "max_dets": result.measures.max_dets,
        "iou_thresholds": result.measures.iou_thresholds,
        "area_ranges": result.measures.area_ranges,
        "warnings": result.warnings,
        "settings": settings,
    }


def write_metrics(path: Path, result: EvalResult, *, settings: Mapping[str, Any]) -> None:
    """Write `metrics_content` as JSON."""
    write_json(path, metrics_content(result, settings=settings))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON."""
    write_output(path, msgspec.json.format(msgspec.json.encode(content), indent=2))


def write_results(path: Path, results: list[dict[str, Any]]) -> None:
    """Write a COCO results list, unrounded, as pycocotools' `loadRes` reads it."""
    write_output(path, msgspec.json.encode(results))
