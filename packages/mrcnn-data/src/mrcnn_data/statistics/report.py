"""Statistics of a dataset as tables, as plain data and as a picture, with the canvases and anchors that suit it.

Pixels are those of the files, but where they are called resized.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrcnn_data.loading.buckets import Canvas, default_buckets, resized_sizes
from mrcnn_data.outputs import write_output
from mrcnn_data.statistics.counting import Statistics
from mrcnn_data.statistics.suggestions import (
    COMMON_ANCHORS,
    COMMON_RATIOS,
    Anchors,
    fit_of_anchors,
    padding_share,
    suggest_anchors,
    suggest_canvases,
)
from mrcnn_data.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_MAX_NAME = 40  # characters beside a bar
_MOST_BARS = 40  # classes in the picture: more names cannot be read


class Suggestions(NamedTuple):
    """For images resized to `short_edge` and at most `max_size`.

    `padding` and `common_padding`: share of the pixels, with `canvases` and with those of `default_buckets`. `anchors`
    and `common_anchors` are None without objects.
    """

    short_edge: int
    max_size: int
    canvases: list[Canvas]
    padding: float
    common_padding: float
    anchors: Anchors | None
    common_anchors: Anchors | None


def suggestions_for(statistics: Statistics, *, short_edge: int, max_size: int, aspect_classes: int = 3) -> Suggestions:
    """Find canvases and anchors for a dataset and compare them with the common ones."""
    sizes = resized_sizes(statistics.image_sizes, short_edge=short_edge, max_size=max_size)
    canvases = suggest_canvases(sizes, aspect_classes=aspect_classes)
    boxes = statistics.resized_box_sizes(short_edge=short_edge, max_size=max_size)
    return Suggestions(
        short_edge,
        max_size,
        canvases,
        padding=padding_share(sizes, canvases),
        common_padding=padding_share(sizes, default_buckets(short_edge, max_size)),
        anchors=suggest_anchors(boxes) if len(boxes) else None,
        common_anchors=fit_of_anchors(boxes, sizes=COMMON_ANCHORS, ratios=COMMON_RATIOS) if len(boxes) else None,
    )


def distributions(statistics: Statistics, suggestions: Suggestions) -> dict[str, np.ndarray]:
    """The quantities that are worth a distribution, by name; some may be empty."""
    short, long = np.sort(statistics.image_sizes, axis=1).T
    height, width = statistics.box_sizes.T
    resized = statistics.resized_box_sizes(short_edge=suggestions.short_edge, max_size=suggestions.max_size)
    share = statistics.mask_areas / np.maximum(height * width, 1e-9)
    return {
        "image short edge": short,
        "image long / short": long / short,
        "objects per image": statistics.objects_per_image,
        "box sqrt(area)": np.sqrt(height * width),
        "box sqrt(area), resized": np.sqrt(resized.prod(axis=1)),
        "box height / width": height / width,
        "mask sqrt(area)": np.sqrt(statistics.mask_areas[~np.isnan(share)]),
        "mask area / box area": share[~np.isnan(share)],
    }


def statistics_tables(statistics: Statistics, suggestions: Suggestions) -> list[Table]:
    """Tables for a terminal: classes and distributions."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text  # a str would be read as markup, with emoji codes

    title = "Objects of each class (small, medium, large by COCO's areas)"
    classes = Table("id", title=title, box=SIMPLE, collapse_padding=True, pad_edge=False)  # names fit 80 characters
    classes.add_column("class", overflow="fold")
    for column in ("images", "objects", "small", "medium", "large", "no mask", "regions"):
        classes.add_column(column, justify="right")
    for one in statistics.classes:
        counts = (one.images, one.objects, one.small, one.medium, one.large, one.without_mask, one.regions)
        classes.add_row(str(one.category_id), Text(visible(one.name)), *map(str, counts))
    spread = Table("", title="Distributions", box=SIMPLE)
    for percentile in PERCENTILES:
        spread.add_column({0: "least", 50: "median", 100: "most"}.get(percentile, f"{percentile} %"), justify="right")
    for name, values in distributions(statistics, suggestions).items():
        cells = [f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in _percentiles(values)]
        spread.add_row(name, *(cells or ["-"] * len(PERCENTILES)))
    return [classes, spread]


def _percentiles(values: np.ndarray) -> list[float]:
    return list(np.percentile(values, PERCENTILES).tolist()) if len(values) else []


