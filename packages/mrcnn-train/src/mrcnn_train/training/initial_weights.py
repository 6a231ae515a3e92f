"""The weights that a new run starts from, and which of them did not meet: some lines shown, all names in a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mrcnn_model import MaskRCNN, WeightsReport, load_weights, variable_key

WEIGHTS_FILE = "weights.txt"
NAMES_SHOWN = 4
UNFILLED = "not in the file, start fresh"
UNUSED = "in the file, not used"


def fill_from(path: Path, model: MaskRCNN) -> WeightsReport:
    """Fill a model from a file or a checkpoint, and print how far the two fit.

    Raises:
        CheckpointError: the file is missing, torn, or of another model.
    """
    report = load_weights(model, path)
    for line in describe_weights(report, keys=[variable_key(variable) for variable in model.variables]):
        print(f"weights: {line}", flush=True)
    return report


def describe_weights(report: WeightsReport, *, keys: Sequence[str]) -> Iterator[str]:
    """Say in a few lines which of the model's `keys` were filled.

    The variables that a backbone file cannot hold are counted, not named.
    """
    yield f"{len(keys) - len(report.unfilled)} of {len(keys)} variables filled"
    unfilled = report.unfilled
    heads = {key for key in keys if not key.startswith("backbone.")}
    if heads.issubset(unfilled):
        yield f"a backbone alone: the {len(heads)} variables after it start fresh"
        unfilled = [key for key in unfilled if key not in heads]
    for what, names in ((UNFILLED, unfilled), (UNUSED, report.unused)):
        if names:
            more = f", ... (all in {WEIGHTS_FILE})" if len(names) > NAMES_SHOWN else ""
            yield f"{len(names)} {what}: {', '.join(names[:NAMES_SHOWN])}{more}"
    for line in report.unlike:
        yield f"not the network they were trained in: model.{line}"


def write_weights_report(run_dir: Path, report: WeightsReport) -> None:
    """Write every name that did not meet its like to RUN_DIR/weights.txt."""
    parts = ((UNFILLED, report.unfilled), (UNUSED, report.unused))
    lines = [line for what, names in parts for line in (f"{len(names)} {what}", *(f"  {name}" for name in names))]
    (run_dir / WEIGHTS_FILE).write_text("\n".join(lines) + "\n")
