"""Draw curves.png: loss and AP over minutes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from mrcnn_train.record.metrics_log import Row
from mrcnn_train.record.run_files import write_run_file


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Write a PNG: the losses above, box and mask AP below, both over minutes since the start."""
    from matplotlib.figure import Figure  # not pyplot, which looks for a display and keeps every figure

    train = [row for row in rows if row["kind"] == "train"]
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for name in ("total", "rpn_class", "rpn_box", "box_class", "box_reg", "mask"):
        width = 2.0 if name == "total" else 0.8
        above.plot([row["minutes"] for row in train], [row[name] for row in train], label=name, linewidth=width)
    measured = [row for row in evaluations if "val_total" in row]
    if measured:
        x, y = [row["minutes"] for row in measured], [row["val_total"] for row in measured]
        above.plot(x, y, label="validation total", linewidth=2.0, linestyle="--", marker="o", markersize=3)
    above.set_ylabel("loss")
    above.set_yscale("log")
    above.legend(ncols=3, fontsize="small")
    for name, label in (("box_AP", "box AP"), ("mask_AP", "mask AP")):
        points = [(row["minutes"], row[name]) for row in evaluations if name in row]
        if points or name == "box_AP":
            below.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
    below.set_ylim(0, 1)
    below.set_ylabel("AP")
    below.set_xlabel("minutes since the start")
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    png = io.BytesIO()
    figure.savefig(png, dpi=110, format="png")
    write_run_file(path, png.getvalue())
