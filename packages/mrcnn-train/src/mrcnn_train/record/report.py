"""The report of a finished run: what was asked for, what came out, and the pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from mrcnn_train.record.headline import AP_NAMES, total_ap
from mrcnn_train.record.metrics_log import Row


def write_run_report(
    path: Path, *, name: str, plan: str, rows: Sequence[Row], curves: str, ap_table: str, contact_sheet: str
) -> None:
    """Write RUN_DIR/report.md.

    Args:
        plan: as printed before the first step.
        rows: of metrics.jsonl.
        curves, ap_table, contact_sheet: file names beside the report; the last two are left out where they are missing.
    """
    train = [row for row in rows if row["kind"] == "train"]
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    epochs = [row for row in rows if row["kind"] == "epoch"]
    parts = [
        f"# {name}",
        _code(plan),
        "## Training",
        _training_table(train, epochs),
        f"![loss and AP over minutes]({curves})",
    ]
    if evaluations:
        parts += ["## Evaluations", _evaluation_table(evaluations)]
    table = path.with_name(ap_table)
    if table.exists():
        parts += ["## AP of the last evaluation", _code(table.read_text())]
    if path.with_name(contact_sheet).exists():
        parts.append(f"![ground truth, and predictions beside it]({contact_sheet})")
    path.write_text("\n\n".join(parts) + "\n")


def _training_table(rows: Sequence[Row], epochs: Sequence[Row]) -> str:
    if not rows:
        return "No step was logged."
    last = rows[-1]
    lines = {
        "steps": str(last["step"]),
        "epochs": f"{last['epoch']:.2f}",
        "minutes": f"{last['minutes']:.1f}",
        "images per second, median of the log lines": f"{statistics.median(r['images_per_second'] for r in rows):.2f}",
        "seconds of a step that data were waited for, median": f"{statistics.median(r['data_wait'] for r in rows):.4f}",
        "loss, first and last line": f"{rows[0]['total']:.3f}, {last['total']:.3f}",
    }
    if epochs:
        speeds = [row["images_per_second"] for row in epochs]
        lines["images per second of an epoch, median and slowest"] = (
            f"{statistics.median(speeds):.2f}, {min(speeds):.2f}"
        )
    if "skipped_steps" in last:
        lines["steps skipped by the loss scale"] = f"{last['skipped_steps']:.0f}"
    return _table(("", ""), list(lines.items()))


def _evaluation_table(rows: Sequence[Row]) -> str:
    best = max(rows, key=total_ap)
    names = [name for name in AP_NAMES if name in best]
    headings = ("step", "epoch", *(name.replace("_", " ") for name in names), "")
    return _table(
        headings,
        [
            (str(r["step"]), f"{r['epoch']:.2f}", *(f"{r[n]:.3f}" for n in names), "best" if r is best else "")
            for r in rows
        ],
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))


def _code(text: str) -> str:
    return f"```\n{text.strip()}\n```"
