"""Load the weights that a new run starts from, and report those that did not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from mrcnn_data import visible
from mrcnn_model import MaskRCNN, WeightsReport, load_weights, variable_key
from mrcnn_train.record.run_files import write_run_file

WEIGHTS_FILE = "weights.txt"
NAMES_SHOWN = 4
UNFILLED = "not in the file, start fresh"
OF_CLASSES = "of other classes, start fresh"
UNUSED = "in the file, not used"


def fill_from(path: Path, model: MaskRCNN, *, new_classes: bool, allow_missing: bool) -> WeightsReport:
    """Fill a model from a file or a checkpoint, and print how well the two fit.

    Args:
        new_classes: do not fill the layers over classes.
        allow_missing: accept a file that fills only a small part of the model.

    Raises:
        CheckpointError: the file is missing or incomplete, or belongs to another model.
    """
    report = load_weights(model, path, new_classes=new_classes, allow_missing=allow_missing)
    for line in describe_weights(report, keys=[variable_key(variable) for variable in model.variables]):
        print(f"weights: {visible(line, limit=2000)}", flush=True)
    return report


def describe_weights(report: WeightsReport, *, keys: Sequence[str]) -> Iterator[str]:
    """Yield a few lines that say which of the model's variables were filled.

    If the file has a backbone only, the variables of the heads are counted, not named.

    Args:
        keys: names of all variables of the model.
    """
    yield f"{len(keys) - len(report.unfilled)} of {len(keys)} variables filled"
    unfilled = [key for key in report.unfilled if key not in report.reinitialised]
    heads = {key for key in keys if not key.startswith("backbone.")}
    if heads.issubset(unfilled):
        yield f"a backbone only: the {len(heads)} variables after it start fresh"
        unfilled = [key for key in unfilled if key not in heads]
    unused = [name for name in report.unused if name not in report.reinitialised]
    for what, names in ((OF_CLASSES, report.reinitialised), (UNFILLED, unfilled), (UNUSED, unused)):
        if names:
            more = f", ... (all in {WEIGHTS_FILE})" if len(names) > NAMES_SHOWN else ""
            yield f"{len(names)} {what}: {', '.join(names[:NAMES_SHOWN])}{more}"
    for line in report.unlike:
        yield f"trained in a network with other options: model.{line}"


def write_weights_report(run_dir: Path, report: WeightsReport) -> None:
    """Write the name of every weight that did not fit to RUN_DIR/weights.txt."""
    parts = ((UNFILLED, report.unfilled), (OF_CLASSES, report.reinitialised), (UNUSED, report.unused))
    lines = []
    for what, names in parts:
        lines += [f"{len(names)} {what}", *(f"  {visible(name)}" for name in names)]
    write_run_file(run_dir / WEIGHTS_FILE, "\n".join(lines) + "\n")