def suggestion_lines(suggestions: Suggestions) -> list[str]:
    """Options to copy, and how well they do beside the common ones."""
    canvases = str([list(canvas) for canvas in suggestions.canvases]).replace(" ", "")
    lines = [
        f"Suggestions for data.short_edge={suggestions.short_edge} data.max_size={suggestions.max_size}:",
        f"  'data.buckets={canvases}'",
        f"    padding: {suggestions.padding:.1%} of the pixels; with the default {suggestions.common_padding:.1%}",
    ]
    anchors, common = suggestions.anchors, suggestions.common_anchors
    if anchors is not None and common is not None:
        lines += [
            f"  'model.anchor_sizes={_listed(anchors.sizes)}' 'model.anchor_ratios={_listed(anchors.ratios)}'",
            f"    IoU of an object and its best anchor, centred: {_fit(anchors)};",
            f"    with {_listed(common.sizes)} and {_listed(common.ratios)}: {_fit(common)}",
        ]
    return lines


def _listed(values: tuple[float, ...]) -> str:
    return "[" + ",".join(f"{value:g}" for value in values) + "]"


def _fit(anchors: Anchors) -> str:
    return f"mean {anchors.mean_iou:.2f}, at least 0.7 for {anchors.share_matched:.0%}"


def statistics_record(statistics: Statistics, suggestions: Suggestions) -> dict[str, Any]:
    """The same as plain data, for JSON."""
    return {
        "images": len(statistics.image_sizes),
        "objects": len(statistics.box_sizes),
        "classes": [one._asdict() for one in statistics.classes],
        "percentiles": {
            name: dict(zip(map(str, PERCENTILES), _percentiles(values), strict=False))
            for name, values in distributions(statistics, suggestions).items()
        },
        "suggestions": {
            **suggestions._asdict(),
            "anchors": suggestions.anchors and suggestions.anchors._asdict(),
            "common_anchors": suggestions.common_anchors and suggestions.common_anchors._asdict(),
        },
    }


def draw_statistics(path: Path, statistics: Statistics, suggestions: Suggestions) -> None:
    """Write a PNG of six plots."""
    from matplotlib.figure import Figure  # no pyplot: it would look for a display and keep every figure

    values = distributions(statistics, suggestions)
    figure = Figure(figsize=(15, 8.5), layout="constrained")
    ((classes, objects, images), (edges, ratios, shares)) = figure.subplots(2, 3)
    _draw_classes(classes, statistics)
    _draw_counts(objects, values["objects per image"])
    _draw_canvases(images, statistics, suggestions)
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
    most = sorted(statistics.classes, key=lambda one: -one.objects)[:_MOST_BARS]
    names, left = [visible(one.name, limit=_MAX_NAME) for one in most], np.zeros(len(most))
    for label in ("small", "medium", "large"):
        counts = np.array([getattr(one, label) for one in most])
        axes.barh(range(len(most)), counts, left=left, label=label)
        left += counts
    axes.set_yticks(range(len(most)), names, fontsize="small" if len(most) <= 20 else "xx-small", parse_math=False)
    axes.invert_yaxis()
    axes.legend()
    axes.set_title("objects by class" + (f", the {_MOST_BARS} largest" if len(statistics.classes) > _MOST_BARS else ""))


def _draw_counts(axes: Axes, counts: np.ndarray) -> None:
    most = int(counts.max(initial=0))
    step = most // 60 + 1
    axes.hist(counts, bins=np.arange(-0.5, most + step, step))
    axes.set_title("images by number of objects")


def _draw_canvases(axes: Axes, statistics: Statistics, suggestions: Suggestions) -> None:
    from matplotlib.patches import Rectangle

    sizes = resized_sizes(statistics.image_sizes, short_edge=suggestions.short_edge, max_size=suggestions.max_size)
    shapes, counts = np.unique(sizes, axis=0, return_counts=True)
    axes.scatter(shapes[:, 1], shapes[:, 0], s=8 + 200 * counts / counts.max(), alpha=0.5)
    for height, width in suggestions.canvases:
        axes.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor="tab:red"))
    limit = 1.05 * max(map(max, suggestions.canvases))
    axes.set(xlim=(0, limit), ylim=(0, limit), xlabel="width", ylabel="height", aspect="equal")
    axes.set_title("images, resized, and suggested canvases")


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


_TICKS = (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
