"""Plots of an evaluation as SVG text, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from mrcnn_eval.mistakes.counts import Calibration
from mrcnn_eval.report.tables import HEADINGS
from mrcnn_eval.scoring.coco_evaluator import IouType
from mrcnn_eval.scoring.precision_recall import PrecisionRecall
from mrcnn_eval.scoring.summary import SINGLE_THRESHOLDS, Measures


class DataUri(str):
    """A picture as text, which pages hold in full, unlike names."""


COLORS = {"bbox": "#0b6e99", "segm": "#c2571a"}
RIGHT_COLOR, WRONG_COLOR = "#2f7fd6", "#e08a00"
RECALLS = np.linspace(0, 1, 101)  # at which COCO's curves are sampled
SIZE = (5.6, 3.6)  # inches
STYLE = {"svg.hashsalt": "mrcnn-eval", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def precision_recall_plot(curves: Mapping[IouType, PrecisionRecall], measures: Measures) -> str:
    """Plot precision over recall, mean over the classes that have objects, at IoU 0.5, 0.75 and as the mean of all."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        for iou_type, curve in curves.items():
            for label, style, rows in _chosen_thresholds(measures):
                precision = curve.precision[rows][..., 0, -1]  # [t, R, K]
                present = precision[0, 0] > -1
                if present.any():
                    mean = precision[:, :, present].mean(axis=(0, 2))
                    axes.plot(RECALLS, mean, style, color=COLORS[iou_type], label=f"{HEADINGS[iou_type]}, {label}")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8, frameon=False)
        return _svg_uri(figure)


def _chosen_thresholds(measures: Measures) -> list[tuple[str, str, np.ndarray]]:
    """Return label, line style and thresholds, bool [T], of each curve to draw."""
    thresholds = np.asarray(measures.iou_thresholds)
    chosen = [("mean over IoU", "-", np.ones(len(thresholds), bool))] if len(thresholds) > 1 else []
    for iou, style in zip(SINGLE_THRESHOLDS.values(), ("--", ":"), strict=True):
        rows = np.isclose(thresholds, iou)
        if rows.any():
            chosen.append((f"IoU {iou:g}", style, rows))
    return chosen


def ap_by_size_plot(stats: Mapping[str, Mapping[str, float]], measures: Measures) -> str:
    """Plot AP of all objects and of each size, boxes beside masks; a size without objects says so."""
    sizes = {"all": "AP"} | {name: f"AP{name}" for name in measures.area_ranges}
    names = {"s": "small", "m": "medium", "l": "large"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot(ylabel="AP", ylim=(0, 1))
        width = 0.8 / len(stats)
        for number, (iou_type, values) in enumerate(stats.items()):
            at = np.arange(len(sizes)) + (number - (len(stats) - 1) / 2) * width
            heights = [max(values[key], 0) for key in sizes.values()]
            bars = axes.bar(at, heights, width, color=COLORS[iou_type], label=HEADINGS[iou_type])
            axes.bar_label(bars, [_text(values[key]) for key in sizes.values()], fontsize=8, padding=2)
        axes.set_xticks(range(len(sizes)), [names.get(size, size) for size in sizes])
        axes.legend(fontsize=8, frameon=False)
        return _svg_uri(figure)


def _text(value: float) -> str:
    return "none" if value < 0 else f"{value:.3f}"


def score_plot(counts: Calibration) -> str:
    """Plot how many detections of each score are right and wrong."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel="score", ylabel="detections", xlim=(0, 1))
        edges = np.linspace(0, 1, len(counts.right) + 1)
        width = edges[1]
        axes.bar(edges[:-1], counts.right, width, align="edge", color=RIGHT_COLOR, label="right (IoU 0.5 or more)")
        axes.bar(edges[:-1], counts.wrong, width, bottom=counts.right, align="edge", color=WRONG_COLOR, label="wrong")
        axes.legend(fontsize=8, frameon=False)
        return _svg_uri(figure)


def calibration_plot(counts: Calibration) -> str:
    """Plot the share of right detections over their mean score; on the diagonal a score is a probability."""
    total = counts.right + counts.wrong
    filled = total > 0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot(xlabel="mean score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle="--", label="calibrated")
        shares = counts.right[filled] / total[filled]
        axes.plot(counts.mean_scores[filled], shares, "o-", color=RIGHT_COLOR, markersize=4, label="detections")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
        return _svg_uri(figure)


def _svg_uri(figure: Any) -> str:
    """Return the figure as a data URI: inline SVGs of several plots would share element ids."""
    text = io.BytesIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return DataUri("data:image/svg+xml;base64," + base64.b64encode(text.getvalue()).decode("ascii"))
