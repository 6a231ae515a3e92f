"""Write report.md of a finished run: plan, results and pictures."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from mrcnn_data import visible
from mrcnn_train.record.metrics_log import Row
from mrcnn_train.record.run_files import write_run_file
from mrcnn_train.record.scores import AP_NAMES
from mrcnn_train.training.evaluation import EvaluationFiles


def write_run_report(
    path: Path,
    *,
    name: str,
    plan: str,
    rows: Sequence[Row],
    best: Row | None,
    curves: str,
    files: Mapping[str, EvaluationFiles],
) -> None:
    """Write RUN_DIR/report.md.

    Args:
        plan: text of the plan, as printed before the first step.
        rows: those of metrics.jsonl.
        best: the row of the best evaluation.
        curves: name of the picture beside the report.
        files: names of the files of each validation set, beside the report; those that do not exist are left out.
    """
    train, epochs, evaluations = ([row for row in rows if row["kind"] == k] for k in ("train", "epoch", "evaluation"))
    parts = [
        f"# {visible(name)}",
        _code(plan),
        "## Training",
        _training_table(train, epochs),
        f"![loss and AP over minutes]({curves})",
    ]
    if evaluations:
        parts += ["## Evaluations", _evaluation_table(evaluations, best, sets=list(files))]
    for val, (table, sheet, _) in files.items():
        of_set = f" on {val}" if len(files) > 1 else ""
        if path.with_name(table).exists():
            parts += [f"## AP of the last evaluation{of_set}", _code(path.with_name(table).read_text(encoding="utf-8"))]
        if path.with_name(sheet).exists():
            parts.append(f"![ground truth{of_set}, and predictions beside it]({sheet})")
    write_run_file(path, "\n\n".join(parts) + "\n")


def _training_table(rows: Sequence[Row], epochs: Sequence[Row]) -> str:
    if not rows:
        return "No step was logged."
    last = rows[-1]
    lines = {
        "steps": str(last["step"]),
        "epochs": f"{last['epoch']:.2f}",
        "minutes": f"{last['minutes']:.1f}",
        "images per second, median of the log lines": f"{statistics.median(r['images_per_second'] for r in rows):.2f}",
        "seconds a step waits for data, median": f"{statistics.median(r['data_wait'] for r in rows):.4f}",
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


def _evaluation_table(rows: Sequence[Row], best: Row | None, *, sets: Sequence[str]) -> str:
    """Write a line for each evaluation; with several validation sets, a line for the mean and one for each set."""
    names = [name for name in AP_NAMES if name in rows[-1]]
    has_losses = "val_total" in rows[-1]
    prefixes = {"": ""} if len(sets) == 1 else {"mean": "", **{name: f"{name}/" for name in sets}}
    headings = ["step", "epoch", *(name.replace("_", " ") for name in names)]
    headings += ["validation loss"] * has_losses + [""]
    if len(prefixes) > 1:
        headings.insert(2, "set")
    lines = []
    for row in rows:
        for label, prefix in prefixes.items():
            if any(prefix + name not in row for name in names):
                continue  # a set that was added when the run was resumed
            line = [str(row["step"]), f"{row['epoch']:.2f}", *(f"{row[prefix + name]:.3f}" for name in names)]
            if has_losses:
                line.append(f"{row['val_total']:.3f}" if "val_total" in row and not prefix else "")
            line.append("best" if row is best and not prefix else "")
            if len(prefixes) > 1:
                line.insert(2, label)
            lines.append(line)
    return _table(headings, lines)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (headings, ["---"] * len(headings), *rows))


def _code(text: str) -> str:
    """Make a code block whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}\n{text.strip()}\n{fence}"
