"""Statistics of a dataset as tables, as lines of text and as plain data, with the buckets and anchors that suit it.

Sizes are in pixels of the files, except those that are called resized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mrcnn_data.statistics.counting import Statistics
from mrcnn_data.statistics.suggestions import Anchors, Suggestions
from mrcnn_data.text import visible

if TYPE_CHECKING:
    from rich.table import Table

PERCENTILES = (0, 5, 25, 50, 75, 95, 100)


def distributions(statistics: Statistics, suggestions: Suggestions) -> dict[str, np.ndarray]:
    """Return the measured values by the name of what they measure; an array may be empty."""
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
    """Make tables for a terminal: classes and distributions."""
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
    """Return options to copy, and how well they suit the dataset compared with the common ones."""
    buckets = str([list(bucket) for bucket in suggestions.buckets]).replace(" ", "")
    lines = [
        f"Suggestions for data.short_edge={suggestions.short_edge} data.max_size={suggestions.max_size}:",
        f"  'data.buckets={buckets}'",
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
    """Return the statistics as plain data, for JSON."""
    suggested = suggestions._asdict()
    return {
        "images": len(statistics.image_sizes),
        "objects": len(statistics.box_sizes),
        "classes": [one._asdict() for one in statistics.classes],
        "percentiles": {
            name: dict(zip(map(str, PERCENTILES), _percentiles(values), strict=False))
            for name, values in distributions(statistics, suggestions).items()
        },
        "suggestions": {
            "canvases": suggested.pop("buckets"),  # the name in files since 0.1.0
            **suggested,
            "anchors": suggestions.anchors and suggestions.anchors._asdict(),
            "common_anchors": suggestions.common_anchors and suggestions.common_anchors._asdict(),
        },
    }
