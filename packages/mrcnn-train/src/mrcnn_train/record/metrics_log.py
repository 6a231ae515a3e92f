"""Log the numbers of a run: to metrics.jsonl, to TensorBoard, and in memory for curves and report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorboard.plugins.image.metadata import create_summary_metadata

from mrcnn_data.images import read_header

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_DIR = "tensorboard"

Row = dict[str, Any]


class MetricsLog:
    """Writes rows of three kinds, "train", "epoch" and "evaluation"; each has `step` (updates done) and `minutes`.

    Args:
        start_step: rows after this step are removed, because the resumed run repeats those steps.

    Attributes:
        rows: all rows, also those of earlier launches of the run.
    """

    def __init__(self, run_dir: Path, *, start_step: int) -> None:
        self._path = run_dir / METRICS_FILE
        self.rows: list[Row] = [row for row in read_rows(self._path) if row["step"] <= start_step]
        partial = self._path.with_name(METRICS_FILE + ".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        partial.replace(self._path)
        self._writer = tf.summary.create_file_writer(str(run_dir / TENSORBOARD_DIR))

    def write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Append one row."""
        row = {"kind": kind, "step": step, **values}
        self.rows.append(row)
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        with self._writer.as_default(step=step):
            for name, value in values.items():
                tf.summary.scalar(f"{kind}/{name}", value)
        self._writer.flush()

    def histograms(self, step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Show distributions in TensorBoard. Their tags differ from those of scalars: a tag can have one kind only."""
        with self._writer.as_default(step=step):
            for name, sample in values.items():
                tf.summary.histogram(f"distribution/{name}", sample)

    def picture(self, step: int, name: str, png: Path) -> None:
        """Show a PNG file in TensorBoard without encoding it again, which takes `tf.summary.image` a second."""
        header = read_header(png)
        assert header is not None, f"{png} is not a picture"
        height, width = map(str, header.size)
        metadata = create_summary_metadata(display_name=None, description="")
        with self._writer.as_default(step=step):
            tf.summary.write(name, tf.constant([width, height, png.read_bytes()]), metadata=metadata)

    def close(self) -> None:
        self._writer.close()


def read_rows(path: Path) -> list[Row]:
    """Read a metrics file up to a line that was cut off; no rows if the file does not exist."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
