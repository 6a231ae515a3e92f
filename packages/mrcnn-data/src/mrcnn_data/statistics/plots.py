"""A picture of the statistics of a dataset, with the buckets and anchors that suit it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mrcnn_data.images.geometry import resized_sizes
from mrcnn_data.outputs import write_output
from mrcnn_data.statistics.counting import Statistics
from mrcnn_data.statistics.suggestions import Suggestions
from mrcnn_data.statistics.tables import distributions
from mrcnn_data.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_BARS = 40  # classes; more names would be too small to read
_MAX_NAME = 40  # characters beside a bar
_TICKS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def draw_statistics(path: Path, statistics: Statistics, suggestions: Suggestions) -> None:
    """Write a PNG of six plots.

    Raises:
        OutputError: the file exists and was not written by this product, or the disk refuses.
    """
    from matplotlib.figure import Figure  # pyplot would look for a display and keep every figure

    values = distributions(statistics, suggestions)
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    ((classes, objects, images), (edges, ratios, shares)) = figure.subplots(2, 3)
    _draw_classes(classes, statistics)
    _draw_counts(objects, values["objects per image"])
    _draw_buckets(images, statistics, suggestions)
    anchors = suggestions.anchors
    title = "objects by sqrt(area) of the box, resized"
    _draw_logarithmic(edges, values["box sqrt(area), resized"], title, marks=anchors.sizes if anchors else ())
    title = "objects by height / width of the box"
    _draw_logarithmic(ratios, values["box height / width"], title, marks=anchors.ratios if anchors else ())
    shares.hist(values["mask area / box area"], bins=40, range=(0, 1))
    shares.set_title("objects by share of the box that the mask fills")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100)
    write_output(path, png.getvalue())


def _draw_classes(axes: Axes, statistics: Statistics) -> None:
    most = sorted(statistics.classes, key=lambda one: -one.objects)[:_MAX_BARS]
    names, left = [visible(one.name, limit=_MAX_NAME) for one in most], np.zeros(len(most))
    for label in ("small", "medium", "large"):
        counts = np.array([getattr(one, label) for one in most])
        axes.barh(range(len(most)), counts, left=left, label=label)
        left += counts
    axes.set_yticks(range(len(most)), names, fontsize="small" if len(most) <= 20 else "xx-small", parse_math=False)
    axes.invert_yaxis()
    axes.legend()
    axes.set_title("objects by class" + (f", the {_MAX_BARS} largest" if len(statistics.classes) > _MAX_BARS else ""))


def _draw_counts(axes: Axes, counts: np.ndarray) -> None:
    most = int(counts.max(initial=0))
    step = most // 60 + 1
    axes.hist(counts, bins=np.arange(-0.5, most + step, step))
    axes.set_title("images by number of objects")


def _draw_buckets(axes: Axes, statistics: Statistics, suggestions: Suggestions) -> None:
    from matplotlib.patches import Rectangle

    sizes = resized_sizes(statistics.image_sizes, short_edge=suggestions.short_edge, max_size=suggestions.max_size)
    shapes, counts = np.unique(sizes, axis=0, return_counts=True)
    axes.scatter(shapes[:, 1], shapes[:, 0], s=8 + 200 * counts / counts.max(), alpha=0.5)
    for height, width in suggestions.buckets:
        axes.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="tab:red"))
    limit = 1.05 * max(map(max, suggestions.buckets))
    axes.set(xlim=(0, limit), ylim=(0, limit), xlabel="width", ylabel="height", aspect="equal")
    axes.set_title("images, resized, and suggested buckets")


def _draw_logarithmic(axes: Axes, values: np.ndarray, title: str, *, marks: tuple[float, ...]) -> None:
    if len(values):
        low, high = min(values.min(), *marks), max(values.max(), *marks)
        axes.hist(values, bins=np.geomspace(low / 1.05, high * 1.05, 50))
    for number, mark in enumerate(marks):
        axes.axvline(mark, color="tab:red", linewidth=1, label="" if number else "suggested anchors")
    axes.set_xscale("log")
    ticks = [tick for tick in _TICKS if len(values) and low / 1.1 <= tick <= high * 1.1]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(title)
    if marks:
        axes.legend()
